"""What `draw.together` saves: whole drawings of mixed numbers of steps, all of an update's alike or each its own.

    python -m benchmarks.together [--updates 30] [--batch 32] [--out benchmarks/results/together.json]

The same updates of the first stage of recipes/emoji.yaml that has it, in both ways, update by update in turn, so
that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from hypersd import recipe as recipes
from hypersd.atomic import write_json
from hypersd.distill import train
from hypersd.distill.watch import Silent

ROOT = Path(__file__).parents[1]
WARM = 2
"""Updates before the clock runs."""


def measure(updates: int, batch: int) -> dict[str, float]:
    """Seconds an update, in both ways."""
    seconds = {False: 0.0, True: 0.0}
    with tempfile.TemporaryDirectory() as folder:
        begun = {}
        for together in seconds:
            asked = [f"batch={batch}", "data.pool=64", "data.held=0"]
            recipe = recipes.load(ROOT / "recipes" / "emoji.yaml", asked)
            first = next(i for i, stage in enumerate(recipe.stages) if "draw.together" in stage.override)
            recipe.stages[first].override["draw.together"] = together
            run = train._open(recipe, Path(folder), Silent())
            begun[together] = run, train._begin(run, first, fresh=True)
        for update in range(-WARM, updates):
            for together, (run, stage) in begun.items():
                clock = time.perf_counter()
                train._iterate(run, stage, update % stage.student.iterations)
                seconds[together] += (time.perf_counter() - clock) * (update >= 0)
    return {"apart": seconds[False] / updates, "together": seconds[True] / updates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "together.json")
    asked = parser.parse_args()
    found = measure(asked.updates, asked.batch)
    ratio = found["together"] / found["apart"]
    print(f"{found['apart']:.2f} s an update with each its own, {found['together']:.2f} together: {ratio:.2f} of it")
    about = {"updates": asked.updates, "batch": asked.batch, "threads": torch.get_num_threads()}
    write_json(asked.out, {"seconds": found, "ratio": ratio, **about, "torch": torch.__version__})


if __name__ == "__main__":
    main()
