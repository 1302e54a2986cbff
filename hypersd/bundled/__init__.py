"""What travels with the package: the miniature base, its LoRA and judges. See README.md beside this file."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent
BASE = ROOT / "emoji-sd"
LORA = ROOT / "hyper-emoji-1to8steps-lora.safetensors"
PROMPTS = ROOT / "prompts.txt"
EVALUATION = ROOT / "evaluation"


def lora(named: str | Path) -> Path:
    """The file that a LoRA's name means: `bundled` is the bundled one, everything else a path."""
    return LORA if str(named) == "bundled" else Path(named)
