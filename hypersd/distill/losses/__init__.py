"""Losses, one a file: the file's name is the loss's name in a recipe.

A loss is a class with a pydantic model of its own settings:

    class Settings(Strict): ...
    class Loss:
        def __init__(self, settings: Settings) -> None
        def student(self, batch: Batch, nets: Nets) -> Tensor      # a scalar, already weighted
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol

from torch import Tensor

from hypersd.distill.step import Batch, Nets
from hypersd.recipe import check


class Loss(Protocol):
    def student(self, batch: Batch, nets: Nets) -> Tensor: ...


def names() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))


def load(name: str, settings: Mapping[str, Any]) -> Loss:
    """The loss called `name`, or one of a third party by its dotted path. Raises ValueError in one line."""
    if "." not in name and name not in names():
        near = get_close_matches(name, names(), n=1) or names()
        raise ValueError(f"unknown loss {name!r}: did you mean {near[0]!r}?")
    module = import_module(name if "." in name else f"{__name__}.{name}")
    return module.Loss(check(module.Settings, settings, f"losses.{name}"))
