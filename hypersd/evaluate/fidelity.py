"""Path fidelity: does the student stay on the original path? A number in latents, with no judge at all.

The path is the guided teacher's own probability-flow ODE from one noise, in 200 DDIM steps.

per segment   the student starts on the path at the top of each of k segments and jumps once to the
              segment's start: |student − path| / |path − x_t|, the error over the way that was to go.
              0 is the path itself, 1 is no better than to stay.
from noise    the student draws in N steps: |student − path's end| / |path's end|.

All in float32, one value for each sample; guidance is bound into `predict` (`draw.pipeline.bind`).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from hypersd.diffusion.grids import solver_grid
from hypersd.diffusion.samplers import Generators, Sampler
from hypersd.diffusion.schedule import Schedule
from hypersd.diffusion.solver import Predict, full, jump, ode_step

SUBSTEPS = 200
SEGMENTS = (1, 2, 4, 8)
Path = dict[int, Tensor]
"""Timestep -> the latents where the teacher's path is then."""


@torch.no_grad()
def walk(schedule: Schedule, teacher: Predict, noise: Float[Tensor, "b ..."], substeps: int = SUBSTEPS) -> Path:
    """The teacher's path from t = T − 1 to −1, kept at every substep."""
    descending = [*solver_grid(substeps, schedule.total)[::-1], -1]
    path = {descending[0]: noise}
    for t, s in pairwise(descending):
        path[s] = ode_step(schedule, teacher, path[t], full(t, noise), full(s, noise))
    return path


@torch.no_grad()
def segment_errors(schedule: Schedule, student: Predict, path: Path, k: int) -> Float[Tensor, "k b"]:
    """The relative error of one jump in each of k segments, the cleanest segment first."""
    errors = []
    for start, top in pairwise(bounds(schedule, k)):
        x_t, right = path[top], path[start]
        arrived = jump(schedule, *student(x_t, full(top, x_t)), full(start, x_t))
        errors.append(length(arrived - right) / length(right - x_t))
    return torch.stack(errors)


def bounds(schedule: Schedule, k: int) -> list[int]:
    """Where segments begin and end, ascending from −1 to T − 1."""
    return [-1, *solver_grid(k, schedule.total)]


@torch.no_grad()
def final_errors(
    schedule: Schedule,
    student: Predict,
    path: Path,
    sampler: Sampler,
    steps: int,
    generators: Generators = None,
) -> Float[Tensor, " b"]:
    """The relative error of what the student draws from the path's noise in N steps."""
    noise, right = path[schedule.total - 1], path[-1]
    drawn = sampler(student, schedule, noise, sampler.grid(steps, schedule.total), generators)
    return length(drawn - right) / length(right)


def length(x: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    return x.flatten(1).norm(dim=1)
