"""Strategic stochastic sampling of TCD (Zheng et al. 2024, arXiv 2402.19159, Algorithm 4).

Each step jumps past its destination, to ⌊(1 − η)·s⌋, and returns to s by adding noise. η = 0 is DDIM
on this grid; η = 1 jumps to the clean end each time, like a multistep consistency model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from hypersd.diffusion.grids import begun, check_one_step, strided
from hypersd.diffusion.samplers import Callback, Generators, noise_like
from hypersd.diffusion.schedule import Schedule
from hypersd.diffusion.solver import Predict, full, jump, renoise


@dataclass(frozen=True)
class Sampler:
    eta: float = 0.3
    one_step: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be from 0 to 1, not {self.eta}")
        check_one_step(self.one_step)

    def grid(self, steps: int, total: int = 1000) -> list[int]:
        return begun(strided(steps, total), self.one_step, total)

    def __call__(
        self,
        predict: Predict,
        schedule: Schedule,
        noise: Tensor,
        grid: Sequence[int],
        generators: Generators = None,
        callback: Callback | None = None,
    ) -> Tensor:
        x = noise
        for step, (t, s) in enumerate(pairwise([*grid, -1])):
            x0, eps = predict(x, full(t, x))
            below = full(int((1 - self.eta) * max(s, 0)), x)
            x = jump(schedule, x0, eps, below)
            if s >= 0 and self.eta > 0:
                x = renoise(schedule, x, below, full(s, x), noise_like(x, generators))
            if callback:
                callback(step, t, x0)
        return x
