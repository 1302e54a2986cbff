"""Adversarial loss: what the student makes must look, to a discriminator, like what it should (Hyper-SD §3.1).

Fake and real are noised to one random t, each with its own noise, and seen by the frozen base under their caption;
heads on what it makes of them tell the two apart (`discriminator.py`). A regression draws the middle of what it is
unsure of; a discriminator knows that no picture looks like that.

    of: jump       one jump t → end, against the consistency target there (`real: target`, as in Hyper-SD and PCM) or
                   against the data noised to `end` (`real: data`)
    of: drawing    whole rollouts over every N that the recipe names, against the data (DMD2 §4.3, §4.5)

The data is `batch.x0`: with `data: {kind: paths}` the teacher's own pictures, else what was encoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from hypersd.bases import Base
from hypersd.diffusion.solver import renoise
from hypersd.distill.discriminator import Discriminator
from hypersd.distill.rollout import rollout
from hypersd.distill.step import ROUTES, Batch, Latents, Nets, Timesteps, noise, noise_level, tscd
from hypersd.recipe import Optimiser, Span, Strict, Weight

Features = list[Tensor]
"""A map of each depth."""


class Heads(Optimiser):
    """The heads', with what it has where a recipe does not say; β as in SDXL-Lightning."""

    lr: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.0, 0.99)


class Settings(Strict):
    weight: Weight = 0.1
    """0.1 as in PCM and TDD. Hyper-SD raises it from stage to stage, while that of the MSE falls."""
    form: Literal["nonsaturating", "hinge"] = "nonsaturating"
    of: Literal["drawing", "jump"] = "drawing"
    real: Literal["data", "target"] = "data"
    pair: bool = False
    """Whether heads also see where the jump began, x_t: is this where that should have led? (SDXL-Lightning §3.3)"""
    span: Span = (0.0, 0.75)
    """t of the noise is uniform in this part of the timesteps, as far as it lies above where a jump ends; a jump that
    ends above all of it is seen as it landed."""
    width: int = Field(64, ge=1)
    """Channels inside a head."""
    pool: int = Field(1, ge=1)
    """Heads at each depth, of which an update draws one."""
    refreshed: float = Field(0.0, ge=0, le=1)
    """The share of heads that each update begins anew, so that none knows the student too well (NitroFusion: 0.01)."""
    r1: float = Field(0.0, ge=0)
    """Weight of the approximate R1: a vote on the real should not change with a little noise (APT, Lin et al. 2025)."""
    r1_noise: float = Field(0.01, gt=0)
    updates: int = Field(1, ge=1)
    """Of the heads for each of the student's."""
    heads: Heads = Heads()

    @model_validator(mode="after")
    def _a_drawing_has_no_target(self) -> Settings:
        if self.of == "drawing" and (self.real == "target" or self.pair):
            raise ValueError("real: target and pair need of: jump, a drawing of many jumps has neither")
        return self


class Loss:
    trains = "heads"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.needs = (ROUTES,) if settings.of == "drawing" else ()
        self.roles: dict[str, int | None] = {}
        self.optimiser, self.updates = settings.heads, settings.updates

    def build(self, base: Base, seed: int) -> Discriminator:
        settings = self.settings
        self.network = Discriminator(base, settings.width, seed, settings.pool, maps=2 if settings.pair else 1)
        return self.network

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """−D(fake), or −log σ(D(fake)): the mean over places, then over heads."""
        fake, end = self.fake(batch, nets)
        x_t, t = self.noised(fake, end, batch, nets)
        begun = self.begun(batch, nets)
        with frozen(self.network):
            votes = self.votes(x_t, t, batch, nets, self.network.choose(batch.shared), begun)
        hinge = self.settings.form == "hinge"
        return batch.now(self.settings.weight) * mean(-v if hinge else F.softplus(-v) for v in votes)

    def opponent(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        """max(0, 1 − D(real)) + max(0, 1 + D(fake)), or −log σ(D(real)) − log σ(−D(fake)); and R1."""
        settings = self.settings
        self.network.refresh(settings.refreshed, batch.shared)
        with torch.no_grad():
            fake, end = self.fake(batch, nets)
            x_t, t = self.noised(fake, end, batch, nets)
            real = self.noised(self.real(batch, nets), end, batch, nets, t)[0]
        heads, begun = self.network.choose(batch.shared), self.begun(batch, nets)
        of_real, of_fake = (self.votes(x, t, batch, nets, heads, begun) for x in (real, x_t))
        lost = _hinge if settings.form == "hinge" else F.softplus
        apart = mean(lost(-r) for r in of_real) + mean(lost(f) for f in of_fake)
        if settings.r1 == 0:
            return apart
        shaken = self.votes(real + settings.r1_noise * noise(batch), t, batch, nets, heads, begun)
        return apart + settings.r1 * mean((a - b).square() for a, b in zip(of_real, shaken, strict=True))

    def fake(self, batch: Batch, nets: Nets) -> tuple[Latents, Timesteps]:
        """What the student made, and the timestep that it lies at."""
        if self.settings.of == "jump":
            return nets.once(tscd, batch).x_end, batch.end
        return nets.once(rollout, batch).final, torch.full_like(batch.end, -1)

    def real(self, batch: Batch, nets: Nets) -> Latents:
        """What lies there in truth."""
        if self.settings.real == "target":
            return nets.once(tscd, batch).target
        if self.settings.of == "jump":
            return nets.base.schedule.add_noise(batch.x0, noise(batch), batch.end)
        return batch.x0

    def noised(
        self, x: Latents, at: Timesteps, batch: Batch, nets: Nets, t: Timesteps | None = None
    ) -> tuple[Latents, Timesteps]:
        """x carried up to t >= at, drawn if it is not given."""
        t = noise_level(batch, self.settings.span, at) if t is None else t
        return renoise(nets.base.schedule, x, at, t, noise(batch)), t

    def begun(self, batch: Batch, nets: Nets) -> Features:
        """With `pair`, what the frozen base makes of where the jump began."""
        if not self.settings.pair:
            return []
        with torch.no_grad(), nets.roles.play():
            return nets.base.features(batch.x_t, batch.t, batch.cond)

    def votes(
        self, x_t: Latents, t: Timesteps, batch: Batch, nets: Nets, heads: list[int], begun: Features
    ) -> list[Tensor]:
        """Of these heads, on what the frozen base makes of x_t, and of where the jump began."""
        with nets.roles.play():
            seen = nets.base.features(x_t, t, batch.cond)
        if begun:
            seen = [torch.cat(maps, 1) for maps in zip(seen, begun, strict=True)]
        return self.network(seen, heads)


def _hinge(votes: Tensor) -> Tensor:
    return F.relu(1 + votes)


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
