"""ResNet50 (He et al. 2015), an ImageNet classifier: the second opinion on Fréchet distance.

Keras' weights and layout (stride in a block's first 1×1 convolution, biases, blue-green-red pictures with
the ImageNet mean subtracted), from the package that `fetch.py` names; optional.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hypersd import tensors

REMEDY = "delete it, and fetch it again with python -m hypersd.evaluate.fetch"
FILE = "resnet50-imagenet.safetensors"
STAGES = ((64, "abc"), (128, "abcd"), (256, "abcdef"), (512, "abc"))
MEAN = (103.939, 116.779, 123.68)  # blue, green, red
EPS = 1e-3
SIZE = 112  # pixels: half of what it was trained on, a quarter of the time; our pictures have 64 to 128


def unit(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its batch normalisation."""
    convolution = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside, eps=EPS))


class Block(nn.Module):
    """1×1, 3×3, 1×1, added to what came in."""

    def __init__(self, inside: int, width: int, stride: int, widens: bool) -> None:
        super().__init__()
        self.branch2a = unit(inside, width, 1, stride)
        self.branch2b = unit(width, width, 3)
        self.branch2c = unit(width, 4 * width, 1)
        self.branch1 = unit(inside, 4 * width, 1, stride) if widens else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.branch2b(F.relu(self.branch2a(x))))
        return F.relu(self.branch2c(y) + self.branch1(x))


class ResNet50(nn.Module):
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 64, 7, 2)
        blocks, inside = {}, 64
        for number, (width, letters) in enumerate(STAGES, start=2):
            for letter in letters:
                first = letter == "a"
                blocks[f"{number}{letter}"] = Block(inside, width, 2 if first and number > 2 else 1, first)
                inside = 4 * width
        self.blocks = nn.ModuleDict(blocks)
        self.head = nn.Linear(inside, 1000)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2048"]:
        """Pooled features of pictures in [0, 1]."""
        x = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        x = (x.flip(1) * 255 - self.mean).contiguous(memory_format=torch.channels_last)  # faster on a CPU
        x = self.stem(x)
        x = F.max_pool2d(F.relu(x), 3, 2, padding=1)
        for block in self.blocks.values():
            x = block(x)
        return x.mean((2, 3))


def load(cache: Path) -> ResNet50 | None:
    """The network, or None where its weights were not fetched."""
    path = cache / FILE
    if not path.is_file():
        return None
    net, weights = ResNet50(), tensors.read(path, REMEDY)[1]
    with tensors.readable(path, REMEDY):
        net.load_state_dict(weights)
    return net.eval().requires_grad_(False)
