"""What the judges' quality answers to: the same pictures, blurred and sharpened by little; and how sharp they are.

    python -m benchmarks.quality [LORA ...] [--steps 1,4] [--pictures 192] [--out benchmarks/results/quality.json]

The bundled LoRA is drawn, or those that are named. Judge B, whose quality the report quotes, has learnt colours that
bleed, squares that are exchanged, ghosts and too few colours; judge A blur, noise, bends and lost detail
(`emoji/degrade.py`). Neither was told what is best. Edges are the mean square of the grey pictures' Laplacian, over
that of the teacher's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hypersd import bases, bundled
from hypersd.atomic import write_json
from hypersd.cli.options import numbers
from hypersd.draw.pipeline import Drawer, settings_for
from hypersd.evaluate import captions, protocol
from hypersd.judges import emoji as judges

ROOT = Path(__file__).parents[1]
RADIUS = 3
"""Pixels that a blurred one takes from, either way."""


def blurred(images: Tensor, sigma: float) -> Tensor:
    """By a Gaussian of `sigma` pixels."""
    weights = torch.exp(-torch.arange(-RADIUS, RADIUS + 1).float().square() / (2 * sigma**2))
    kernel = torch.outer(weights, weights) / weights.sum().square()
    padded = F.pad(images, (RADIUS,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.expand(3, 1, -1, -1).contiguous(), groups=3)


def sharpened(images: Tensor, share: float) -> Tensor:
    """By an unsharp mask of 0.8 pixels."""
    return (images + share * (images - blurred(images, 0.8))).clamp(0, 1)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "as drawn": lambda images: images,
    "blurred, 0.25 px": lambda images: blurred(images, 0.25),
    "blurred, 0.5 px": lambda images: blurred(images, 0.5),
    "blurred, 1 px": lambda images: blurred(images, 1.0),
    "sharpened, 0.3": lambda images: sharpened(images, 0.3),
    "sharpened, 0.6": lambda images: sharpened(images, 0.6),
}


LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]


def edges(images: Tensor) -> float:
    """How much detail stands out: the mean square of the grey pictures' Laplacian."""
    return float(F.conv2d(images.mean(1, keepdim=True), LAPLACIAN).square().mean())


def drawn(loras: Sequence[Path], steps: Sequence[int], pictures: int) -> dict[str, Tensor]:
    """Pictures in [0, 1] of captions of the half `develop`: the teacher's first, then each LoRA's."""
    prompts = [caption.text for caption in captions.load("develop")][:pictures]
    base, seeds = bases.load("emoji"), range(len(prompts))
    ways = {"teacher, 25 steps": (Drawer(base), protocol.teacher(5.0).settings)}
    for lora in loras:
        tuned = Drawer(bases.load("emoji"), lora)
        for n in steps:
            ways[f"{lora.parent.name}, {n} step{'s' * (n > 1)}"] = tuned, settings_for(tuned.made, n)
    return {name: drawer.draw(prompts, seeds, how) for name, (drawer, how) in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loras", nargs="*", type=Path, default=[bundled.LORA])
    parser.add_argument("--steps", default="1,4")
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "quality.json")
    asked = parser.parse_args()
    a, b = judges.load_judge("a"), judges.load_judge("b")
    rows: list[dict[str, Any]] = []
    found = drawn(asked.loras, numbers(asked.steps, "--steps"), asked.pictures)
    usual = edges(found["teacher, 25 steps"])
    with torch.no_grad():
        for name, images in found.items():
            for change, apply in CHANGES.items():
                changed = apply(images)
                seen = {f"judge {x}": float(j.quality(changed).mean()) for x, j in (("A", a), ("B", b))}
                seen["edges"] = edges(changed) / usual
                rows.append({"pictures": name, "change": change, **{key: round(v, 2) for key, v in seen.items()}})
                print(rows[-1], flush=True)
    write_json(asked.out, {"each": asked.pictures, "rows": rows, "torch": torch.__version__}, indent=None)


if __name__ == "__main__":
    main()
