"""Likeness: what the student draws must look like the picture that the teacher draws from the same noise.

    loss = weight · LPIPS(D(x̂_0), D(x_0))

The paired regression of DMD (Yin et al. 2024, arXiv 2311.18828, §3.3), there of a single step; here of drawings in any
number of them. A distance of latents asks every element alike for what few steps cannot know, and gets the mean; one
of pictures asks first for what an eye would miss. Gradients flow through the decoder and the whole drawing. Where the
backbone is in bfloat16, so are decoder and network, which cost more than it does.

Needs `data: {kind: paths}`, and `draw.visited_share: 1`, which says the N and the sampler of every sample.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hypersd import judges
from hypersd.distill.rollout import rollout
from hypersd.distill.step import PATHS, ROUTES, Batch, Nets
from hypersd.recipe import Strict, Weight


class Settings(Strict):
    weight: Weight = 1.0
    name: str = "lpips"
    """Of the network that compares two pictures: `lpips`, or a dotted path."""
    weights: Path | None = None
    """The folder with its files; None for where `python -m hypersd.evaluate.fetch lpips` puts them."""


class Loss:
    misses = True
    needs = (ROUTES, PATHS)

    def __init__(self, settings: Settings) -> None:
        about = judges.about(settings.name, judges.PERCEPTUALS)
        if not about.may_reward:
            raise ValueError(f"{settings.name!r} only judges: set losses.likeness.name to one that may be pleased")
        if about.truth != judges.PICTURES:
            raise ValueError(f"{settings.name!r} compares no two pictures: set losses.likeness.name to one that does")
        about.check(settings.weights)
        self.settings = settings

    @cached_property
    def network(self) -> Any:
        """Loaded when first asked, not while a recipe is only being checked."""
        return judges.load_perceptual(self.settings.name, self.settings.weights)

    def student(self, batch: Batch, nets: Nets) -> Float[Tensor, ""]:
        base, final = nets.base, nets.once(rollout, batch).final
        teachers = batch.on_path(torch.full_like(batch.t, -1))
        with torch.autocast(final.device.type, base.autocast, enabled=base.autocast is not None):
            with torch.no_grad():
                truth = base.to_images(teachers)
            pictures = base.to_images(final)
            lost: Tensor = self.network.to(pictures.device)(pictures, truth)
        return batch.now(self.settings.weight) * lost.float()
