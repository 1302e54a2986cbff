"""LPIPS on VGG16 (Zhang et al. 2018, arXiv 1801.03924): how far apart two pictures look.

Weights: Simonyan & Zisserman's VGG16 with LPIPS v0.1's heads, from the package
that `hypersd/evaluate/fetch.py` names; optional.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersd import tensors

REMEDY = "delete it, and fetch it again with python -m hypersd.evaluate.fetch"
FILE = "lpips-vgg16.safetensors"
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
SHIFT = (-0.030, -0.088, -0.188)  # of pictures in [-1, 1], as LPIPS scales them
SCALE = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Five depths of VGG16, unit length per place, weighted squared differences, mean over places."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        width, blocks = 3, []
        for block in BLOCKS:
            widths = pairwise((width, *block))
            blocks.append(nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in widths))
            width = block[-1]
        self.blocks: Any = nn.ModuleList(blocks)  # of lists, which mypy takes for plain modules
        self.heads = nn.ParameterList(torch.zeros(block[-1]) for block in BLOCKS)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def depths(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        x = (images * 2 - 1 - self.shift) / self.scale
        found = []
        for index, block in enumerate(self.blocks):
            x = F.max_pool2d(x, 2) if index else x
            for convolution in block:
                x = F.relu(convolution(x))
            found.append(F.normalize(x, dim=1, eps=1e-10))
        return found

    def forward(self, a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Distances of pictures in [0, 1]."""
        terms = [
            ((x - y).square() * head[:, None, None]).sum(1).mean((1, 2))
            for x, y, head in zip(self.depths(a), self.depths(b), self.heads, strict=True)
        ]
        return torch.stack(terms).sum(0)


def load(cache: Path) -> Lpips | None:
    """The network, or None where its weights were not fetched."""
    path = cache / FILE
    return read(path, REMEDY) if path.is_file() else None


def read(path: Path, remedy: str) -> Lpips:
    """Frozen, in fp32. Raises FileNotFoundError or OSError, with the remedy."""
    net, weights = Lpips(), tensors.read(path, remedy)[1]
    with tensors.readable(path, remedy):
        net.load_state_dict(weights)
    return net.eval().requires_grad_(False)
