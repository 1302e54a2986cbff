"""Whole paths of the guided teacher, from noise to picture, walked once and learnt from many times.

A path is kept at every point of the solver grid. On it the teacher's step (Hyper-SD Eq. 1) is read and not
computed, t = 999 is the pure noise that sampling starts from, and the end of every jump is known
(`losses/regression.py`). No pictures are needed, and one base's paths serve any number of runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from hypersd.atomic import write_bytes
from hypersd.bases import Base
from hypersd.diffusion import samplers
from hypersd.diffusion.grids import solver_grid
from hypersd.diffusion.solver import Predict, ode_walk
from hypersd.distill.data import SAY_EVERY, Captioned, Data, Drawn, Pool, Say, read_latents, read_prompts, silent
from hypersd.distill.randomness import Generators, generators, uniform
from hypersd.draw.pipeline import bind
from hypersd.lora.files import fingerprint
from hypersd.recipe import Teacher

Paths = Float[Tensor, "b p c h w"]
"""Latents at −1 and at each point of the solver grid, ascending."""


class Settings(Pool):
    prompts: Path | None = None
    """A text file, one prompt a line; None is the bundled list."""
    pool: int = Field(2048, ge=1)
    """How many paths are walked, from the prompts in turn."""
    seed: int = 0
    batch: int = Field(64, ge=1)
    one_step_guidance: float | None = Field(None, ge=1, allow_inf_nan=False)
    """Of a second path from the same noise, whose end a single step is taught; None is the teacher's own. A single step
    has to say all that guidance adds at once, and less of it is easier to say."""


class Forked(Captioned):
    """Each path with one more point, after the last: the end that a single step is taught."""

    def draw(self, rngs: Generators) -> Drawn:
        drawn = super().draw(rngs)
        return replace(drawn, latents=drawn.latents[:, :-1], one_step=drawn.latents[:, -1])


def load(base: Base, settings: Settings, teacher: Teacher, points: int, cache: Path, say: Say = silent) -> Data:
    """The paths of these prompts, and those whose ends a single step is taught; walked once, then kept in `cache`."""
    paths, captions, weight = read_latents(_kept(base, settings, teacher, points, cache, say))
    if (guidance := settings.one_step_guidance) is None:
        return Captioned(base, paths, captions, weight, held=settings.held)
    milder = teacher.model_copy(update={"guidance": (guidance, guidance)})
    ends = read_latents(_kept(base, settings, milder, points, cache, say))[0][:, :1]
    return Forked(base, torch.cat([paths, ends], 1), captions, weight, held=settings.held)


def _kept(base: Base, settings: Settings, teacher: Teacher, points: int, cache: Path, say: Say) -> Path:
    """The file of one teacher's paths, under a fingerprint of all that decides them."""
    prompts = read_prompts(settings.prompts)
    texts = [prompts[i % len(prompts)] for i in range(settings.pool)]
    about = settings.model_dump(mode="json", exclude={"batch", "prompts", "held", "one_step_guidance"})
    key = [fingerprint(base.unet), base.latent_shape(), about, teacher.model_dump(mode="json"), points, texts]
    file = cache / f"paths-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}.safetensors"
    if not file.is_file():
        paths = walk(base, texts, settings, teacher, points, say)
        tensors = {"latents": paths, "weight": torch.ones(len(paths))}
        write_bytes(file, save(tensors, {"captions": json.dumps([[text] for text in texts])}))
    return file


def walk(
    base: Base, texts: Sequence[str], settings: Settings, teacher: Teacher, points: int, say: Say = silent
) -> Paths:
    """The teacher's paths, fp16 on the CPU."""
    found: list[Tensor] = []
    for first in range(0, len(texts), settings.batch):
        if len(found) % SAY_EVERY == 0:
            say(f"walking the teacher's paths, once: {first} of {len(texts)}")
        indices = range(first, min(first + settings.batch, len(texts)))
        rngs = generators(settings.seed, 1, 0, indices)
        cond = base.encode([texts[i] for i in indices])
        low, high = teacher.guidance
        scale = (low + (high - low) * uniform(rngs, 1)[0]).float().to(base.device)
        predict = bind(base, cond, base.null(cond), scale)
        found.append(_walk(base, predict, rngs, teacher.substeps, points))
    return torch.cat(found)


def _walk(base: Base, predict: Predict, rngs: Generators, substeps: int, points: int) -> Paths:
    x = samplers.noise_like(torch.empty(len(rngs), *base.latent_shape(), device=base.device), rngs)
    grid, kept = [-1, *solver_grid(points, base.schedule.total)], [x]
    for t, s in zip(grid[:0:-1], grid[-2::-1], strict=True):
        stops = [t - (t - s) * taken // substeps for taken in range(substeps + 1)]
        kept.append(ode_walk(base.schedule, predict, kept[-1], stops))
    return torch.stack(kept[::-1], 1).half().cpu()
