"""DDIM on the trailing grid, η = 0: the reference sampler (Song et al. 2021, arXiv 2010.02502).

The same algorithm as Euler with "sgm_uniform" in ComfyUI and Forge and as DDIM trailing in OpenVINO,
for 1, 2, 4, 5 and 8 steps of an ε-model. Consecutive timesteps are explicit pairs: diffusers steps by
T // N instead, and so misses its own grid by one at 3, 6 and 7 steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from hypersd.diffusion.grids import begun, check_one_step, trailing
from hypersd.diffusion.samplers import Callback, Generators
from hypersd.diffusion.schedule import Schedule
from hypersd.diffusion.solver import Predict, full, jump


@dataclass(frozen=True)
class Sampler:
    one_step: float | None = None

    def __post_init__(self) -> None:
        check_one_step(self.one_step)

    def grid(self, steps: int, total: int = 1000) -> list[int]:
        return begun(trailing(steps, total), self.one_step, total)

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
            x = jump(schedule, x0, eps, full(s, x))
            if callback:
                callback(step, t, x0)
        return x
