"""Multistep consistency sampling of LCM (Luo et al. 2023, arXiv 2310.04378, Algorithm 3).

Each step predicts x0 and adds fresh noise for the next timestep. The boundary scalings c_skip and
c_out are those that LCM was trained with; at every timestep used here they are within 1e-5 of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from hypersd.diffusion.grids import begun, check_one_step, strided
from hypersd.diffusion.samplers import Callback, Generators, noise_like
from hypersd.diffusion.schedule import Schedule
from hypersd.diffusion.solver import Predict, full

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


@dataclass(frozen=True)
class Sampler:
    one_step: float | None = None

    def __post_init__(self) -> None:
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
            x0, _ = predict(x, full(t, x))
            denoised = boundary(x, x0, t)
            last = s < 0
            x = denoised if last else schedule.add_noise(denoised, noise_like(x, generators), full(s, x))
            if callback:
                callback(step, t, x0)
        return x


def boundary(x_t: Tensor, x0: Tensor, t: int) -> Tensor:
    """c_skip x_t + c_out x0 (Consistency Models, arXiv 2303.01469, Appendix C)."""
    scaled = t * TIMESTEP_SCALING
    c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    c_out = scaled / (scaled**2 + SIGMA_DATA**2) ** 0.5
    return c_skip * x_t + c_out * x0
