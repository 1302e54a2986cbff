"""What one LoRA for every number of steps costs, and what a first jump of its own for each gives, on Gaussian data.

    python -m benchmarks.compromise [--updates 400] [--out benchmarks/results/compromise.json]

The same whole drawings in four ways: a LoRA for each number of steps alone, one for all, one for all that begins a
single step lower (`sampler.one_step`), and one for all that is told the number of steps (`sampler.step_code`). The
answer is the standard deviation of what is drawn over that of the teacher's own drawings: 1 where nothing is lost.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from hypersd import bases, recipe
from hypersd.atomic import write_json
from hypersd.diffusion.grids import trailing
from hypersd.diffusion.solver import ode_walk
from hypersd.distill.train import train
from hypersd.draw.pipeline import Drawer, bind, settings_for

ROOT = Path(__file__).parents[1]
STEPS = (1, 2, 4, 8)
DRAWN = 256
RECIPE: dict[str, Any] = {
    "name": "compromise",
    "base": "toy",
    "data": {"kind": "paths", "pool": 256},
    "lora": {"rank": 1, "dtype": "fp32"},
    "teacher": {"guidance": [1, 1], "substeps": 5},
    "draw": {"points": 8, "end": "visited", "visited_share": 1.0, "samplers": ["ddim"], "steps": STEPS},
    "optimiser": {"lr": 0.02, "betas": [0.9, 0.99], "decay": "cosine", "max_norm": 1e9},
    "losses": {"rollout": {"distance": "mse"}},
    "batch": 32,
}
WAYS = {"one for all": {}, "a single step from 700": {"one_step": 700}, "told the number": {"step_code": 3}}


def drawn(updates: int, steps: tuple[int, ...], sampler: dict[str, int]) -> dict[int, float]:
    """The standard deviation of what is drawn in each number of steps, by a LoRA for those."""
    asked = {**RECIPE, "sampler": sampler, "stages": [{"segments": 1, "iterations": updates}]}
    asked["draw"] = {**RECIPE["draw"], "steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        drawer = Drawer(bases.load("toy", "cpu"), train(recipe.parse(asked), Path(folder)))
    ways = {n: settings_for(drawer.made, n) for n in steps}
    return {n: float(drawer.latents([""] * DRAWN, range(DRAWN), way).std()) for n, way in ways.items()}


def teacher() -> float:
    """Of the path that students are taught, from the same noise."""
    toy = bases.load("toy", "cpu")
    cond = toy.encode([""] * DRAWN)
    shape = toy.latent_shape()
    noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(DRAWN)])
    points = RECIPE["draw"]["points"] * RECIPE["teacher"]["substeps"]
    return float(ode_walk(toy.schedule, bind(toy, cond, cond, 1.0), noise, [*trailing(points), -1]).std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "compromise.json")
    asked = parser.parse_args()
    unit = teacher()
    alone = {n: drawn(asked.updates, (n,), {})[n] for n in STEPS}
    found = {"each alone": alone, **{way: drawn(asked.updates, STEPS, sampler) for way, sampler in WAYS.items()}}
    ratios = {way: {str(n): std / unit for n, std in stds.items()} for way, stds in found.items()}
    for way, values in ratios.items():
        print(f"{way:24}", *(f"{value:.3f}" for value in values.values()))
    about = {"updates": asked.updates, "drawn": DRAWN, "torch": torch.__version__}
    write_json(asked.out, {"over_teacher": ratios, **about})


if __name__ == "__main__":
    main()
