"""What a run left in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open


def contents(path: Path):
    """Tensors and header."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def losses(out: Path) -> list[tuple[int, int, float]]:
    """Stage, iteration and loss of each line of the log."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["stage"], line["iteration"], line["loss"]) for line in lines]


def curves(out: Path, window: int) -> dict[str, list[list[float]]]:
    """Each term of the loss: for each stage that has it, means over windows of iterations."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    found: dict[str, list[list[float]]] = {}
    for stage in range(lines[-1]["stage"] + 1):
        terms = [line.get("terms", {"loss": line["loss"]}) for line in lines if line["stage"] == stage]
        for name in terms[0]:
            values = np.array([term[name] for term in terms])
            found.setdefault(name, []).append(values.reshape(-1, window).mean(1).round(6).tolist())
    return found
