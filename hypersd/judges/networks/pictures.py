"""Pictures in [0, 1] as the networks of the CLIP family want them, differentiably: no PIL, no torchvision."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from hypersd.images import clamped

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's, of CLIP's data


def cropped(images: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b 3 s s"]:
    """The shorter side resized, the middle cut out (CLIP, PickScore, ImageReward)."""
    height, width = images.shape[-2:]
    short = min(height, width)
    images = resized(images, size * height // short, size * width // short)
    top, left = (round((side - size) / 2) for side in images.shape[-2:])
    return normalised(images[..., top : top + size, left : left + size])


def padded(images: Float[Tensor, "b 3 h w"], size: int) -> Float[Tensor, "b 3 s s"]:
    """The longer side resized, the rest black (HPSv2)."""
    scale = size / max(images.shape[-2:])
    height, width = (round(side * scale) for side in images.shape[-2:])
    left, top = (size - width) // 2, (size - height) // 2
    images = resized(images, height, width)
    return normalised(F.pad(images, (left, size - width - left, top, size - height - top)))


def resized(images: Float[Tensor, "b 3 h w"], height: int, width: int) -> Float[Tensor, "b 3 s t"]:
    """Bicubic and antialiased, as Pillow resizes."""
    images = images.float()
    if images.shape[-2:] == (height, width):
        return images
    found = F.interpolate(images, (height, width), mode="bicubic", align_corners=False, antialias=True)
    return clamped(found)  # bytes cannot overshoot as a cubic does, which puts half of a white ground above 1


def normalised(
    images: Float[Tensor, "b 3 h w"], mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> Float[Tensor, "b 3 h w"]:
    centre, scale = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images - centre) / scale
