"""What a run left in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open


def contents(path: Path):
    """Tensors and header."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def losses(out: Path) -> list[tuple[int, int, float]]:
    """Stage, iteration and loss of each line of the log."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["stage"], line["iteration"], line["loss"]) for line in lines]
