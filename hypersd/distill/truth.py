"""What a perceptual loss compares drawings with (Hyper-SD Eq. 14): kept in the file of latents, beside them.

    masks             n 1 h w   uint8, alpha: 255 on the subject
    instance_masks    n k h w   uint8, not 0 on the instance; a picture of fewer than k is filled up
    instance_labels   n k       the segmenter's classes, −1 where filled up

Masks have a resolution of their own. A file holds alpha or instances; of both, alpha is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from safetensors import safe_open
from torch import Tensor

from hypersd import tensors
from hypersd.judges import INSTANCE_MASKS, MASKS
from hypersd.judges.segmentation import Instances

INSTANCE_LABELS = "instance_labels"
REMEDY = "delete it and build it again"

Truth = Float[Tensor, "b 1 y x"] | list[Instances]
"""Of each picture its alpha in [0, 1], or its instances; on the CPU."""


class Kept:
    """The truth of a file's pictures, read from disk as they are drawn: most losses never ask for it."""

    def __init__(self, masks: Any, labels: Any = None) -> None:
        self.masks, self.labels = masks, labels

    def of(self, chosen: Sequence[int]) -> Truth:
        masks = _rows(self.masks, chosen)
        if self.labels is None:
            return masks.float() / 255
        return [_instances(*pair) for pair in zip(masks, _rows(self.labels, chosen), strict=True)]


def kind_of(path: Path) -> str | None:
    """Which truth a file of latents holds: `MASKS`, `INSTANCE_MASKS` or none. Reads its header alone."""
    with tensors.readable(path, REMEDY), safe_open(path, "pt") as file:
        names = set(file.keys())
    return next((kind for kind in (MASKS, INSTANCE_MASKS) if kind in names), None)


def read_truth(path: Path) -> Kept | None:
    """Raises ValueError where the truth does not fit the latents, OSError for a damaged file."""
    kind = kind_of(path)
    if kind is None:
        return None
    with tensors.readable(path, REMEDY):
        file = safe_open(path, "pt")
        found = [file.get_slice(name) for name in ([MASKS] if kind == MASKS else [INSTANCE_MASKS, INSTANCE_LABELS])]
        pictures = file.get_slice("latents").get_shape()[0]
    shape = found[0].get_shape()
    counts = [pictures, 1] if kind == MASKS else found[1].get_shape()
    if len(shape) != 4 or counts[0] != pictures or shape[:2] != counts or found[0].get_dtype() != "U8":
        wanted = "n 1 h w" if kind == MASKS else f"n k h w with {INSTANCE_LABELS} of n k"
        raise ValueError(f"{path} has {kind} of shape {shape}: make them uint8, {wanted}, for its {pictures} latents")
    return Kept(*found)


def _rows(kept: Any, chosen: Sequence[int]) -> Tensor:
    return torch.stack([kept[index] for index in chosen])


def _instances(masks: UInt8[Tensor, "k h w"], labels: Int[Tensor, " k"]) -> Instances:
    real = labels >= 0
    return Instances(masks[real] > 0, labels[real].long())
