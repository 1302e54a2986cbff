"""Adversarial loss: the student's drawings must look, to a discriminator, like the data (Hyper-SD §3.1).

Drawings and data are noised to one random t with one noise, and seen by the frozen base under their caption; heads on
what it makes of them tell the two apart (`discriminator.py`). The data is `batch.x0`: with `data: {kind: paths}` the
teacher's own pictures, else what was encoded. A regression draws the middle of what it is unsure of; a
discriminator knows that no picture looks like that.

The drawings are whole rollouts over every N that the recipe names, so `draw.visited_share` must be 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from hypersd.bases import Base
from hypersd.distill.discriminator import Discriminator
from hypersd.distill.rollout import rollout
from hypersd.distill.step import ROUTES, Batch, Latents, Nets, noise
from hypersd.recipe import Optimiser, Span, Strict


class Settings(Strict):
    weight: float = Field(0.1, ge=0)
    """0.1 as in PCM and TDD."""
    form: Literal["nonsaturating", "hinge"] = "nonsaturating"
    span: Span = (0.0, 0.75)
    """t of the noise is uniform in this part of the timesteps."""
    width: int = Field(64, ge=1)
    """Channels inside a head."""
    updates: int = Field(1, ge=1)
    """Of the heads for each of the student's."""
    heads: Optimiser = Optimiser(lr=1e-4, betas=(0.0, 0.99))
    """β as in SDXL-Lightning."""


class Loss:
    needs = (ROUTES,)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.roles: dict[str, int | None] = {}
        self.optimiser, self.updates = settings.heads, settings.updates

    def build(self, base: Base, seed: int) -> Discriminator:
        self.network = Discriminator(base, self.settings.width, seed)
        return self.network

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """−D(drawing), or −log σ(D(drawing)): the mean over places, then over heads."""
        x = nets.once(rollout, batch).final
        with frozen(self.network):
            votes = self.network(*self.features([x], batch, nets))
        hinge = self.settings.form == "hinge"
        return self.settings.weight * mean(-v if hinge else F.softplus(-v) for v in votes)

    def opponent(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """max(0, 1 − D(data)) + max(0, 1 + D(drawing)), or −log σ(D(data)) − log σ(−D(drawing))."""
        with torch.no_grad():
            drawn = nets.once(rollout, batch).final.detach()
            seen = self.features([drawn, batch.x0], batch, nets)
        fake, real = (self.network(features) for features in seen)
        if self.settings.form == "hinge":
            return mean(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True))
        return mean(F.softplus(-r).mean() + F.softplus(f).mean() for r, f in zip(real, fake, strict=True))

    def features(self, pictures: Sequence[Latents], batch: Batch, nets: Nets) -> list[list[Tensor]]:
        """What the frozen base makes of each of these batches of pictures, all noised alike."""
        base, (t, eps) = nets.base, noise(batch, self.settings.span)
        with nets.roles.play():
            return [base.features(base.schedule.add_noise(x, eps, t), t, batch.cond) for x in pictures]


def mean(terms: Iterator[Tensor]) -> Tensor:
    return torch.stack([term.mean() for term in terms]).mean()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Inside, what is computed gives the network no gradient."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
