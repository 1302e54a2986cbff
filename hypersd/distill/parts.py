"""What a run holds, and what each of its stages does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypersd.bases import Base
from hypersd.diffusion.segments import Segments
from hypersd.distill.data import Data
from hypersd.distill.guard import Guard
from hypersd.distill.losses import Adversary, Loss
from hypersd.distill.step import AVERAGE, STUDENT, Nets
from hypersd.distill.trained import Trained
from hypersd.distill.unproven import Unproven
from hypersd.distill.watch import Watcher
from hypersd.lora.roles import Roles
from hypersd.recipe import Recipe


@dataclass
class Run:
    """Everything that lasts as long as the run."""

    recipe: Recipe
    out: Path
    base: Base
    roles: Roles
    data: Data
    watch: Watcher
    accelerator: Any
    kept: dict[str, int | None]
    """The roles that a checkpoint holds, with their rank; None for a full one."""
    stands_on: dict[str, str]
    """Digests of what it is trained by, by the recipe's key."""
    unproven: Unproven = field(default_factory=Unproven)
    started: float = field(default_factory=time.monotonic)

    @property
    def share(self) -> range:
        """This process's samples of the global batch."""
        rank, world, batch = self.accelerator.process_index, self.accelerator.num_processes, self.recipe.batch
        return range(rank * batch // world, (rank + 1) * batch // world)


@dataclass
class StageParts:
    """Everything that lasts as long as a stage."""

    index: int
    recipe: Recipe
    segments: Segments
    visited: list[list[int]]
    losses: dict[str, Loss]
    nets: Nets
    student: Trained
    opponents: dict[str, Trained]
    """Of the losses that have one, by the loss's name."""
    networks: dict[str, nn.Module]
    """Those that an opponent has beside its roles, likewise."""
    guard: Guard

    @property
    def result(self) -> str:
        """The role that the stage's weights are taken from."""
        return STUDENT if self.recipe.average is None else AVERAGE

    def rate_key(self, name: str) -> str:
        """The recipe's key of the learning rate of the student, or of a loss's opponent."""
        loss = self.losses.get(name)
        return f"losses.{name}.{loss.trains}.lr" if isinstance(loss, Adversary) else "optimiser.lr"

    @property
    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {name: trained.optimiser for name, trained in {STUDENT: self.student, **self.opponents}.items()}
