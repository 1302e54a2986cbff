"""What the judges' quality answers to: the same pictures, blurred and sharpened by little.

    python -m benchmarks.quality [--pictures 192] [--out benchmarks/results/quality.json]

Judge B, whose quality the report quotes, has learnt colours that bleed, squares that are exchanged, ghosts and too few
colours; judge A blur, noise, bends and lost detail (`emoji/degrade.py`). Neither was told what is best.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from hypersd import bases, bundled
from hypersd.atomic import write_json
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


def drawn(pictures: int) -> dict[str, Tensor]:
    """Pictures in [0, 1] of captions of the half `develop`: the teacher's, and the bundled LoRA's."""
    prompts = [caption.text for caption in captions.load("develop")][:pictures]
    base, seeds = bases.load("emoji"), range(len(prompts))
    ways = {"teacher, 25 steps": (Drawer(base), protocol.teacher(5.0).settings)}
    tuned = Drawer(bases.load("emoji"), bundled.LORA)
    for steps in (1, 4):
        ways[f"LoRA, {steps} step{'s' * (steps > 1)}"] = tuned, settings_for(tuned.made, steps)
    return {name: drawer.draw(prompts, seeds, how) for name, (drawer, how) in ways.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "quality.json")
    asked = parser.parse_args()
    a, b = judges.load_judge("a"), judges.load_judge("b")
    rows = []
    with torch.no_grad():
        for name, images in drawn(asked.pictures).items():
            for change, apply in CHANGES.items():
                changed = apply(images)
                scores = {f"judge {x}": round(float(j.quality(changed).mean()), 2) for x, j in (("A", a), ("B", b))}
                rows.append({"pictures": name, "change": change, **scores})
                print(rows[-1], flush=True)
    write_json(asked.out, {"each": asked.pictures, "rows": rows, "torch": torch.__version__}, indent=None)


if __name__ == "__main__":
    main()
