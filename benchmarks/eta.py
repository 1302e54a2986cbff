"""How noisy TCD's sampler may be on the bundled LoRA, or another: its η, the share of noise that is drawn anew.

    python -m benchmarks.eta [LORA] [--steps 2,4,8] [--eta 0,0.3,0.6,1] [--out benchmarks/results/eta.json]

500 pictures of the half `develop` a row, measured as by `hypersd evaluate`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.one_step import ROOT, keep, opened
from hypersd import bundled
from hypersd.cli.options import numbers
from hypersd.evaluate import protocol


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora", type=Path, nargs="?", default=bundled.LORA)
    parser.add_argument("--steps", default="2,4,8")
    parser.add_argument("--eta", default="0,0.3,0.6,1")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "eta.json")
    asked = parser.parse_args()
    job, ruler, made = opened(asked.lora)
    plans = [
        plan for plan in protocol.students(numbers(asked.steps, "--steps"), made) if plan.settings.sampler == "tcd"
    ]
    found = {}
    for plan in plans:
        for eta in map(float, asked.eta.split(",")):
            how = replace(plan.settings, sampler_settings={**plan.settings.sampler_settings, "eta": eta})
            name = f"{plan.settings.steps} steps, eta {eta:g}"
            found[name] = ruler.measure(job.draw(replace(plan, settings=how), 1))
    keep(asked.out, asked.lora, found)


if __name__ == "__main__":
    main()
