"""Whether the bundled LoRA, or another, has learnt its pool of paths by heart.

    python -m benchmarks.pool [LORA ...] [--paths 256] [--out benchmarks/results/pool.json]

The same captions from the noise that it was trained on, and from new noise: how far its drawings are from where the
teacher's path ends, as |x0 − teacher's| / |teacher's| over all latents; for a single step where the milder path ends
that the recipe teaches it. What is more on new noise was learnt by heart.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypersd import bases, bundled, recipe
from hypersd.atomic import write_json
from hypersd.diffusion import samplers
from hypersd.distill import paths
from hypersd.distill.data import read_prompts
from hypersd.draw.pipeline import Drawer, Settings, bind

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "emoji.yaml"
NEW = 1
"""The seed of paths that none was trained on; the recipe's is 0."""
STEPS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Walked:
    """Paths from one kind of noise, n c h w."""

    noise: Tensor
    end: Tensor
    milder: Tensor
    """What a single step is taught."""


def walked(texts: Sequence[str], seed: int) -> Walked:
    made, base = recipe.load(RECIPE), bases.load("emoji")
    settings, points = paths.Settings(pool=len(texts), seed=seed), made.draw.points
    mild = made.data["one_step_guidance"]
    teachers = made.teacher, made.teacher.model_copy(update={"guidance": (mild, mild)})
    own, milder = (paths.walk(base, texts, settings, teacher, points).float() for teacher in teachers)
    return Walked(own[:, -1], own[:, 0], milder[:, 0])


def missed(drawer: Drawer, texts: Sequence[str], path: Walked, steps: int) -> float:
    """The relative error of DDIM's drawings from the paths' noise."""
    end = path.milder if steps == 1 else path.end
    sampler, cond = samplers.load("ddim"), drawer.base.encode(list(texts))
    with torch.no_grad(), drawer.on_stage():
        predict = bind(drawer.base, cond, drawer.base.null(cond), 1.0, drawer.code(steps))
        grid, noise = drawer.grid(sampler, Settings(steps)), path.noise.to(drawer.base.device)
        drawn = sampler(predict, drawer.base.schedule, noise, grid, [torch.Generator()] * len(texts)).cpu()
    return float((drawn - end).norm() / end.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora", type=Path, nargs="*", default=[bundled.LORA])
    parser.add_argument("--paths", type=int, default=256, help="of either kind; the recipe's first")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "pool.json")
    asked = parser.parse_args()
    texts = read_prompts(None)[: asked.paths]
    of = {"trained on": walked(texts, 0), "new": walked(texts, NEW)}
    rows: list[dict[str, Any]] = []
    for file in asked.lora:
        drawer, digest = Drawer.load("emoji", file), hashlib.sha256(file.read_bytes()).hexdigest()
        for steps in STEPS:
            errors = {kind: round(missed(drawer, texts, path, steps), 4) for kind, path in of.items()}
            rows.append({"lora": file.stem, "sha256": digest[:12], "steps": steps, **errors})
            print(rows[-1], flush=True)
    write_json(asked.out, {"paths": len(texts), "rows": rows, "torch": torch.__version__}, indent=None)


if __name__ == "__main__":
    main()
