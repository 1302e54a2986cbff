"""The discriminator: small heads on what the frozen base makes of a noised picture, one head a depth.

The base has seen every noise level and reads the caption, so that little is left to learn: PCM (Wang et al. 2024) and
LADD (Sauer et al. 2024) train heads only too. SDXL-Lightning trains a copy of the whole encoder, which is another
network in memory.
"""

from __future__ import annotations

from typing import cast

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
        self.channels, self.width = channels, width


class Discriminator(nn.Module):
    """At each depth a pool of heads, one of which votes."""

    def __init__(self, base: Base, width: int, seed: int = 0, pool: int = 1, maps: int = 1) -> None:
        """Heads see `maps` maps of a depth at once."""
        super().__init__()
        self.size = pool
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pools = [[Head(maps * channels, width) for _ in range(pool)] for channels in depths(base)]
        self.pools = nn.ModuleList(nn.ModuleList(pool) for pool in pools)
        self.to(base.device)

    def choose(self, rng: torch.Generator) -> list[int]:
        """Which head of each pool is to vote."""
        return [int(torch.randint(self.size, (), generator=rng)) for _ in self.pools]

    def forward(self, features: list[Float[Tensor, "b _ _ _"]], chosen: list[int]) -> list[Float[Tensor, "b _"]]:
        """The votes on a batch, of the chosen head of each depth."""
        depths = zip(self.pools.children(), chosen, features, strict=True)
        return [cast(nn.ModuleList, pool)[index](seen).flatten(1) for pool, index, seen in depths]

    @torch.no_grad()
    def refresh(self, share: float, rng: torch.Generator) -> None:
        """Begins each head anew with this chance (NitroFusion, Chen et al. 2024, §3.2); its moments stay."""
        heads = [head for head in self.modules() if isinstance(head, Head)]
        chances, seeds = torch.rand(len(heads), generator=rng), torch.randint(2**31, (len(heads),), generator=rng)
        for head, chance, seed in zip(heads, chances.tolist(), seeds.tolist(), strict=True):
            if chance < share:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    fresh = Head(head.channels, head.width)
                head.load_state_dict(fresh.state_dict())


@torch.no_grad()
def depths(base: Base) -> list[int]:
    """The channels of each map among the base's features."""
    nothing = torch.zeros(1, *base.latent_shape(), device=base.device)
    seen = base.features(nothing, torch.zeros(1, dtype=torch.long, device=base.device), base.encode([""]))
    return [features.shape[1] for features in seen]
