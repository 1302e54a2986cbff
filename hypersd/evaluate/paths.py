"""Path fidelity of the base and its LoRA: `fidelity.py` on real networks, in float32."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from hypersd.atomic import write_json
from hypersd.bases import Base
from hypersd.diffusion.solver import Predict
from hypersd.draw.pipeline import Drawer, bind
from hypersd.evaluate import fidelity, protocol, solvers
from hypersd.evaluate.protocol import Plan
from hypersd.evaluate.sets import VERSION, Studio, digest, start

SUBSTEPS = fidelity.SUBSTEPS
FROM_NOISE = "from noise"
PATH_SETS = 50  # seeds of paths are apart from those of pictures
Errors = dict[str, dict[str, float]]


def measure(
    studio: Studio, prompts: Sequence[str], guidance: float, plans: Sequence[Plan], split: str, number: int
) -> Errors:
    """For each way of jumping or drawing, its mean relative errors on one set of paths; cached.

    Ways of jumping have "k=1" (mean over segments), "k=2 segment 0", …; ways of drawing have "from noise".
    """
    about = {"version": VERSION, "weights": studio.identity, "prompts": digest("\n".join(prompts).encode())}
    about |= {"guidance": guidance, "plans": [plan.label for plan in plans], "split": split, "set": number}
    file = studio.cache / "paths" / f"{digest(json.dumps(about, sort_keys=True).encode())[:16]}.json"
    if file.is_file():
        return json.loads(file.read_text())
    with float32(studio.base):
        seeds = protocol.seeds(split, PATH_SETS + number, len(prompts))
        found = _measure(studio, prompts, guidance, plans, seeds)
    write_json(file, found)
    return found


@torch.no_grad()
def _measure(
    studio: Studio, prompts: Sequence[str], guidance: float, plans: Sequence[Plan], seeds: Sequence[int]
) -> Errors:
    base = studio.base
    noise, _ = start(base, seeds)
    with playing(studio.plain, prompts, guidance) as teacher:
        path = fidelity.walk(base.schedule, teacher, noise, SUBSTEPS)
    found: Errors = {}
    for name, (drawer, scale) in jumpers(studio, guidance).items():
        with playing(drawer, prompts, scale) as student:
            found[name] = _segments(base, student, path)
    for plan in plans:
        with playing(studio.drawer(plan), prompts, plan.settings.guidance_scale) as student:
            found[plan.label] = {FROM_NOISE: _final(base, student, path, plan, seeds)}
    return found


def jumpers(studio: Studio, guidance: float) -> dict[str, tuple[Drawer, float]]:
    """Who jumps over whole segments: the base itself, guided and not, and the LoRA."""
    found = {
        f"base, guidance {guidance:g}": (studio.plain, guidance),
        "base, guidance 1": (studio.plain, 1.0),
    }
    return {**found, "LoRA": (studio.tuned, 1.0)} if studio.tuned else found


def _final(base: Base, student: Predict, path: fidelity.Path, plan: Plan, seeds: Sequence[int]) -> float:
    sampler = solvers.load(plan.settings.sampler, plan.settings.sampler_settings)
    generators = [torch.Generator().manual_seed(seed + 500_000) for seed in seeds]
    steps = plan.settings.steps
    return float(fidelity.final_errors(base.schedule, student, path, sampler, steps, generators).mean())


def _segments(base: Base, student: Predict, path: fidelity.Path) -> dict[str, float]:
    found = {}
    for k in fidelity.SEGMENTS:
        errors = fidelity.segment_errors(base.schedule, student, path, k)
        found[f"k={k}"] = float(errors.mean())
        found |= {f"k={k} segment {i}": float(error.mean()) for i, error in enumerate(errors)}
    return found


@contextmanager
def playing(drawer: Drawer, prompts: Sequence[str], guidance: float) -> Iterator[Predict]:
    """The drawer's network on these prompts, its LoRA on stage if it has one."""
    cond = drawer.base.encode(prompts)
    with drawer.roles.play(*drawer.playing):
        yield bind(drawer.base, cond, drawer.base.null(cond), guidance)


@contextmanager
def float32(base: Any) -> Iterator[None]:
    """No autocast inside: path errors of a good student are as small as bf16's own."""
    before = getattr(base, "autocast", None)
    if before is not None:
        base.autocast = None
    try:
        yield
    finally:
        if before is not None:
            base.autocast = before
