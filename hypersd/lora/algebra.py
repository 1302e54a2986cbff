"""Sums of LoRAs, exact or at a lower rank: Hyper-SD's "LoRA merge technique" (§3.2).

A LoRA here is its weights by parameter name, as `files.read` gives them: alpha is folded in, so a layer's change
is B A. The sum of two has the factors side by side, and the rank r1 + r2:

    s1 B1 A1 + s2 B2 A2 = [s1 B1, s2 B2] [A1; A2]

The sum of the factors is something else: (B1 + B2)(A1 + A2) also holds B1 A2 and B2 A1, which nobody trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hypersd.lora.files import is_a, layers, pad

Weights = dict[str, Tensor]


def scale(lora: Mapping[str, Tensor], strength: float) -> Weights:
    """The LoRA at another strength; A stays as it is."""
    if not math.isfinite(strength):
        raise ValueError(f"the strength of a LoRA must be a number such as 0.7, not {strength}")
    return {name: tensor if is_a(name) else strength * tensor for name, tensor in lora.items()}


def concatenate(loras: Sequence[Mapping[str, Tensor]], strengths: Sequence[float]) -> Weights:
    """Σ strength · B A, exactly. A layer that a LoRA lacks is not changed by it.

    The rank is the sum of theirs; where they share no layer, the highest of theirs.
    """
    scaled = [scale(lora, strength) for lora, strength in zip(loras, strengths, strict=True)]
    names = dict.fromkeys(name for lora in scaled for name in lora)
    total = {
        name: torch.cat([lora[name] for lora in scaled if name in lora], dim=0 if is_a(name) else 1) for name in names
    }
    pad(total)
    return total


def merged(weights: Mapping[str, Tensor], lora: Mapping[str, Tensor]) -> Weights:
    """A network's weights with the LoRA in them: W + B A."""
    total = dict(weights)
    for layer, (a, b) in layers(lora).items():
        change = (lora[b].flatten(1) @ lora[a].flatten(1)).to(total[f"{layer}.weight"])
        if "lora_embedding_" in a:
            change = change.T  # the weight is the other way round
        total[f"{layer}.weight"] = total[f"{layer}.weight"] + change.reshape(total[f"{layer}.weight"].shape)
    return total


def truncate(lora: Mapping[str, Tensor], rank: int) -> tuple[Weights, float]:
    """The LoRA of this rank that is nearest in each layer, and the share of the norm that it keeps.

    Both in the Frobenius norm, the share over all layers: of a share k, the error is sqrt(1 − k²).
    """
    if rank < 1:
        raise ValueError(f"the rank of a LoRA must be 1 or more, not {rank}")
    nearest: Weights = {}
    kept = whole = 0.0
    for a, b in layers(lora).values():
        nearest[a], nearest[b], singular = _nearest(lora[a], lora[b], rank)
        power = singular.double().square()
        kept, whole = kept + power[:rank].sum().item(), whole + power.sum().item()
    pad(nearest)  # a small layer has fewer singular values than that
    return nearest, math.sqrt(kept / whole) if whole else 1.0


def rank_of(lora: Mapping[str, Tensor]) -> int:
    return max(len(tensor) for name, tensor in lora.items() if is_a(name))


def _nearest(
    a: Float[Tensor, "r _ *kernel"], b: Float[Tensor, "o r *ones"], rank: int
) -> tuple[Float[Tensor, "s _ *kernel"], Float[Tensor, "o s *ones"], Float[Tensor, " values"]]:
    """The first singular directions of B A, its singular values shared out evenly to both factors; and all of those.

    QR first, so that the SVD is of an r × r matrix and B A is never formed.
    """
    q_b, r_b = torch.linalg.qr(b.flatten(1))
    q_a, r_a = torch.linalg.qr(a.flatten(1).T)
    u, singular, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    root = singular[:rank].sqrt()
    left, right = (q_b @ u[:, :rank]) * root, root[:, None] * (vh[:rank] @ q_a.T)
    return right.reshape(-1, *a.shape[1:]), left.reshape(*left.shape, *b.shape[2:]), singular
