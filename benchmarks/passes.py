"""What other networks cost on the miniature, in passes of its UNet: what a budget asks for them.

    python -m benchmarks.passes [--out benchmarks/results/passes.json]

By multiplications for one sample, without a gradient (`hypersd/evaluate/passes.py`). VGG16 needs
`python -m hypersd.evaluate.fetch lpips`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from hypersd import bases, judges
from hypersd.atomic import write_json
from hypersd.evaluate.passes import flops

PROMPT = ["a woman firefighter with medium-dark skin, flat style"]


@torch.no_grad()
def measured() -> dict[str, Any]:
    base = bases.load("emoji")
    latents, t, cond = torch.zeros(1, *base.latent_shape()), torch.tensor([500]), base.encode(PROMPT)
    picture = base.to_images(latents)
    found = {name: flops(judges.load(name), (picture, PROMPT), learns=False) for name in ("emoji-a", "emoji-b")}
    unet = flops(base.unet, (latents, t, cond.tokens), learns=False)
    decoder = flops(base.vae.decoder, (latents,), learns=False)
    segmenter = flops(
        judges.load_perceptual("emoji-mask"), (picture, torch.ones(1, 1, *picture.shape[2:])), learns=False
    )
    pair = flops(judges.load_perceptual("lpips"), (picture, picture), learns=False)
    others = {"decoder": decoder, **found, "emoji-mask": segmenter, "VGG16, a picture": pair / 2}
    return {
        "unet_gflop": round(unet / 1e9, 3),
        "passes": {name: round(each / unet, 2) for name, each in others.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "passes.json")
    asked = parser.parse_args()
    found = measured()
    print(found)
    write_json(asked.out, found, indent=None)


if __name__ == "__main__":
    main()
