"""Rollout: the student draws from noise in N steps of its own, and every jump must land on the teacher's path.

A jump is trained from where the student's earlier jumps really lead and not from where the teacher was (Ross et al.
2011, DAgger; backward simulation of DMD2 §4.5), and gradients flow through the whole way: what an early jump costs
at the end reaches it, and later jumps learn to mend it. That matters most at t = 999, which every N shares although
each goes on to another place.

Needs `data: {kind: paths}`, and `draw.visited_share: 1`, which says the N and the sampler of every sample.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hypersd.distill.distance import Distance as Settings
from hypersd.distill.rollout import rollout
from hypersd.distill.step import PATHS, ROUTES, Batch, Nets, pick_point


class Loss:
    misses = True
    needs = (ROUTES, PATHS)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """The mean over samples of the sum over their jumps."""
        path = batch.whole_path
        misses = []
        for jump in nets.once(rollout, batch).jumps:
            target = pick_point(path[jump.samples], jump.end, batch.total)
            misses.append(self.settings.between(jump.landed, target) * (len(jump.samples) / len(path)))
        return batch.now(self.settings.weight) * torch.stack(misses).sum()
