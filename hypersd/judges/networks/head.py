"""The head that LAION's aesthetic predictor and ImageReward share: five linear layers with nothing between them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (1024, 128, 64, 16, 1)
PLACES = (0, 2, 4, 6, 7)  # of the linear layers among the dropouts that were there in training


def load(found: Mapping[str, Tensor]) -> nn.Sequential:
    """From `layers.N.weight` and `layers.N.bias`. Raises KeyError or RuntimeError where they are not these layers."""
    widths = (found["layers.0.weight"].shape[1], *WIDTHS)
    head = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))
    for layer, place in zip(head, PLACES, strict=True):
        parts = {part: found[f"layers.{place}.{part}"].float() for part in ("weight", "bias")}
        layer.load_state_dict(parts)
    return head
