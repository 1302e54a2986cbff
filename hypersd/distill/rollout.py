"""The student's own way to a picture, on the timesteps of a sample's route, gradients flowing all the way.

It begins in noise, or in a clean latent noised to one of those timesteps. With TCD's η it lands at ⌊(1 − η) s⌋, below
the next timestep s, and is noised up to it again (strategic stochastic sampling, Zheng et al. 2024, §4.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from hypersd.diffusion.segments import NOWHERE
from hypersd.diffusion.solver import jump, renoise
from hypersd.distill.randomness import uniform
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


def on_route(batch: Batch) -> Timesteps:
    """One of the timesteps of each sample's route, each with equal chance."""
    routes = _of(batch)
    (u,) = uniform(batch.rngs, 1)
    place = (u * _steps(routes).to(u)).long().to(routes.device)
    return routes.gather(1, place.view(-1, 1)).squeeze(1)


@torch.no_grad()
def before_last(batch: Batch, nets: Nets, start: Timesteps | None = None) -> tuple[Latents, Timesteps]:
    """Where each sample is when only its route's last jump is left, and the timestep of that.

    It comes from noise; or from x0 noised to `start`, a timestep of its route.
    """
    routes = _of(batch)
    t = routes.gather(1, _steps(routes).view(-1, 1) - 1).squeeze(1)
    routes = routes.clamp(min=t.view(-1, 1))  # stays at its last timestep instead of going on to −1
    if start is None:
        return follow(batch, nets, batch.eps, routes).final, t
    x = nets.base.schedule.add_noise(batch.x0, batch.eps, start)
    return follow(batch, nets, x, routes.clamp(max=start.view(-1, 1))).final, t


def last_jump(batch: Batch, nets: Nets, start: Timesteps | None = None) -> Latents:
    """The drawings, begun as in `before_last`, with the gradient of their last jump alone."""
    x, t = before_last(batch, nets, start)
    return nets.jump(STUDENT, x, t, torch.full_like(t, -1), batch)


def follow(batch: Batch, nets: Nets, x: Latents, routes: Int[Tensor, "b r"]) -> Rollout:
    """The student's jumps from x at the routes' first timesteps to their last."""
    jumps = []
    for column, (t, end) in enumerate(pairwise(routes.unbind(1)), 1):
        going = (t > end).nonzero().squeeze(1)  # the others have arrived
        if len(going) == 0:
            continue
        told_t = told(t[going], batch.codes[going])
        x0, eps = nets.predict(STUDENT, x[going], t[going], batch.cond[going], told_t)
        lands = _below(end, batch)[going]
        landed = jump(nets.base.schedule, x0, eps, lands)
        jumps.append(Jump(going, t[going], lands, x0, landed))
        if batch.again is not None:  # at −1 nothing is noised again
            landed = renoise(nets.base.schedule, landed, lands, end[going], batch.again[going, column])
        x = x.index_put((going,), landed)
    return Rollout(tuple(jumps), x)


def _below(end: Timesteps, batch: Batch) -> Timesteps:
    """Where a jump to `end` lands."""
    if batch.eta is None:
        return end
    return torch.where(end > 0, ((1 - batch.eta) * end).long(), end)


def _steps(routes: Int[Tensor, "b r"]) -> Int[Tensor, " b"]:
    return (routes >= 0).sum(1)


def _of(batch: Batch) -> Int[Tensor, "b r"]:
    if (batch.route == NOWHERE).any():
        raise ValueError("a rollout follows a sampler's timesteps: set draw.visited_share=1")
    return batch.route
