"""How much of a distribution a set of pictures covers.

Precision and recall by nearest neighbours (Kynkäänniemi et al. 2019, arXiv 1904.06991): the share of a set
that lies within the other's manifold, a union of balls that each reach to their centre's k-th neighbour.
Diversity over seeds is the mean LPIPS between two pictures of one caption (`judges/networks/vgg.py`); noise and wrong
pictures raise it as well, so it counts only where captions are still followed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

NEIGHBOURS = 3
FOLLOWS_WITHIN = 0.02  # of the teacher's R@1


def precision_recall(drawn: Float[Tensor, "n d"], reference: Float[Tensor, "m d"]) -> tuple[float, float]:
    """The share of `drawn` within the reference's manifold, and of `reference` within that of `drawn`."""
    return coverage(drawn, reference), coverage(reference, drawn)


def coverage(points: Float[Tensor, "n d"], centres: Float[Tensor, "m d"], k: int = NEIGHBOURS) -> float:
    """The share of points within the k-th neighbour's distance of at least one centre."""
    centres = centres.double()
    k = min(k, len(centres) - 1)
    radii = torch.cdist(centres, centres).kthvalue(k + 1, dim=1).values  # the nearest one is itself
    return float((torch.cdist(points.double(), centres) <= radii).any(1).double().mean())


def counts(recall_at_1: float, teachers: float) -> bool:
    """Whether diversity may be compared: captions are followed about as well as the teacher does."""
    return recall_at_1 >= teachers - FOLLOWS_WITHIN
