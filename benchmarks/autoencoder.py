"""What of the distance to real pictures is the miniature's autoencoder's, and what is left beside it.

    python -m benchmarks.autoencoder [LORA ...] [--config emoji/cpu.yaml] [--out benchmarks/results/autoencoder.json]

The held-out pictures, as the autoencoder gives them back, against themselves: what the best of latents gets. Then what
the teacher and LoRAs (the bundled one, if none is named) draw of the captions of `develop`, against the held-out
pictures (`fd_real`, as in reports) and against those that went through the same autoencoder (`fd_decoded`), both above
the floor. The first run builds the pictures, see emoji/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emoji.config import read_config
from emoji.dataset import build, load_pictures, on_white, read_records
from emoji.evaluation import held_out
from hypersd import bases, bundled
from hypersd.atomic import write_json
from hypersd.evaluate import captions, eyes, frechet, protocol, real
from hypersd.evaluate.evaluation import open_studio
from hypersd.evaluate.fetch import cache_folder
from hypersd.evaluate.rows import Job, Meter

ROOT = Path(__file__).parents[1]
SPLIT, DRAWN, GUIDANCE, BATCH = "develop", 500, 5.0, 64
STEPS = (1, 2, 4, 8)


def pictures(config: Path) -> Tensor:
    """The held-out ones, n 3 h w in [0, 1], in the order in which `real.load` has their features."""
    read = read_config(config)
    out = build(read)
    found = on_white(load_pictures(out, held_out(read_records(out, read.styles)), read.size))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return torch.from_numpy(found)[order].permute(0, 3, 1, 2) / 255


@torch.no_grad()
def through(images: Tensor) -> Tensor:
    """As the bundled autoencoder gives them back."""
    vae = bases.load("emoji").vae
    decoded = [vae.decode(vae.encode(x * 2 - 1).latent_dist.mean).sample / 2 + 0.5 for x in images.split(BATCH)]
    return torch.cat(decoded).clamp(0, 1)


def apart(a: Tensor, b: Tensor) -> float:
    """FD above the floor between one's first half and the other's second, which share no picture."""
    (first, second), (third, fourth) = frechet.halves(a), frechet.halves(b)
    return (frechet.distance(first, fourth) + frechet.distance(second, third)) / 2 - frechet.floor(b)


def drawn(loras: Sequence[Path]) -> list[tuple[str, str, dict[str, Tensor]]]:
    """(file, way of drawing, what was seen) of the teacher and of each LoRA, kept in the cache as reports' sets are."""
    asked = captions.load(SPLIT)
    own, meter = captions.paired(len(asked), DRAWN), Meter(lambda what, share: None, 1)
    found = []
    for lora in loras:
        studio = open_studio("emoji", lora, 1.0, "fp32", cache_folder(), None, False)
        job = Job(studio, SPLIT, asked, own, 1, STEPS, GUIDANCE, 0, meter)
        if not found:
            teacher = protocol.teacher(GUIDANCE)
            found.append(("teacher", teacher.label, job.draw(teacher, 1)))
        name = "bundled" if lora == bundled.LORA else lora.parent.name
        found += [(name, plan.label, job.draw(plan, 1)) for plan in protocol.students(STEPS, studio.tuned.made)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("loras", nargs="*", type=Path, default=[bundled.LORA])
    parser.add_argument("--config", type=Path, default=ROOT / "emoji" / "cpu.yaml")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "autoencoder.json")
    asked = parser.parse_args()
    see, there = eyes.load(cache_folder(), optional=False), real.load(captions.load(SPLIT))
    basis = frechet.principal(there.features)
    kept, rows = basis.project(there.held_out), []

    def tell(name: str, way: str, quality: Tensor, **distances: float) -> None:
        numbers = {"quality": float(quality.mean()), **distances}
        rows.append({"pictures": name, "way": way, **{key: float(f"{value:.4g}") for key, value in numbers.items()}})
        print(rows[-1], flush=True)

    own = pictures(asked.config)
    seen, decoded = looked_at(own, see), looked_at(through(own), see)
    ideal = basis.project(decoded["features"])
    tell("real, held out", "as they are", seen["quality"], fd_real=apart(basis.project(seen["features"]), kept))
    tell("real, held out", "through the autoencoder", decoded["quality"], fd_real=apart(ideal, kept))
    for name, way, found in drawn(asked.loras):
        features = basis.project(found["features"])[: len(kept)]
        far = {"fd_real": kept, "fd_decoded": ideal}
        far = {key: frechet.between_halves(features, to) - frechet.floor(to) for key, to in far.items()}
        tell(name, way, found["quality"], **far)
    write_json(asked.out, {"each": DRAWN, "rows": rows, "torch": torch.__version__}, indent=None)


def looked_at(images: Tensor, see: eyes.Eyes) -> dict[str, Any]:
    parts = [see.look(batch) for batch in images.split(BATCH)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


if __name__ == "__main__":
    main()
