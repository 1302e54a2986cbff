"""The same prompts and seeds drawn in several ways, side by side, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from hypersd.draw.pipeline import Drawer, Settings
from hypersd.draw.png import to_pil
from hypersd.draw.sheet import Column, Sheet

BATCH = 8


@dataclass(frozen=True)
class Way:
    """One way to draw: a column of a sheet. `lora` is None for the base alone."""

    group: str
    settings: Settings
    lora: Path | None = None

    @property
    def label(self) -> str:
        return f"{self.settings.steps} step{'s' if self.settings.steps > 1 else ''}"

    @property
    def evaluations(self) -> int:
        """Network evaluations a picture: guidance costs two a step."""
        return self.settings.steps * (1 if self.settings.guidance_scale in (0, 1) else 2)


@dataclass(frozen=True)
class Drawn:
    """What a way drew, one picture for each prompt."""

    way: Way
    images: Tensor
    seconds: float
    """For each picture."""

    def pictures(self) -> list[Image.Image]:
        return [to_pil(image) for image in self.images]


def draw_ways(
    base: str,
    ways: Sequence[Way],
    prompts: Sequence[str],
    seeds: Sequence[int],
    scale: float = 1.0,
    progress: Callable[[Way], None] = lambda way: None,
) -> list[Drawn]:
    """Every prompt with its seed, in every way; a base is loaded once for each LoRA."""
    drawn: dict[int, Drawn] = {}
    for lora in dict.fromkeys(way.lora for way in ways):
        drawer = Drawer.load(base, lora, scale)
        drawer.draw(prompts[:1], seeds[:1], Settings(steps=1))  # the first call is slower: not timed
        for index, way in enumerate(ways):
            if way.lora == lora:
                progress(way)
                drawn[index] = draw_way(drawer, way, prompts, seeds)
    return [drawn[index] for index in range(len(ways))]


def draw_way(drawer: Drawer, way: Way, prompts: Sequence[str], seeds: Sequence[int]) -> Drawn:
    began = time.perf_counter()
    batches = [
        drawer.draw(prompts[i : i + BATCH], seeds[i : i + BATCH], way.settings).cpu()
        for i in range(0, len(prompts), BATCH)
    ]
    return Drawn(way, torch.cat(batches), (time.perf_counter() - began) / len(prompts))


def to_sheet(drawn: Sequence[Drawn], rows: Sequence[str], note: str = "") -> Sheet:
    """One row for each prompt, one column for each way."""
    columns = [Column(item.way.group, item.way.label) for item in drawn]
    by_column = [item.pictures() for item in drawn]
    cells = [[pictures[row] for pictures in by_column] for row in range(len(rows))]
    return Sheet(rows, columns, cells, note)
