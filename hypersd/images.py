"""Pictures as numbers from 0 to 1."""

from __future__ import annotations

from torch import Tensor


def clamped(images: Tensor) -> Tensor:
    """In [0, 1]. The gradient passes as if it were not so: what is burnt must be able to recover."""
    if not images.requires_grad:
        return images.clamp(0, 1)
    return images + (images.clamp(0, 1) - images).detach()
