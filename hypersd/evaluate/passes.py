"""UNet forward-equivalents: what every pass of an update costs, in passes of the one network that roles play on.

A sample's pass of that network counts 1, and 3 where a gradient is taken through it, whoever makes it, student,
target, teacher, fake score, or discriminator (whose passes stop at the middle and count as whole ones, heads
included). Every other network that sees pictures or latents, decoder, judge or segmenter, counts by its
multiplications over those of one such pass, three times where a gradient flows back. Words are not counted: prompts
are encoded for every method alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hypersd.lora.roles import Roles

BACKWARD = 2
"""Passes that a gradient costs beside the one forward."""
Call = tuple[nn.Module, torch.Size, bool]
"""Network, shape of what it sees, whether a gradient flows back."""


@dataclass
class Counter:
    """What passed through networks since it began to count."""

    evaluations: float = 0.0
    _unit: float | None = None
    """Of one sample's pass of the network that roles play on; None before its first, 0 on the toy, which has none."""
    _prices: dict[Call, int] = field(default_factory=dict, repr=False)
    _inside: object = field(default=None, repr=False)
    """The outermost network that runs: what it calls is part of it."""

    @contextmanager
    def counting(self) -> Iterator[Counter]:
        before = nn.modules.module.register_module_forward_pre_hook(self._begins)
        after = nn.modules.module.register_module_forward_hook(self._ended, always_call=True)
        try:
            yield self
        finally:
            before.remove()
            after.remove()

    def _begins(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._inside is not None:
            return
        if roles := Roles.of.get(module):
            learns = torch.is_grad_enabled() and bool(roles.playing or inputs[0].requires_grad)
            self.evaluations += len(inputs[0]) * (1 + BACKWARD * learns)
            if self._unit is None:
                self._unit = self._of_backbone(module, roles, inputs)
        elif self._unit and inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            self.evaluations += self._of_other(module, inputs) / self._unit
        self._inside = module

    def _ended(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if module is self._inside:
            self._inside = None

    def _of_backbone(self, module: nn.Module, roles: Roles, inputs: tuple[Any, ...]) -> int:
        one = tuple(each[:1] if isinstance(each, Tensor) and each.ndim else each for each in inputs)
        with roles.play(), self._aside():
            return flops(module, one, learns=False)

    def _of_other(self, module: nn.Module, inputs: tuple[Any, ...]) -> int:
        learns = torch.is_grad_enabled() and inputs[0].requires_grad
        call = module, inputs[0].shape, learns
        if call not in self._prices:
            with self._aside():
                self._prices[call] = flops(module, inputs, learns)
        return self._prices[call]

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Inside, nothing is counted."""
        self._inside = self
        try:
            yield
        finally:
            self._inside = None


def flops(module: nn.Module, inputs: tuple[Any, ...], learns: bool) -> int:
    """Of a call with these inputs, three times where a gradient flows back to the first one.

    The network must be frozen: the way back then takes as many multiplications as the way there. Attention takes
    twice as many; in the backbone too, so that nothing counts more than three times.
    """
    seen, devices = inputs[0].detach().requires_grad_(learns), [inputs[0].device] if inputs[0].is_cuda else []
    with torch.random.fork_rng(devices), torch.set_grad_enabled(learns), _products():
        with FlopCounterMode(display=False) as there:
            found = module(seen, *inputs[1:])
        if not learns:
            return there.get_total_flops()
        with FlopCounterMode(display=False) as back:
            torch.autograd.grad(found.sum(), seen)
    return there.get_total_flops() + BACKWARD * min(back.get_total_flops(), there.get_total_flops())


@contextmanager
def _products() -> Iterator[None]:
    """Inside, attention is matrix products, which can be counted, and no fused kernel."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
