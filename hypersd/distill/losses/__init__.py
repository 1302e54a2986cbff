"""Losses, one a file: the file's name is the loss's name in a recipe.

A loss is a class with a pydantic model of its own settings:

    class Settings(Strict): ...
    class Loss:
        needs = (ROUTES, PATHS)                                    # some of NEEDS; may be left out
        misses = True                                              # it is a `Miss`; may be left out
        def __init__(self, settings: Settings) -> None
        def student(self, batch: Batch, nets: Nets) -> Tensor      # a scalar, already weighted

One that trains something of its own against the student is an `Adversary` too. It draws what it draws at random
from `batch.rngs`, and nothing else, so that a run can be repeated and resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from hypersd.bases import Base
from hypersd.distill.data import truth_in
from hypersd.distill.step import PATHS, ROUTES, Batch, Nets
from hypersd.judges import INSTANCE_MASKS, MASKS
from hypersd.recipe import Optimiser, Recipe, Strict, check

NEEDS = (ROUTES, PATHS, MASKS, INSTANCE_MASKS)
"""What a loss may need of a batch; the last two are its truth."""


@runtime_checkable
class Loss(Protocol):
    def student(self, batch: Batch, nets: Nets) -> Tensor: ...


@runtime_checkable
class Miss(Loss, Protocol):
    """A loss that is a distance, by which samples are missed that it may or may not have been trained on."""

    misses: bool


@runtime_checkable
class Adversary(Protocol):
    """A loss with an opponent, LoRA roles on the same backbone or a network, trained in turn with the student."""

    roles: Mapping[str, int | None]
    """The roles that it trains, with their rank; None is the recipe's."""
    trains: str
    """The key of the optimiser's settings below the loss's own."""
    optimiser: Optimiser
    updates: int
    """Of the opponent for each of the student's."""

    def build(self, base: Base, seed: int) -> nn.Module | None:
        """Its own network beside the roles, which it then uses; None where it has none.

        Called as a stage begins, in every process alike: on the base's device, the same for the same seed, and with
        nothing in it but parameters, of which gradients are averaged.
        """

    def student(self, batch: Batch, nets: Nets) -> Tensor: ...

    def opponent(self, batch: Batch, nets: Nets) -> Tensor: ...


def names() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__))


def load(name: str, settings: Mapping[str, Any]) -> Loss:
    """The loss called `name`, or one of a third party by its dotted path. Raises ValueError in one line."""
    loss = _import(name).Loss(settings_of(name, settings))
    if hasattr(loss, "opponent") and not isinstance(loss, Adversary):
        parts = [part for part in ("roles", "trains", "optimiser", "updates", "build") if not hasattr(loss, part)]
        raise ValueError(f"the loss {name!r} has an opponent, but no {' and no '.join(parts)}: see `Adversary`")
    if unknown := set(getattr(loss, "needs", ())) - set(NEEDS):
        raise ValueError(f"the loss {name!r} needs {sorted(unknown)[0]!r}, which no batch has: {' or '.join(NEEDS)}")
    return loss


def settings_of(name: str, given: Mapping[str, Any]) -> Strict:
    """A loss's settings, with what was not given."""
    made: Strict = check(_import(name).Settings, given, f"losses.{name}")
    return made


def check_needs(name: str, loss: Loss, recipe: Recipe, stage: int) -> None:
    """Raises ValueError where a stage's batches do not hold what the loss needs. `recipe` is that stage's own."""
    needs, where = getattr(loss, "needs", ()), f"the loss {name!r} of stage {stage + 1}"
    if PATHS in needs and recipe.data.get("kind") != PATHS:
        raise ValueError(f"{where} follows the teacher's paths: set data={{kind: paths}}")
    if PATHS in needs and ROUTES in needs and recipe.draw.eta:
        raise ValueError(f"{where} follows paths, which are never noised again: set draw.eta=0")
    if ROUTES in needs and recipe.draw.visited_share < 1:
        raise ValueError(f"{where} follows a sampler's timesteps: set draw.visited_share=1 there")
    for kind in {MASKS, INSTANCE_MASKS} & set(needs):
        if truth_in(recipe.data) != kind:
            raise ValueError(
                f"{where} compares drawings with what the data's pictures show: "
                f"set data={{kind: latents, path: FILE}} to a file with {kind!r} in it (docs/train.md)"
            )


def _import(name: str) -> Any:
    if name in names():
        return import_module(f"{__name__}.{name}")
    if "." not in name or not all(part.isidentifier() for part in name.split(".")):
        near = get_close_matches(name, names(), n=1) or names()
        raise ValueError(f"unknown loss {name!r}: did you mean {near[0]!r}?")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"the loss {name!r} is not to be found ({error}); install it, or mend its name") from error
    if not hasattr(module, "Loss") or not hasattr(module, "Settings"):
        raise ValueError(f"the module {name!r} is no loss: it needs a class Loss and its Settings")
    return module
