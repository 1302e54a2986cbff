"""Trajectory segments: where a student may look from, step to, and jump to (Hyper-SD §3.1, Eq. 11).

The paper's t_b = ⌊t / ⌊T/k⌋⌋ · ⌊T/k⌋ puts 7/3/1 points of a 40-point grid outside their own segment
for k = 8/4/2 (t_{n−1} = 124 < t_b = 125). Segments here live on the indices of the solver grid
instead: N points, k segments of N/k points, and the boundary in front of segment j is the grid point
j·T/k − 1, with −1 (ᾱ_0) in front of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from hypersd.diffusion.grids import solver_grid

End = Literal["uniform", "start", "mixture", "visited"]
NOWHERE = -2
"""What follows a timestep that no sampler visits."""


@dataclass(frozen=True)
class Segments:
    """k segments of a solver grid of `points` points over `total` timesteps."""

    k: int
    points: int = 40
    total: int = 1000
    grid: Int[Tensor, " N"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        grid = torch.tensor(solver_grid(self.points, self.total))
        if self.k < 1 or self.points % self.k:
            divisors = [k for k in range(1, 9) if self.points % k == 0]
            raise ValueError(
                f"{self.k} segments do not divide a solver grid of {self.points} points; "
                f"use one of {', '.join(map(str, divisors))}"
            )
        object.__setattr__(self, "grid", grid)

    def start(self, t: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """b: the grid point (or −1) in front of t's segment; the segment is b < t <= b + T/k."""
        length = self.total // self.k
        return t // length * length - 1

    def previous(self, t: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """s: the nearest grid point (or −1) below t. Never below the segment's start, since that is one."""
        stride = self.total // self.points
        return t // stride * stride - 1

    def end(
        self, t: Int[Tensor, " b"], u: Tensor, where: End, start_share: float = 0.5, after: Tensor | None = None
    ) -> Int[Tensor, " b"]:
        """Where the jump from t lands, from a uniform draw u in [0, 1).

        uniform   any integer from the segment's start to s, both included (Hyper-SD, TCD)
        start     the segment's start (PCM): the only choice whose optimum is the teacher's own map (6.12)
        mixture   the start for a `start_share` of draws, uniform for the rest
        visited   `after`, where the sampler that t was drawn for goes next, as far as the segment reaches;
                  uniform where t was drawn for none. Trains the very jumps that few steps will take.
        """
        start, s = self.start(t), self.previous(t)
        if where == "start":
            return start
        if where == "visited" and after is not None:
            known = torch.maximum(start, torch.minimum(after, s))
            return torch.where(after == NOWHERE, self.end(t, u, "uniform"), known)
        if where == "mixture":
            u = (u - start_share) / (1 - start_share) if start_share < 1 else torch.full_like(u, -1)
        integers = s - start + 1
        drawn = start + (u.clamp(min=0).double() * integers).long().clamp(max=integers - 1)
        return torch.where(u < 0, start, drawn)

    def draw_t(
        self, u: Tensor, pick: Tensor, visited: Sequence[Sequence[int]] = (), share: float = 0.0
    ) -> tuple[Int[Tensor, " b"], Int[Tensor, "b r"]]:
        """Timesteps to train at, from two uniform draws u and pick in [0, 1), and the route that each is part of.

        A `share` of them comes from `visited`, the timesteps of every sampler and step count that the
        student will be used with: first a list, its sample's route, then one of its timesteps, each with equal
        chance. Neither solver grid, 40 or 200 points, contains all of them. A route ends at −1, and is filled
        up with −1. The rest comes from the solver grid, and their route is NOWHERE throughout.
        """
        on_grid = self.grid[(u.double() * self.points).long()]
        if not visited or share == 0:
            return on_grid, on_grid.new_full((len(u), 1), NOWHERE)
        routes = padded(visited)
        lists = (pick / share * len(visited)).long().clamp(max=len(visited) - 1)
        lengths = torch.tensor([len(timesteps) for timesteps in visited])
        route = torch.where((pick < share).view(-1, 1), routes[lists], NOWHERE)
        place = (u.double() * lengths[lists]).long()
        return torch.where(pick < share, route.gather(1, place.view(-1, 1)).squeeze(1), on_grid), route


def padded(visited: Sequence[Sequence[int]]) -> Int[Tensor, "n r"]:
    """Lists of timesteps as one tensor, each with at least one −1 behind it."""
    longest = max(map(len, visited)) + 1
    return torch.tensor([[*timesteps, *[-1] * (longest - len(timesteps))] for timesteps in visited])


def next_on(route: Int[Tensor, "b r"], t: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
    """Where each route goes from its timestep t; NOWHERE for none."""
    return torch.where(route < t.view(-1, 1), route, NOWHERE).amax(1)
