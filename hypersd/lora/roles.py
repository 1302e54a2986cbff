"""One frozen network, many roles: the only place that switches weights.

The teacher is the network with its adapters off; student, target, fake score and feedback are LoRAs on it, or full
roles, with weights of their own in the place of the network's. PEFT's own switches (`set_adapter`,
`disable_adapters`) flip requires_grad, and so silently drop the gradients of a graph that is already built; here a
switch is two flags and the weights of each layer, and requires_grad never changes. Under gradient checkpointing the
forward pass runs again during backward, when another role may be on stage: `Roles.checkpoint` stamps the role at the
first run and restores it in the second.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Playing = tuple[str, ...]
TEACHER: Playing = ()


Place = tuple[nn.Module, str]
"""Where a module holds a parameter."""


class Roles:
    """The roles of one network. Outside `play` the network is the teacher."""

    of: ClassVar[WeakKeyDictionary[nn.Module, Roles]] = WeakKeyDictionary()
    """Every network's, for whoever counts its passes."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        Roles.of[net] = self
        self.playing: Playing = TEACHER
        self._ranks: dict[str, tuple[int, float, tuple[str, ...]]] = {}
        self._full: dict[str, dict[str, nn.Parameter]] = {}
        self._own = dict(_own(net))
        self.tuned: list[Any] = []
        """The layers that LoRAs are on."""
        self._folded: dict[Playing, dict[Place, Tensor]] = {}
        self._frozen: set[str] = set()

    def add(self, role: str, rank: int, targets: Sequence[str], alpha: float | None = None, seed: int = 0) -> None:
        """A new LoRA that changes nothing yet (B = 0), fp32, trained or not as its optimiser decides."""
        self._check_new(role)
        alpha = rank if alpha is None else alpha
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # many adapters is the point
            torch.manual_seed(seed)
            inject_adapter_in_model(config, self.net, role)
        self._ranks[role] = (rank, alpha, tuple(targets))
        self.tuned = [module for module in self.net.modules() if isinstance(module, BaseTunerLayer)]
        self._float32()
        self._show(self.playing)

    def freeze(self, role: str) -> None:
        """The role gets no gradient any more."""
        self._frozen.add(role)
        for parameter in self.parameters(role).values():
            parameter.requires_grad_(False)

    def add_full(self, role: str) -> None:
        """A network of its own: every weight in fp32, the base's at first."""
        self._check_new(role)
        self._full[role] = {name: nn.Parameter(own.detach().float().clone()) for name, own in self._own.values()}

    @contextmanager
    def play(self, *roles: str) -> Iterator[None]:
        """Inside, the network is base + these LoRAs, or a full role + them; with none it is the teacher."""
        before = self.playing
        self._show(roles)
        try:
            yield
        finally:
            self._show(before)

    @contextmanager
    def fold(self, *roles: str, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Inside, playing just these runs each layer once, with the weight W + Σ B A, gradients reaching A and B.

        Made once for any number of passes. Saves PEFT's two more products a layer, which on a small network cost
        more than the layer itself; takes the memory of one more network in `dtype` (the base's own if not given),
        and of its gradient.
        """
        layers = (layer for layer in self.tuned if not layer.scaling.keys().isdisjoint(roles))
        with self.play(*roles):
            folded = {(layer.get_base_layer(), "weight"): _folded(layer, roles, dtype) for layer in layers}
        self._folded[roles] = folded
        self._show(self.playing)
        try:
            yield
        finally:
            del self._folded[roles]
            self._show(self.playing)

    def checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        """Gradient checkpointing that replays under the role of the first run.

        Give it to `enable_gradient_checkpointing`.
        """
        roles = self.playing

        def replay(*inputs: Any) -> Any:
            with self.play(*roles):
                return function(*inputs)

        return checkpoint(replay, *args, use_reentrant=False)

    def parameters(self, role: str) -> dict[str, nn.Parameter]:
        """The role's parameters by name ("down_blocks.0. … .lora_A"), sorted: the order of every flat list."""
        if role in self._full:
            return dict(sorted(self._full[role].items()))
        marker = f".{role}"
        named = {
            name.replace(f"{marker}.", ".").removesuffix(marker): parameter
            for name, parameter in self.net.named_parameters()
            if "lora_" in name and (f"{marker}." in name or name.endswith(marker))
        }
        return dict(sorted(named.items()))

    def state(self, role: str) -> dict[str, Tensor]:
        """A copy of the role's weights."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters(role).items()}

    @torch.no_grad()
    def load(self, role: str, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError, naming the first weight that does not fit."""
        parameters = self.parameters(role)
        if missing := sorted(parameters.keys() ^ state.keys()):
            raise ValueError(f"these weights do not fit the role {role!r}: {missing[0]} is on one side only")
        for name, parameter in parameters.items():
            if state[name].shape != parameter.shape:
                theirs, mine = list(state[name].shape), list(parameter.shape)
                raise ValueError(f"these weights do not fit the role {role!r}: {name} is {theirs}, not {mine}")
        for name, parameter in parameters.items():
            parameter.copy_(state[name])

    @torch.no_grad()
    def follow(self, role: str, leader: str, decay: float) -> None:
        """Moves `role` towards `leader`: Θ⁻ ← μ Θ⁻ + (1 − μ) Θ (Hyper-SD Algorithm 1); μ = 0 copies."""
        mine, theirs = self.parameters(role), self.parameters(leader)
        torch._foreach_lerp_(list(mine.values()), list(theirs.values()), 1 - decay)

    def shape(self, role: str) -> tuple[int, float, tuple[str, ...]]:
        """Rank, alpha and target list of a LoRA role."""
        return self._ranks[role]

    def scale(self, role: str, scale: float) -> None:
        """The strength of a LoRA role: 1 as trained, 0 changes nothing."""
        rank, alpha, _ = self._ranks[role]
        for layer in self.tuned:
            if role in layer.scaling:
                layer.scaling[role] = scale * alpha / rank

    def _check_new(self, role: str) -> None:
        if role in self._ranks or role in self._full:
            raise ValueError(f"the role {role!r} is already there")

    def _show(self, roles: Playing) -> None:
        unknown = set(roles) - self._ranks.keys() - self._full.keys()
        assert not unknown, f"no such role: {unknown}"
        self.playing = tuple(roles)
        adapters = [role for role in roles if role in self._ranks]
        folded = self._folded.get(self.playing, {})
        for layer in self.tuned:
            layer._active_adapter = adapters
            layer._disable_adapters = not adapters or (layer.get_base_layer(), "weight") in folded
        (full,) = [self._full[role] for role in roles if role in self._full] or [{}]
        for place, (name, own) in self._own.items():
            module, key = place
            parameters: dict[str, Any] = module._parameters  # a folded weight is a tensor with a graph, no Parameter
            parameters[key] = folded.get(place, full.get(name, own))

    def _float32(self) -> None:
        for name, parameter in self.net.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
        for role in self._frozen:
            self.freeze(role)


def _own(net: nn.Module) -> Iterator[tuple[Place, tuple[str, nn.Parameter]]]:
    """The network's own parameters, those of no LoRA, and what they are called without one."""
    for path, module in net.named_modules():
        for key, parameter in module._parameters.items():
            name = f"{path}.{key}".removeprefix(".").replace(".base_layer", "")
            if parameter is not None and "lora_" not in name:
                yield (module, key), (name, parameter)


def _folded(layer: Any, roles: Playing, dtype: torch.dtype | None) -> Tensor:
    """W + Σ scale · B A of one layer, in the shape of W."""
    weight = layer.get_base_layer().weight
    for role in roles:
        if layer.scaling.get(role, 0) != 0:  # else the very weight: a copy elsewhere in memory may round differently
            weight = weight + layer.scaling[role] * _change(layer, role).view_as(weight)
    return weight.to(dtype or layer.get_base_layer().weight.dtype)


def _change(layer: Any, role: str) -> Tensor:
    """B A, as a matrix."""
    if role in layer.lora_A:
        return layer.lora_B[role].weight.flatten(1) @ layer.lora_A[role].weight.flatten(1)
    return (layer.lora_embedding_B[role] @ layer.lora_embedding_A[role]).T  # the weight is the other way round
