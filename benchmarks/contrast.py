"""What contrast does to the measures: the same drawings, their latents scaled before they are decoded.

    python -m benchmarks.contrast LORA ... [--steps 4,8] [--by 0.9,0.95,1,1.05,1.1] [--out FILE]

500 pictures of the half `develop`, as in `hypersd bench methods`: the teacher's, and each LoRA's with DDIM. Saturation
is over the teacher's: two methods that draw at different ones can be compared where they are alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.one_step import GUIDANCE, ROOT, SHOWN, opened
from hypersd.atomic import write_json
from hypersd.cli.options import numbers
from hypersd.evaluate import measures, protocol, sets
from hypersd.evaluate.protocol import Plan
from hypersd.evaluate.rows import Job


def scaled(job: Job, ruler: measures.Ruler, plan: Plan, factors: Sequence[float]) -> Iterator[dict[str, float]]:
    """The measures of a plan's first set, its latents times each factor: drawn once, and looked at for each."""
    prompts = [job.captions[i].text for i in job.own.tolist()]
    seeds, drawer = protocol.seeds(job.split, 1, len(prompts)), job.studio.drawer(plan)
    parts = [slice(begin, begin + sets.BATCH) for begin in range(0, len(prompts), sets.BATCH)]
    latents = [drawer.latents(prompts[part], seeds[part], plan.settings) for part in parts]
    for factor in factors:
        seen = [looked_at(job, latent * factor, part.start) for latent, part in zip(latents, parts, strict=True)]
        values = ruler.measure({name: torch.cat([each[name] for each in seen]) for name in seen[0]})
        yield {"latents by": factor, **{name: round(values[name], 3) for name in SHOWN}}


@torch.no_grad()
def looked_at(job: Job, latents: Tensor, start: int) -> sets.Set:
    images = job.studio.base.to_images(latents)
    kept = job.studio.eyes.look(images, start, False)
    return {**kept, "chroma": sets.chroma(images), "seconds": torch.zeros(len(images))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loras", nargs="+", type=Path)
    parser.add_argument("--steps", default="4,8")
    parser.add_argument("--by", default="0.9,0.95,1,1.05,1.1")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "contrast.json")
    asked = parser.parse_args()
    steps, factors = numbers(asked.steps, "--steps"), [float(factor) for factor in asked.by.split(",")]
    rows: list[dict[str, Any]] = []
    for lora in asked.loras:
        job, ruler, made = opened(lora)
        plans = [] if rows else [("teacher", protocol.teacher(GUIDANCE))]
        plans += [(lora.parent.name, p) for p in protocol.students(steps, made) if p.settings.sampler == "ddim"]
        for name, plan in plans:
            for values in scaled(job, ruler, plan, factors):
                rows.append({"pictures": name, "steps": plan.settings.steps, **values})
                print(rows[-1], flush=True)
    write_json(asked.out, {"each": len(job.own), "rows": rows, "torch": torch.__version__}, indent=None)


if __name__ == "__main__":
    main()
