"""Randomness that depends on the sample and nothing else.

Each sample of a run has its own generator, seeded by (seed, stage, iteration, index in the global
batch). So two processes draw what one would, micro-batches change nothing, and a resumed run needs no
saved generator state.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Generators = Sequence[torch.Generator]


def generators(seed: int, stage: int, iteration: int, indices: range) -> Generators:
    """One generator for each index of the global batch."""
    words = np.random.SeedSequence([seed, stage, iteration]).generate_state(indices.stop, np.uint64)
    return [torch.Generator().manual_seed(int(words[i] >> np.uint64(1))) for i in indices]


def shared(seed: int, stage: int, iteration: int) -> torch.Generator:
    """One for the whole batch, the same in every process and micro-batch."""
    word = np.random.SeedSequence([seed, stage, iteration], spawn_key=(1,)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


def uniform(rngs: Generators, numbers: int) -> list[Tensor]:
    """`numbers` independent tensors of shape b, uniform in [0, 1), float64."""
    rows = torch.stack([torch.rand(numbers, generator=rng, dtype=torch.float64) for rng in rngs])
    return list(rows.T.contiguous())


def normal(rngs: Generators, shape: Sequence[int]) -> Tensor:
    """Standard normal noise of shape b, *shape."""
    return torch.stack([torch.randn(tuple(shape), generator=rng) for rng in rngs])
