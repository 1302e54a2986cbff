"""The discriminator: small heads on what the frozen base makes of a noised picture, one head a depth.

The base has seen every noise level and reads the caption, so that little is left to learn: PCM (Wang et al. 2024) and
LADD (Sauer et al. 2024) train heads only too. SDXL-Lightning trains a copy of the whole encoder, which is another
network in memory.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hypersd.bases import Base

SLOPE = 0.2


class Head(nn.Sequential):
    """A vote for each place of a map: above 0 is real."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, width, 3, padding=1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, 1, 1),
        )


class Discriminator(nn.Module):
    def __init__(self, base: Base, width: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(Head(channels, width) for channels in depths(base))
        self.to(base.device)

    def forward(self, features: list[Float[Tensor, "b _ _ _"]]) -> list[Float[Tensor, "b _"]]:
        """The votes on a batch, of each head."""
        return [head(seen).flatten(1) for head, seen in zip(self.heads, features, strict=True)]


@torch.no_grad()
def depths(base: Base) -> list[int]:
    """The channels of each map among the base's features."""
    nothing = torch.zeros(1, *base.latent_shape(), device=base.device)
    seen = base.features(nothing, torch.zeros(1, dtype=torch.long, device=base.device), base.encode([""]))
    return [features.shape[1] for features in seen]
