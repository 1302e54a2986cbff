"""Ways to spoil a picture, from mild (severity 0) to strong (1): what the quality heads learn to see.

Judge A and judge B learn on different ones, so that a student that fools A does not thereby fool B.
All take and give images in [0, 1], (b, 3, h, w); severity is (b,).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Images = Float[Tensor, "b 3 h w"]
Severity = Float[Tensor, "b"]


def _mix(a: Tensor, b: Tensor, share: Severity) -> Tensor:
    return torch.lerp(a, b, share[:, None, None, None])


def blur(images: Images, severity: Severity) -> Images:
    """Towards a picture of an eighth of the size."""
    small = F.interpolate(images, scale_factor=0.125, mode="area")
    return _mix(images, F.interpolate(small, images.shape[-2:], mode="bilinear"), 0.3 + 0.7 * severity)


def noise(images: Images, severity: Severity) -> Images:
    deviation = (0.04 + 0.2 * severity)[:, None, None, None]
    return (images + deviation * torch.randn_like(images)).clamp(0, 1)


def wobble(images: Images, severity: Severity) -> Images:
    """Bends the picture: a smooth random displacement, as when a few-step model misplaces parts."""
    batch, _, height, width = images.shape
    shift = F.interpolate(torch.randn(batch, 2, 5, 5), (height, width), mode="bicubic", align_corners=True)
    grid = F.affine_grid(torch.eye(2, 3).repeat(batch, 1, 1), list(images.shape), align_corners=False)
    grid = grid + shift.permute(0, 2, 3, 1) * (0.04 + 0.12 * severity)[:, None, None, None]
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def patch_blur(images: Images, severity: Severity) -> Images:
    """Loses the fine components of every 8 x 8 patch, as the miniature's own latents do when wrong."""
    coarse = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4.0, mode="nearest")
    return _mix(images, coarse, 0.3 + 0.7 * severity)


def bleed(images: Images, severity: Severity) -> Images:
    """Shifts red one way and blue the other."""
    pixels = [1 + int(4 * float(s)) for s in severity]
    rows = [torch.stack([x[0].roll(p, -1), x[1], x[2].roll(-p, -2)]) for x, p in zip(images, pixels, strict=True)]
    return torch.stack(rows)


def swap(images: Images, severity: Severity) -> Images:
    """Exchanges squares of the picture: right strokes, wrong places."""
    out, side = images.clone(), images.shape[-1] // 4
    for index, s in enumerate(severity):
        for _ in range(1 + int(3 * float(s))):
            a, b, c, d = (side * torch.randint(0, 4, (4,))).tolist()
            first = out[index, :, a : a + side, b : b + side].clone()
            out[index, :, a : a + side, b : b + side] = out[index, :, c : c + side, d : d + side]
            out[index, :, c : c + side, d : d + side] = first
    return out


def ghost(images: Images, severity: Severity) -> Images:
    """Two pictures at once."""
    return _mix(images, images.roll(1, 0), 0.15 + 0.35 * severity)


def posterise(images: Images, severity: Severity) -> Images:
    steps = (6 - 4 * severity)[:, None, None, None].round()
    return (images * steps).round() / steps


FOR_A = (blur, noise, wobble, patch_blur)
FOR_B = (bleed, swap, ghost, posterise)


def spoil(images: Images, severity: Severity, ways: tuple, generator: torch.Generator | None = None) -> Images:
    """Each picture in one of the ways, drawn at random."""
    choice = torch.randint(0, len(ways), (len(images),), generator=generator)
    out = images.clone()
    for index, way in enumerate(ways):
        if (choice == index).any():
            out[choice == index] = way(images[choice == index], severity[choice == index])
    return out
