"""From a recipe's words to the parts they name."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from hypersd import bases
from hypersd.bases import Base
from hypersd.diffusion import samplers
from hypersd.distill import data as sources
from hypersd.distill import losses as terms
from hypersd.distill.data import Data
from hypersd.distill.losses import Loss
from hypersd.lora import files
from hypersd.recipe import Draw, Recipe


def base(recipe: Recipe, device: torch.device) -> Base:
    found = bases.load(recipe.base, device, **recipe.base_settings)
    half = recipe.precision == "bf16" or (recipe.precision == "auto" and bases.fast_bfloat16(device))
    found.autocast = torch.bfloat16 if half else None
    return found


def lora_targets(found: Base) -> tuple[str, ...]:
    return tuple(found.lora_targets)


def lora_start(recipe: Recipe, found: Base, names: Collection[str]) -> dict[str, Tensor] | None:
    """The weights of `lora.start` for a student whose parameters have these names. Raises ValueError."""
    settings = recipe.lora
    if settings.start is None:
        return None
    file = files.read(settings.start)
    files.check_fits(file, found.unet, settings.start.name)
    if file.rank != settings.rank:
        raise ValueError(f"{settings.start} has rank {file.rank}, not {settings.rank}: set lora.rank={file.rank}")
    if different := sorted(set(names) ^ file.weights.keys()):
        layer, side = different[0].partition(".lora_")[0], "it lacks" if different[0] in names else "the recipe lacks"
        raise ValueError(f"{settings.start} was trained on other layers, {side} {layer}: set lora.targets to its own")
    return files.with_alpha(file, settings.alpha)


def data(recipe: Recipe, found: Base, cache: Path) -> Data:
    return sources.load(found, recipe.data, cache)


def losses(recipe: Recipe) -> list[Loss]:
    return [terms.load(name, settings) for name, settings in recipe.losses.items()]


def check(recipe: Recipe) -> None:
    """Raises ValueError for a stage, or for parts of one, that do not exist: before anything is written."""
    for index in range(len(recipe.stages)):
        stage = recipe.at(index)
        losses(stage)
        visited(stage.draw)


def visited(draw: Draw) -> list[list[int]]:
    """The timesteps that each sampler of the recipe visits, for each of its step counts."""
    if draw.visited_share == 0:
        return []
    return [samplers.load(name).grid(steps) for name in draw.samplers for steps in draw.steps]
