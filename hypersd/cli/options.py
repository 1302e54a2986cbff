"""What several verbs share: the words for a LoRA, lists, file names."""

from __future__ import annotations

import re
from pathlib import Path

OUTPUTS = Path("outputs")
HIGHEST_SEED = 2**63 - 1


def find_lora(lora: str | None, base: str) -> Path | None:
    """`none`, a file, `bundled`; unless said, the bundled one on the bundled base and none on another."""
    from hypersd import bundled

    if lora is None:
        lora = "bundled" if base == "emoji" else "none"
    return None if lora == "none" else bundled.lora(lora)


def numbers(text: str, option: str) -> list[int]:
    """The list that "1,2,4,8" says."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} wants whole numbers with commas between, such as 1,2,4,8; not {text!r}") from None


def decimals(text: str, option: str) -> list[float]:
    """The list that "1,0.7" says."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} wants numbers with commas between, such as 1,0.7; not {text!r}") from None


def check_png(path: Path) -> Path:
    return check_out(path, ".png")


def check_out(path: Path, ending: str) -> Path:
    if path.suffix.lower() != ending:
        raise ValueError(f"--out must name a {ending} file, not {path.name!r}")
    if path.is_dir():
        raise ValueError(f"--out: {path} is a folder")
    return path


def slug(prompt: str, longest: int = 50) -> str:
    """The prompt as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:longest].strip("-") or "picture"


def numbered(path: Path, number: int, count: int) -> Path:
    """`path` itself for one picture, or `path` with the seed in its name for several."""
    return path if count == 1 else path.with_name(f"{path.stem}-seed{number}{path.suffix}")
