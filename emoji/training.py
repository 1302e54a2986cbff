"""What every stage shares: a schedule by steps or by time, checkpoints that resume, a log of losses."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

LOG_EVERY, SAVE_SECONDS = 50, 120.0
LONGEST_UPDATE = 5.0  # seconds that one update may count for: a paused process loses no training time


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(enabled: bool = True) -> torch.autocast:
    return torch.autocast(device().type, torch.bfloat16, enabled=enabled)


def cosine(progress: float, warmup: float = 0.02) -> float:
    """1 after a linear warm-up, falling to 0.02 at progress 1."""
    if progress < warmup:
        return max(progress, 1e-4) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def save_atomically(value: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    torch.save(value, part)
    part.replace(path)


class Run:
    """One stage's training: `steps` updates or `minutes` of work, whichever ends first."""

    def __init__(self, modules: dict[str, nn.Module], *, lr: float, steps: int, minutes: float, path: Path):
        self.modules, self.lr, self.steps, self.seconds, self.path = modules, lr, steps, minutes * 60, path
        parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.step, self.elapsed = 0, 0.0
        self.log: list[dict[str, float]] = []
        self.extra: dict[str, nn.Module] = {}  # saved and restored, not trained: averages
        self._sums: dict[str, float] = {}

    @property
    def progress(self) -> float:
        return max(self.step / self.steps, self.elapsed / self.seconds)

    def state(self) -> dict[str, Any]:
        parts = {name: module.state_dict() for name, module in (self.modules | self.extra).items()}
        facts = {"step": self.step, "elapsed": self.elapsed, "log": self.log}
        return {"modules": parts, "optimizer": self.optimizer.state_dict(), **facts}

    def resume(self) -> None:
        if not self.path.exists():
            return
        state = torch.load(self.path, map_location=device(), weights_only=True)
        for name, module in (self.modules | self.extra).items():
            module.load_state_dict(state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed, self.log = state["step"], state["elapsed"], state["log"]

    def train(self, loss: Callable[[int], dict[str, torch.Tensor]], after: Callable[[], None] = lambda: None) -> None:
        """Minimises `loss(step)["loss"]`; the other entries are logged. Resumes where it was."""
        self.resume()
        saved = time.monotonic()
        while self.progress < 1:
            began = time.monotonic()
            self._update(loss(self.step))
            after()
            self.elapsed += min(time.monotonic() - began, LONGEST_UPDATE)
            if time.monotonic() - saved > SAVE_SECONDS:
                save_atomically(self.state(), self.path)
                saved = time.monotonic()
        save_atomically(self.state(), self.path)

    def _update(self, terms: dict[str, torch.Tensor]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * cosine(self.progress)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.step += 1
        self._note({name: float(value.detach()) for name, value in terms.items()})

    def _note(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value / LOG_EVERY
        if self.step % LOG_EVERY == 0:
            row = {"step": self.step, "seconds": round(self.elapsed), **{k: round(v, 5) for k, v in self._sums.items()}}
            self.log.append(row)
            self._sums = {}
            say(json.dumps(row))


def say(words: str) -> None:
    """Progress, for whoever started the script."""
    print(words, flush=True)
