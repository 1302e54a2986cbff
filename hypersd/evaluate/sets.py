"""Draws a set of pictures and keeps what the networks see in them, chunk by chunk, on disk.

A chunk's file is named by everything that decides its pictures, so that an interrupted evaluation goes on
where it was, and the teacher's pictures are drawn once for all LoRAs of a base. Processes that are given the same
evaluation share its chunks.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from hypersd import sharing, tensors
from hypersd.atomic import write_bytes, write_json
from hypersd.bases import Base
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.evaluate import solvers
from hypersd.evaluate.eyes import Eyes
from hypersd.evaluate.protocol import Plan

VERSION = 1  # of what is kept; raise it when the same settings would give other numbers, or a default is another
CHUNK, BATCH = 128, 64
REMEDY = "delete it: it is only kept to save time"
OF_BASE = ("base", "precision", "device")
Set = dict[str, Tensor]
"""features, judged, quality, seconds, chroma, perhaps second and apart: a row for each picture (apart: pair)."""


@dataclass(frozen=True)
class Studio:
    """The base with and without the LoRA, and who looks at what they draw."""

    plain: Drawer
    tuned: Drawer | None
    eyes: Eyes
    cache: Path
    identity: dict[str, str] = field(default_factory=dict)
    """sha256 of the weights of the base and of the LoRA."""

    @property
    def base(self) -> Base:
        return self.plain.base

    def drawer(self, plan: Plan) -> Drawer:
        if not plan.lora:
            return self.plain
        assert self.tuned is not None, "a plan with a LoRA, and none was given"
        return self.tuned

    def key(self, plan: Plan, prompts: Sequence[str], seeds: Sequence[int], second: bool) -> dict[str, Any]:
        """Everything that decides a set, the LoRA only where it draws."""
        weights = self.identity if plan.lora else {k: v for k, v in self.identity.items() if k in OF_BASE}
        about = {"version": VERSION, "weights": weights, "eyes": self.eyes.name, "second": second}
        about |= {"settings": changed(plan.settings), "lora": plan.lora, "seeds": [seeds[0], len(seeds)]}
        return about | {"prompts": digest("\n".join(prompts).encode())}

    def measure(
        self,
        plan: Plan,
        prompts: Sequence[str],
        seeds: Sequence[int],
        second: bool = True,
        tick: Callable[[int], None] = lambda pictures: None,
    ) -> Set:
        """The set, from the cache as far as it is there. `second` lets the slow ResNet50 look too."""
        about = self.key(plan, prompts, seeds, second)
        folder = self.cache / "sets" / digest(json.dumps(about, sort_keys=True).encode())[:16]
        starts = range(0, len(prompts), CHUNK)
        files = {start: folder / f"{start:06d}.safetensors" for start in starts}

        def make(start: int) -> None:
            part = slice(start, start + CHUNK)
            drawn = self._draw(plan, prompts[part], seeds[part], second, start)
            write_json(folder / "about.json", about)
            write_bytes(files[start], save(drawn))

        chunks: dict[int, Set] = {}
        for wait in (False, True):  # what another process is drawing comes last
            for start in starts:
                if start not in chunks and sharing.have(files[start], partial(make, start), wait):
                    chunks[start] = tensors.read(files[start], REMEDY)[1]
                    tick(len(chunks[start]["seconds"]))
        ordered = [chunks[start] for start in starts]
        return {name: torch.cat([c[name] for c in ordered if name in c]) for name in ordered[0]}

    def _draw(self, plan: Plan, prompts: Sequence[str], seeds: Sequence[int], second: bool, start: int) -> Set:
        seen = []
        for begin in range(0, len(prompts), BATCH):
            part, clock = slice(begin, begin + BATCH), time.perf_counter()
            images = draw(self.drawer(plan), prompts[part], seeds[part], plan.settings)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)  # until then it is only on its way
            seconds = (time.perf_counter() - clock) / len(images)
            kept = self.eyes.look(images, start + begin, second)
            seen.append({**kept, "chroma": chroma(images), "seconds": torch.full((len(images),), seconds)})
        together = {name: torch.cat([s[name] for s in seen if name in s]).cpu() for name in seen[0]}
        halved = {"features", "second"}  # in fp16, as the features of real pictures are kept
        return {k: v.half() if k in halved else v.float() for k, v in together.items()}


def changed(settings: Settings) -> dict[str, Any]:
    """What differs from the defaults, so that a setting that comes later and is left alone spoils no cache."""
    usual = vars(Settings())
    return {name: value for name, value in vars(settings).items() if value != usual[name]}


def draw(drawer: Drawer, prompts: Sequence[str], seeds: Sequence[int], settings: Settings) -> Float[Tensor, "b 3 h w"]:
    """Pictures in [0, 1]: `Drawer.draw`, with diffusers' solvers among the samplers."""
    sampler = solvers.load(settings.sampler, settings.sampler_settings)
    return drawer.draw(prompts, seeds, settings, sampler=sampler)


def chroma(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """How colourful: a pixel's largest channel less its smallest, the mean over a picture."""
    return (images.amax(1) - images.amin(1)).mean((1, 2))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def weights_digest(path: Path) -> str:
    """sha256 of a file, or of every safetensors and JSON file of a folder with its name."""
    if path.is_file():
        return digest(path.read_bytes())
    files = sorted(p for p in path.rglob("*") if p.suffix in (".safetensors", ".json", ".txt"))
    return digest("".join(f"{p.relative_to(path)} {digest(p.read_bytes())}\n" for p in files).encode())
