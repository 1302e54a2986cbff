"""The student's own way from noise to picture, on the timesteps of a sample's route, gradients flowing all the way."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
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
    return follow(batch, nets, batch.eps, _of(batch))


@torch.no_grad()
def before_last(batch: Batch, nets: Nets) -> tuple[Latents, Timesteps]:
    """Where each sample is when only its route's last jump is left, and the timestep of that."""
    routes = _of(batch)
    last = (routes >= 0).sum(1, keepdim=True) - 1
    places = torch.arange(routes.shape[1], device=routes.device)
    t = routes.gather(1, last).squeeze(1)
    short = torch.where(places > last, t.view(-1, 1), routes)  # stays at its last timestep instead of going on to −1
    return follow(batch, nets, batch.eps, short).final, t


def last_jump(batch: Batch, nets: Nets) -> Latents:
    """The drawings, with the gradient of their last jump alone."""
    x, t = before_last(batch, nets)
    return nets.jump(STUDENT, x, t, torch.full_like(t, -1), batch)


def follow(batch: Batch, nets: Nets, x: Latents, routes: Int[Tensor, "b r"]) -> Rollout:
    """The student's jumps from x at the routes' first timesteps to their last."""
    jumps = []
    for t, end in pairwise(routes.unbind(1)):
        going = (t > end).nonzero().squeeze(1)  # the others have arrived
        if len(going) == 0:
            continue
        told_t = told(t[going], batch.codes[going])
        x0, eps = nets.predict(STUDENT, x[going], t[going], batch.cond[going], told_t)
        landed = jump(nets.base.schedule, x0, eps, end[going])
        jumps.append(Jump(going, t[going], end[going], x0, landed))
        x = x.index_put((going,), landed)
    return Rollout(tuple(jumps), x)


def _of(batch: Batch) -> Int[Tensor, "b r"]:
    if (batch.route == NOWHERE).any():
        raise ValueError("a rollout follows a sampler's timesteps: set draw.visited_share=1")
    return batch.route
