"""Normalised Attention Guidance: negative prompts without guidance (Chen et al. 2025, arXiv 2505.21179).

In every cross-attention layer, with z⁺ what the prompt answers and z⁻ what the negative prompt answers to
the same queries:

    z̃ = φ z⁺ − (φ − 1) z⁻                  away from the negative prompt
    ẑ = z̃ · min(1, τ ‖z⁺‖₁ / ‖z̃‖₁)         no larger than τ times z⁺, token by token
    z = α ẑ + (1 − α) z⁺                    and only part of the way

z then goes through the layer's output projection. φ is counted as in the authors' code, where 1 is off (the
paper's φ is one less). The network runs once a step: of its layers only the keys, the values and the
products with them are computed a second time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

TAU, ALPHA = 2.5, 0.5
"""The defaults of the authors' pipeline for SDXL, the U-Net among those they published."""


@dataclass(frozen=True)
class Nag:
    """φ, τ and α. A scale of 1 is off."""

    scale: float = 1.0
    tau: float = TAU
    alpha: float = ALPHA

    def __post_init__(self) -> None:
        if not 1 <= self.scale < math.inf:
            raise ValueError(f"nag_scale must be 1 (off) or more, such as 3, not {self.scale:g}")
        if not 1 <= self.tau < math.inf:
            raise ValueError(f"nag_tau must be 1 or more, such as {TAU:g}, not {self.tau:g}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"nag_alpha must be from 0 to 1, not {self.alpha:g}")

    @property
    def on(self) -> bool:
        return self.scale > 1


def mix(positive: Float[Tensor, "b n d"], negative: Float[Tensor, "b n d"], nag: Nag) -> Float[Tensor, "b n d"]:
    """z, of the two answers z⁺ and z⁻."""
    away = nag.scale * positive - (nag.scale - 1) * negative
    bound = nag.tau * _length(positive) / _length(away).clamp_min(torch.finfo(torch.float32).tiny)
    away = away * bound.clamp(max=1).to(away.dtype)
    return nag.alpha * away + (1 - nag.alpha) * positive


def _length(z: Tensor) -> Tensor:
    """In float32: a sum over many features is too large for float16."""
    return torch.linalg.vector_norm(z, 1, dim=-1, keepdim=True, dtype=torch.float32)


@contextmanager
def steer(net: nn.Module, negative: Float[Tensor, "b n d"], nag: Nag) -> Iterator[None]:
    """Inside, the last b rows of each batch that `net` gets are steered away from the tokens of `negative`.

    The last, because guidance puts the null prompt's rows in front of the prompt's (`pipeline.bind`), and
    those stay as they are. Done by forward hooks, so it does not matter which attention kernel is in use, and
    whether a LoRA lies beside the projections or in them. Raises ValueError if nothing in `net` reads a prompt.
    """
    layers = [module for module in net.modules() if getattr(module, "is_cross_attention", False)]
    if not layers:
        raise ValueError("NAG needs a base with cross-attention, and this one has none: leave --nag out")
    with ExitStack() as hooks:
        for layer in layers:
            for hook in _hooks(layer, negative, nag):
                hooks.callback(hook.remove)
        yield


def _hooks(layer: Any, negative: Tensor, nag: Nag) -> Iterator[Any]:
    """Rows for the negative prompt come in with the keys and values, and go before the output projection."""
    rows = len(negative)

    def read_both(module: nn.Module, given: Any, named: dict[str, Any]) -> Any:
        tokens = named["encoder_hidden_states"]
        assert named.get("attention_mask") is None, "a mask would need rows for the negative prompt"
        return given, {**named, "encoder_hidden_states": torch.cat([tokens, negative.to(tokens)])}

    def ask_both(module: nn.Module, given: Any, query: Tensor) -> Tensor:
        return torch.cat([query, query[-rows:]])

    def mix_both(module: nn.Module, given: tuple[Tensor]) -> Tensor:
        others, positive, minus = given[0].tensor_split((-2 * rows, -rows))
        return torch.cat([others, mix(positive, minus, nag)])

    yield layer.register_forward_pre_hook(read_both, with_kwargs=True)
    yield layer.to_q.register_forward_hook(ask_both)
    yield layer.to_out[0].register_forward_pre_hook(mix_both)
