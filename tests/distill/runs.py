"""What a run left in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from torch import Tensor

from hypersd.distill import checkpoint
from hypersd.distill.train import train
from hypersd.distill.watch import Silent
from hypersd.recipe import Recipe


def contents(path: Path):
    """Tensors and header."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def losses(out: Path) -> list[tuple[int, int, float]]:
    """Stage, iteration and loss of each line of the log."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["stage"], line["iteration"], line["loss"]) for line in lines]


class Cut(Silent):
    """Stops a run after so many updates, of all stages."""

    def __init__(self, updates: int) -> None:
        self.left = updates

    def update(self, iteration: int, loss: float, lr: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def whole_and_cut(made: Recipe, out: Path, updates: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The checkpoints of a run, and of the same run cut after so many updates and gone on with."""
    train(made, out / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(made, out / "cut", watch=Cut(updates))
    train(made, out / "cut", resume=True)
    whole, cut = (checkpoint.read(out / name).tensors for name in ("whole", "cut"))
    return whole, cut


def curves(out: Path, window: int) -> dict[str, list[list[float]]]:
    """Each term of the loss: for each stage that has it, means over windows of iterations."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    found: dict[str, list[list[float]]] = {}
    for stage in range(lines[-1]["stage"] + 1):
        terms = [line.get("terms", {"loss": line["loss"]}) for line in lines if line["stage"] == stage]
        for name in terms[0]:
            values = np.array([term[name] for term in terms])
            means = values.reshape(-1, window).mean(1)
            found.setdefault(name, []).append([float(f"{mean:.5g}") for mean in means])
    return found
