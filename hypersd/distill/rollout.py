"""The student's own way from noise to picture, on the timesteps of a sample's route, gradients flowing all the way."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Int
from torch import Tensor

from hypersd.diffusion.segments import NOWHERE
from hypersd.diffusion.solver import jump
from hypersd.distill.step import STUDENT, Batch, Latents, Nets, Timesteps
from hypersd.draw.pipeline import told


@dataclass(frozen=True)
class Jump:
    """One jump of the samples that are still under way."""

    samples: Int[Tensor, " n"]
    t: Timesteps
    end: Timesteps
    x0: Latents
    """What the student predicted at t."""
    landed: Latents


@dataclass(frozen=True)
class Rollout:
    jumps: tuple[Jump, ...]
    final: Latents
    """Every sample at the end of its route, −1."""


def rollout(batch: Batch, nets: Nets) -> Rollout:
    """Raises ValueError for samples that no sampler's route was drawn for."""
    if (batch.route == NOWHERE).any():
        raise ValueError("a rollout follows a sampler's timesteps: set draw.visited_share=1")
    x, jumps = batch.eps, []
    for t, end in pairwise(batch.route.unbind(1)):
        going = (t > end).nonzero().squeeze(1)  # the others have arrived
        if len(going) == 0:
            break
        told_t = told(t[going], batch.codes[going])
        x0, eps = nets.predict(STUDENT, x[going], t[going], batch.cond[going], told_t)
        landed = jump(nets.base.schedule, x0, eps, end[going])
        jumps.append(Jump(going, t[going], end[going], x0, landed))
        x = x.index_put((going,), landed)
    return Rollout(tuple(jumps), x)
