"""Trains twice: OUT/whole as it is, and OUT/killed in forks that are SIGKILLed at chosen moments, each going on from
the last. A moment is ["iteration", 7], ["in write", 2], ["before rename", 1], ["after rename", 1] or ["seconds", 0.3].
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from hypersd import atomic, recipe
from hypersd.distill.train import train
from hypersd.distill.watch import Silent

RECIPE = {
    "name": "killed",
    "base": "toy",
    "data": {"kind": "gaussian"},
    "lora": {"rank": 1, "dtype": "fp32"},
    "teacher": {"guidance": [1, 1]},
    "draw": {"visited_share": 0.3, "pure_noise": 0.5},
    "optimiser": {"lr": 0.02, "warmup": 5, "decay": "cosine"},
    "ema": 0.9,
    "batch": 4,
    "micro_batch": 3,
    "checkpoint_every": 6,
    "stages": [
        {"segments": 4, "iterations": 20},
        {"segments": 1, "iterations": 20, "override": {"teacher.follow": "previous"}},
    ],
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAt(Silent):
    """Dies at the n-th update that this process makes, after the optimiser's step."""

    def __init__(self, updates: int) -> None:
        self.left = updates

    def update(self, iteration: int, loss: float, lr: float) -> None:
        self.left -= 1
        if self.left == 0:
            die()


def kill_at_rename(nth: int, after: bool) -> None:
    """Dies just before or just after the n-th rename that makes a file appear."""
    rename, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == nth and not after:
            die()
        rename(source, target)
        if len(calls) == nth:
            die()

    atomic.os.replace = replace


class HalfWritten:
    """A file whose writer dies when half of the bytes are on their way."""

    def __init__(self, path: Path, mode: str) -> None:
        self.file = path.open(mode)

    def __enter__(self) -> HalfWritten:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        die()


def kill_in_write(nth: int) -> None:
    """Dies in the middle of the n-th file that is to appear whole; the log, which may tear, is not counted."""
    calls = []

    def opened(path: Path, mode: str) -> object:
        if mode == "wb":
            calls.append(path)
        return HalfWritten(path, mode) if len(calls) == nth and mode == "wb" else path.open(mode)

    atomic.open = opened


def child(out: Path, moment: tuple[str, float] | None) -> None:
    torch.set_num_threads(1)
    watch = Silent()
    if moment:
        kind, number = moment
        if kind == "iteration":
            watch = KillAt(int(number))
        elif kind == "in write":
            kill_in_write(int(number))
        elif kind != "seconds":
            kill_at_rename(int(number), after=kind == "after rename")
    train(recipe.parse(RECIPE), out, resume=True, watch=watch)


def train_and_kill(out: Path, moments: Sequence[tuple[str, float]]) -> None:
    for folder, moment in [("whole", None), *(("killed", moment) for moment in moments), ("killed", None)]:
        process = os.fork()
        if process == 0:
            child(out / folder, moment)
            os._exit(0)
        by_clock = moment is not None and moment[0] == "seconds"
        if by_clock:
            time.sleep(moment[1])
            os.kill(process, signal.SIGKILL)  # it may have ended: not waited for yet, it can still be named
        _, status = os.waitpid(process, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert killed == (moment is not None) or by_clock, f"{moment}: status {status}"
