"""Path fidelity of the base and its LoRA: `fidelity.py` on real networks, in float32."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from hypersd import sharing, tensors
from hypersd.atomic import write_bytes
from hypersd.bases import Base
from hypersd.diffusion.solver import Predict
from hypersd.draw.pipeline import Drawer, bind, start
from hypersd.evaluate import fidelity, protocol, solvers
from hypersd.evaluate.protocol import Plan
from hypersd.evaluate.sets import REMEDY, VERSION, Studio, digest

SUBSTEPS = fidelity.SUBSTEPS
FROM_NOISE = "from noise"
PATH_SETS = 50  # seeds of paths are apart from those of pictures
Errors = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Paths:
    """Which paths: one from each prompt's noise, along the base at this guidance."""

    studio: Studio
    prompts: Sequence[str]
    guidance: float
    split: str
    number: int

    @property
    def seeds(self) -> list[int]:
        return protocol.seeds(self.split, PATH_SETS + self.number, len(self.prompts))

    def file(self, ending: str, **more: Any) -> Path:
        """A place in the cache, named by everything that decides what it holds."""
        about = {"version": VERSION, "base": self.studio.identity.get("base"), "guidance": self.guidance, **more}
        about |= {"prompts": self.prompts, "seeds": [self.seeds[0], len(self.seeds)], "substeps": SUBSTEPS}
        name = digest(json.dumps(about, sort_keys=True).encode())[:16]
        return self.studio.cache / "paths" / f"{name}.{ending}"


def measure(which: Paths, plans: Sequence[Plan]) -> Errors:
    """For each way of jumping or drawing, its mean relative errors on one set of paths; cached.

    Ways of jumping have "k=1" (mean over segments), "k=2 segment 0", …; ways of drawing have "from noise".
    """
    labels = [plan.label for plan in plans]
    file = which.file("json", plans=labels, weights=which.studio.identity)

    def make() -> None:
        with float32(which.studio.base), float32(which.studio.tuned.base if which.studio.tuned else None):
            write_bytes(file, json.dumps(_measure(which, plans)).encode())

    sharing.have(file, make)
    return tensors.facts(file, REMEDY)


Student = Callable[[int], Predict]
"""What draws in so many steps."""


def walk(which: Paths) -> fidelity.Path:
    """The guided teacher's paths, at the bounds of segments; cached, since all LoRAs of a base share them."""
    base, file = which.studio.base, which.file("safetensors")
    if not file.is_file():
        noise, _ = start(base, which.seeds)
        with playing(which.studio.plain, which.prompts, which.guidance) as teacher:
            path = fidelity.walk(base.schedule, teacher(SUBSTEPS), noise, SUBSTEPS)
        bounds = {t for k in fidelity.SEGMENTS for t in fidelity.bounds(base.schedule, k)}
        write_bytes(file, save({str(t): path[t].cpu().contiguous() for t in sorted(bounds)}))
    return {int(t): latents.to(base.device) for t, latents in tensors.read(file, REMEDY)[1].items()}


@torch.no_grad()
def _measure(which: Paths, plans: Sequence[Plan]) -> Errors:
    studio, path, found = which.studio, walk(which), {}
    for name, (drawer, scale) in jumpers(studio, which.guidance).items():
        with playing(drawer, which.prompts, scale) as student:
            found[name] = _segments(studio.base, student, path)
    for plan in plans:
        with playing(studio.drawer(plan), which.prompts, plan.settings.guidance_scale) as student:
            found[plan.label] = {FROM_NOISE: _final(studio.base, student, path, plan, which.seeds)}
    return found


def jumpers(studio: Studio, guidance: float) -> dict[str, tuple[Drawer, float]]:
    """Who jumps over whole segments: the base itself, guided and not, and the LoRA."""
    found = {
        f"base, guidance {guidance:g}": (studio.plain, guidance),
        "base, guidance 1": (studio.plain, 1.0),
    }
    tuned = studio.tuned
    return {**found, "LoRA": (tuned, protocol.own_guidance(tuned.made))} if tuned else found


def _final(base: Base, student: Student, path: fidelity.Path, plan: Plan, seeds: Sequence[int]) -> float:
    sampler = solvers.load(plan.settings.sampler, plan.settings.sampler_settings)
    generators = [torch.Generator().manual_seed(seed + 500_000) for seed in seeds]
    steps = plan.settings.steps
    return float(fidelity.final_errors(base.schedule, student(steps), path, sampler, steps, generators).mean())


def _segments(base: Base, student: Student, path: fidelity.Path) -> dict[str, float]:
    found = {}
    for k in fidelity.SEGMENTS:
        errors = fidelity.segment_errors(base.schedule, student(k), path, k)
        found[f"k={k}"] = float(errors.mean())
        found |= {f"k={k} segment {i}": float(error.mean()) for i, error in enumerate(errors)}
    return found


@contextmanager
def playing(drawer: Drawer, prompts: Sequence[str], guidance: float) -> Iterator[Student]:
    """The drawer's network on these prompts, its LoRA on stage if it has one."""
    base, cond = drawer.base, drawer.base.encode(prompts)
    with drawer.on_stage():
        yield lambda steps: bind(base, cond, base.null(cond), guidance, drawer.code(steps))


@contextmanager
def float32(base: Any) -> Iterator[None]:
    """No autocast inside: path errors of a good student are as small as bf16's own."""
    before = getattr(base, "autocast", None)  # None too where there is no base
    if before is not None:
        base.autocast = None
    try:
        yield
    finally:
        if before is not None:
            base.autocast = before
