"""Where a single step of the bundled LoRA, or another, had best begin.

    python -m benchmarks.one_step [LORA] [--at 690,700,705,710,715,720] [--out benchmarks/results/one_step.json]

500 pictures of the half `develop`, drawn in one step from each timestep, which all samplers do alike:
what `hypersd evaluate` measures. `hypersd merge --one-step` writes the answer into a LoRA's header.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypersd import bundled
from hypersd.atomic import write_json
from hypersd.cli.options import numbers
from hypersd.evaluate import captions, measures, protocol, real, rows
from hypersd.evaluate.evaluation import open_studio
from hypersd.evaluate.fetch import cache_folder
from hypersd.lora import files

ROOT = Path(__file__).parents[1]
SPLIT, PICTURES, GUIDANCE = "develop", 500, 5.0
SHOWN = ("alignment", "recall_at_1", "quality", "fd_teacher", "fd_real", "saturation")


def opened(lora: Path) -> tuple[rows.Job, measures.Ruler, Any]:
    """What draws, what measures, and what the LoRA's header says of it."""
    texts = captions.load(SPLIT)
    own, pictured = captions.paired(len(texts), PICTURES), real.load(texts)
    studio = open_studio("emoji", lora, 1.0, "fp32", cache_folder(), None, False)
    job = rows.Job(studio, SPLIT, texts, own, 1, (1,), GUIDANCE, 0, rows.Meter(lambda label, share: None, 1))
    reference = job.draw(protocol.teacher(GUIDANCE), protocol.REFERENCE)
    return job, measures.ruler(reference, pictured, captions.retrieval(texts), own, studio.eyes), files.read(lora)


def keep(out: Path, lora: Path, found: dict[str, dict[str, float]]) -> None:
    """Prints and writes the measures that are shown, by what each row is called."""
    shown = {name: {key: round(values[key], 3) for key in SHOWN} for name, values in found.items()}
    for name, values in shown.items():
        print(name, values)
    digest = hashlib.sha256(lora.read_bytes()).hexdigest()
    write_json(out, {"lora": lora.stem, "sha256": digest[:12], "rows": shown}, indent=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora", type=Path, nargs="?", default=bundled.LORA)
    parser.add_argument("--at", default="690,700,705,710,715,720", help="timesteps")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "one_step.json")
    asked = parser.parse_args()
    begins = numbers(asked.at, "--at")
    job, ruler, made = opened(asked.lora)
    plan = protocol.students([1], made)[0]
    drawn = {"teacher": job.draw(protocol.teacher(GUIDANCE), 1)}
    for t in begins:
        how = replace(plan.settings, sampler_settings={"one_step": t})
        drawn[f"one step from {t}"] = job.draw(replace(plan, settings=how), 1)
    keep(asked.out, asked.lora, {name: ruler.measure(pictures) for name, pictures in drawn.items()})


if __name__ == "__main__":
    main()
