"""What is trained, with the optimiser that trains it: the student, and each loss's opponent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hypersd.recipe import Optimiser


@dataclass
class Trained:
    """Parameters and their AdamW. Its learning rate is a function of the iteration, so there is none to save."""

    parameters: Sequence[nn.Parameter]
    settings: Optimiser
    iterations: int
    optimiser: torch.optim.Optimizer

    def clip(self, accelerator: Any) -> float:
        """The mean gradients of all processes, clipped; returns their norm before that."""
        self._average(accelerator)
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_norm))

    def size(self) -> float:
        """The norm of the parameters."""
        return float(torch.nn.utils.get_total_norm(self.parameters))

    def step(self, iteration: int) -> None:
        """One update from the gradients, which it clears."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(iteration)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def rate(self, iteration: int) -> float:
        return learning_rate(self.settings, iteration, self.iterations)

    def _average(self, accelerator: Any) -> None:
        if accelerator.num_processes == 1:
            return
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]  # the same in all
        mean = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
        for gradient, piece in zip(gradients, mean.split([each.numel() for each in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))


def made(parameters: Sequence[nn.Parameter], settings: Optimiser, iterations: int) -> Trained:
    optimiser = torch.optim.AdamW(parameters, settings.lr, settings.betas, weight_decay=settings.weight_decay)
    return Trained(parameters, settings, iterations, optimiser)


def learning_rate(settings: Optimiser, iteration: int, total: int) -> float:
    """Linear warm-up, then constant or a half cosine to 0."""
    warm = min(1.0, (iteration + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.decay == "constant":
        return settings.lr * warm
    left = 1 - max(0, iteration - settings.warmup) / max(1, total - settings.warmup)
    return settings.lr * warm * 0.5 * (1 - math.cos(math.pi * left))
