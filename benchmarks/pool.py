"""Whether the bundled LoRA, or another, has learnt its pool of paths by heart.

    python -m benchmarks.pool [LORA ...] [--paths 256] [--out benchmarks/results/pool.json]

The same captions from the noise that it was trained on, and from new noise: how far its drawings are from where the
teacher's path ends, as |x0 − teacher's| / |teacher's| over all latents. What is more on new noise was learnt by heart.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
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


def walked(texts: Sequence[str], seed: int) -> Tensor:
    """Noise and picture of each path, n 2 c h w."""
    made, base = recipe.load(RECIPE), bases.load("emoji")
    settings = paths.Settings(pool=len(texts), seed=seed)
    whole = paths.walk(base, texts, settings, made.teacher, made.draw.points)
    return whole[:, [-1, 0]].float()


def missed(drawer: Drawer, texts: Sequence[str], path: Tensor, steps: int) -> float:
    """The relative error of DDIM's drawings from the paths' noise."""
    sampler, cond = samplers.load("ddim"), drawer.base.encode(list(texts))
    with torch.no_grad(), drawer.on_stage():
        predict = bind(drawer.base, cond, drawer.base.null(cond), 1.0, drawer.code(steps))
        grid, noise = drawer.grid(sampler, Settings(steps)), path[:, 0].to(drawer.base.device)
        drawn = sampler(predict, drawer.base.schedule, noise, grid, [torch.Generator()] * len(texts)).cpu()
    return float((drawn - path[:, 1]).norm() / path[:, 1].norm())


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
    write_json(asked.out, {"paths": len(texts), "rows": rows, "torch": torch.__version__})


if __name__ == "__main__":
    main()
