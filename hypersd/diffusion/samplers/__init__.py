"""Samplers, one a file: the file's name is the sampler's name everywhere.

A sampler is a frozen dataclass whose fields are the settings a person can move. It has

    grid(steps) -> timesteps, descending
    (predict, schedule, noise, grid, generators, callback) -> x0

and never looks at the network: `predict(x_t, t) -> (x0, eps)` has conditioning and guidance bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hypersd.diffusion.schedule import Schedule
from hypersd.diffusion.solver import Predict

Callback = Callable[[int, int, Tensor], None]
"""(step, timestep, x0 predicted at it) -> None, called after every step."""
ONE_STEP = "one_step"
"""The setting that every sampler has, since of one step they are all alike (`grids.begun`)."""
Generators = torch.Generator | Sequence[torch.Generator] | None


@runtime_checkable
class Sampler(Protocol):
    def grid(self, steps: int, total: int = 1000) -> list[int]: ...

    def __call__(
        self,
        predict: Predict,
        schedule: Schedule,
        noise: Tensor,
        grid: Sequence[int],
        generators: Generators = None,
        callback: Callback | None = None,
    ) -> Tensor: ...


def names() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))


def settings_of(name: str) -> set[str]:
    """What can be set of the sampler called `name`."""
    return {field.name for field in fields(_kind(name))}


def meant(used: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a recipe's or a LoRA's `sampler` says for the sampler called `name`: all if it is about that very one."""
    known = settings_of(name) if name == used.get("name", "ddim") else {ONE_STEP}
    return {key: used[key] for key in known & used.keys()}


def load(name: str, **settings: Any) -> Sampler:
    """The sampler called `name`, with the settings it has (others raise, naming those it has)."""
    known = settings_of(name)
    if unknown := settings.keys() - known:
        has = ", ".join(sorted(known))
        raise ValueError(f"sampler {name!r} has no setting {sorted(unknown)[0]!r}; it has {has}")
    return _kind(name)(**settings)


def _kind(name: str) -> Any:
    if name not in names():
        raise ValueError(f"unknown sampler {name!r}; use one of {', '.join(names())}")
    return import_module(f"{__name__}.{name}").Sampler


def noise_like(x: Tensor, generators: Generators) -> Tensor:
    """Standard normal noise of x's shape; with one generator per sample, a sample's noise ignores its batch."""
    if generators is None or isinstance(generators, torch.Generator):
        return _randn(x.shape, generators, x)
    if len(generators) != len(x):
        raise ValueError(f"{len(generators)} generators for a batch of {len(x)}; give one for each sample")
    return torch.cat([_randn((1, *x.shape[1:]), generator, x) for generator in generators])


def _randn(shape: Sequence[int], generator: torch.Generator | None, like: Tensor) -> Tensor:
    device = generator.device if generator is not None else like.device
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=like.dtype).to(like.device)
