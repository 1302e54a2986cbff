"""What one distillation update of the miniature costs, by precision, attention and LoRA.

    python -m benchmarks.training_step [--batch 64] [--repeats 5] [--out benchmarks/results/training_step.json]

Each way is timed in turn, round after round, so that a noisy machine disturbs all alike; the smallest of
the rounds is what stands.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hypersd import recipe as recipes
from hypersd.atomic import write_json
from hypersd.distill import train
from hypersd.distill.watch import Silent

ROOT = Path(__file__).parents[1]
STAGES = {"jumps": 0, "drawings": 3}
"""Of recipes/emoji.yaml: a sample is one jump in the first, a whole drawing of 1 to 8 jumps in the fourth."""


@dataclass(frozen=True)
class Way:
    samples: str = "jumps"
    precision: str = "bf16"
    attention: str = "plain"
    lora: str = "beside"


WAYS = (
    Way(precision="fp32", attention="fused"),
    Way(precision="fp32"),
    Way(attention="fused"),
    Way(),
    Way(lora="folded"),
    Way("drawings"),
    Way("drawings", lora="folded"),
)


def update(way: Way, batch: int, out: Path) -> Callable[[int], Any]:
    """One update of the miniature's LoRA, as a function of the iteration."""
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    asked = [f"batch={batch}", f"precision={way.precision}", f"lora.fold={way.lora == 'folded'}"]
    run = train._open(
        recipes.load(ROOT / "recipes" / "emoji.yaml", [*asked, "data.pool=64", "data.held=0"]), out, Silent()
    )
    unet: Any = run.base.unet
    unet.set_attn_processor(AttnProcessor() if way.attention == "plain" else AttnProcessor2_0())
    stage = train._begin(run, STAGES[way.samples], fresh=True)
    return lambda iteration: train._iterate(run, stage, iteration)


def measure(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Milliseconds a sample of every way, the smallest of `repeats` rounds."""
    with tempfile.TemporaryDirectory() as folder:
        updates = [update(way, batch, Path(folder)) for way in WAYS]
        seconds: list[list[float]] = [[] for _ in WAYS]
        for repeat in range(repeats + 1):
            for taken, work in zip(seconds, updates, strict=True):
                clock = time.perf_counter()
                work(repeat)
                taken.append(time.perf_counter() - clock)
    return [{**asdict(way), "ms": 1000 * min(taken[1:]) / batch} for way, taken in zip(WAYS, seconds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "training_step.json")
    asked = parser.parse_args()
    rows = measure(asked.batch, asked.repeats)
    for row in rows:
        print("  ".join(f"{value:8}" for key, value in row.items() if key != "ms"), f"{row['ms']:6.1f} ms a sample")
    about = {"batch": asked.batch, "threads": torch.get_num_threads(), "torch": torch.__version__}
    write_json(asked.out, {"rows": rows, **about})


if __name__ == "__main__":
    main()
