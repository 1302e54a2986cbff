"""Rollout: the student draws from noise in N steps of its own, and every jump must land on the teacher's path.

A jump is trained from where the student's earlier jumps really lead and not from where the teacher was (Ross et al.
2011, DAgger; backward simulation of DMD2 §4.5), and gradients flow through the whole way: what an early jump costs
at the end reaches it, and later jumps learn to mend it. That matters most at t = 999, which every N shares although
each goes on to another place.

Needs `data: {kind: paths}` and `draw.visited_share: 1`, which says the N and the sampler of every sample.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from hypersd.diffusion.segments import NOWHERE
from hypersd.distill.distance import Distance as Settings
from hypersd.distill.step import STUDENT, Batch, Nets


class Loss:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """The mean over samples of the sum over their jumps."""
        route = batch.route
        if (route == NOWHERE).any():
            raise ValueError("a rollout follows a sampler's timesteps: set draw.visited_share=1")
        x, loss = batch.on_path(route[:, 0]), torch.zeros((), device=route.device)
        for t, end in pairwise(route.unbind(1)):
            going = (t > end).nonzero().squeeze(1)  # the others have arrived
            if len(going) == 0:
                break
            landed = nets.jump(STUDENT, x[going], t[going], end[going], batch.cond[going])
            missed = self.settings.between(landed, batch.on_path(end)[going])
            loss = loss + missed * (len(going) / len(x))
            x = x.index_put((going,), landed)
        return loss
