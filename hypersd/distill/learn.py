"""An iteration's batches, and the gradients of losses on them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from hypersd.distill.data import Data
from hypersd.distill.losses import Adversary
from hypersd.distill.parts import Run, StageParts
from hypersd.distill.randomness import generators, shared
from hypersd.distill.step import STUDENT, Batch, Nets, draw_batch

TEST = 2**31
"""Added to an iteration among what seeds a generator: no run is as long."""

Terms = Mapping[str, Callable[[Batch, Nets], Tensor]]


def batches(run: Run, stage: StageParts, iteration: int, test: Data | None = None) -> list[Batch]:
    """This process's micro-batches. What is to be tested is drawn apart from what is trained on."""
    size = stage.recipe.micro_batch or len(run.share)
    parts = (run.share[first : first + size] for first in range(0, len(run.share), size))
    return [_batch(run, stage, iteration, indices, test) for indices in parts]


def _batch(run: Run, stage: StageParts, iteration: int, indices: range, test: Data | None) -> Batch:
    rngs = generators(run.recipe.seed, stage.index, iteration + (TEST if test else 0), indices)
    drawn = (test or run.data).draw(rngs)
    draw, guidance = stage.recipe.draw, stage.recipe.teacher.guidance
    common = shared(run.recipe.seed, stage.index, iteration + (TEST if test else 0))
    how = (stage.segments, draw, stage.visited, guidance, common, drawn.one_step)
    batch = draw_batch(run.base, drawn.latents, drawn.cond, rngs, *how)
    code = run.recipe.sampler.step_code
    progress = iteration / stage.student.iterations
    return replace(batch, prompts=drawn.prompts, truth=drawn.truth, shared=common, code=code, progress=progress)


def learn(run: Run, stage: StageParts, drawn: list[Batch], losses: Terms, only: str | None = None) -> dict[str, float]:
    """Gradients of the losses' sum, if any, over all micro-batches, or of `only` one of them; returns each loss, the
    mean of all processes.
    """
    total = torch.zeros(len(losses), device=run.base.device)
    for batch in drawn:
        with _folded(run, stage):
            found = {name: loss(batch, stage.nets) for name, loss in losses.items()}
            values = torch.stack(list(found.values())) * (len(batch) / len(run.share))
            lost = values.sum() if only is None else found[only]
            if lost.requires_grad:
                lost.backward()
        total += values.detach()
    return dict(zip(losses, run.accelerator.reduce(total, "mean").tolist(), strict=True))


def blamed(run: Run, stage: StageParts, iteration: int) -> str | None:
    """The loss whose gradient alone is no number, found by going through the iteration once more for each."""
    losses = {name: loss.student for name, loss in stage.losses.items()}
    for name in losses:
        stage.student.optimiser.zero_grad()
        learn(run, stage, batches(run, stage, iteration), losses, only=name)
        if not math.isfinite(stage.student.clip(run.accelerator)):
            return name
    return None


@contextmanager
def _folded(run: Run, stage: StageParts) -> Iterator[None]:
    roles = [STUDENT, *(role for loss in stage.losses.values() if isinstance(loss, Adversary) for role in loss.roles)]
    with ExitStack() as stack:
        for role in roles if run.recipe.lora.fold else ():
            stack.enter_context(run.roles.fold(*stage.nets.playing(role), dtype=run.base.autocast))
        yield
