"""The solvers that people use on undistilled models: diffusers' own DPM-Solver++(2M) and UniPC, as samplers.

Built on the very ᾱ of our schedule (SD's scaled-linear β), trailing timesteps, everything else as diffusers
sets it. They see ε, whatever the network predicts, so that guidance is the same as everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hypersd.diffusion import samplers
from hypersd.diffusion.grids import trailing
from hypersd.diffusion.samplers import Callback, Generators, Sampler
from hypersd.diffusion.schedule import Schedule
from hypersd.diffusion.solver import Predict, full

SCHEDULERS = {"dpmpp_2m": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}


@dataclass(frozen=True)
class DiffusersSampler:
    """A diffusers scheduler behind the sampler's signature."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)

    def grid(self, steps: int, total: int = 1000) -> list[int]:
        return trailing(steps, total)

    def __call__(
        self,
        predict: Predict,
        schedule: Schedule,
        noise: Tensor,
        grid: Sequence[int],
        generators: Generators = None,
        callback: Callback | None = None,
    ) -> Tensor:
        scheduler = self._scheduler(schedule.alpha.double().cpu() ** 2)
        scheduler.set_timesteps(len(grid))
        x = noise
        for step, t in enumerate(scheduler.timesteps):
            x0, eps = predict(x, full(int(t), x))
            x = scheduler.step(eps, t, x, return_dict=False)[0]
            if callback:
                callback(step, int(t), x0)
        return x

    def _scheduler(self, alphas_cumprod: Tensor) -> Any:
        import diffusers

        before = torch.cat([torch.ones(1, dtype=alphas_cumprod.dtype), alphas_cumprod[:-1]])
        betas = (1 - alphas_cumprod / before).numpy()
        kind = getattr(diffusers, SCHEDULERS[self.name])
        return kind(
            num_train_timesteps=len(betas),
            trained_betas=betas.tolist(),
            timestep_spacing="trailing",
            prediction_type="epsilon",
            **self.settings,
        )


def load(name: str, settings: dict[str, float]) -> Sampler:
    """One of our samplers, or one of diffusers' solvers."""
    return DiffusersSampler(name, dict(settings)) if name in SCHEDULERS else samplers.load(name, **settings)
