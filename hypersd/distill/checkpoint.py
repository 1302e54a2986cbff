"""A run's state in one file, which appears by one rename: killed at any moment, a run has a whole checkpoint.

Roles, opponents' networks and optimisers as tensors; stage, iteration and recipe in the header. There is no random
state to keep (`randomness.py`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hypersd.atomic import write_bytes
from hypersd.distill import resolve, results
from hypersd.lora.roles import Roles
from hypersd.recipe import Recipe, parse

NAME, RECIPE, LOG = "checkpoint.safetensors", "recipe.json", "log.jsonl"
TAKEN = (RECIPE, LOG, *results.NAMES.values(), results.BEST_NAME)
"""What a run writes beside its checkpoint."""
MAY_DIFFER = {"checkpoint_every", "sample_every", "sample_prompts", "micro_batch"}
"""What may differ when a run goes on: none of it changes what is trained."""
RATE = "lr"
"""What may differ too, wherever it stands: a run that has broken goes on with a lower one."""


@dataclass(frozen=True)
class Progress:
    """Where a run is: the next iteration to compute, and of which stage."""

    stage: int = 0
    iteration: int = 0


def write(
    path: Path,
    progress: Progress,
    recipe: dict[str, Any],
    stands_on: Mapping[str, str],
    roles: Roles,
    kept: Sequence[str],
    optimisers: Mapping[str, torch.optim.Optimizer],
    networks: Mapping[str, nn.Module],
) -> None:
    tensors = {f"{role}/{name}": tensor for role in kept for name, tensor in roles.state(role).items()}
    for name, network in networks.items():
        tensors |= {f"network {name}/{key}": tensor for key, tensor in network.state_dict().items()}
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser {name}/{index}/{key}": value for key, value in state.items()}
    header: dict[str, Any] = {"stage": progress.stage, "iteration": progress.iteration, "recipe": recipe}
    header["stands_on"] = stands_on
    write_bytes(path, save({k: v.cpu() for k, v in tensors.items()}, {"run": json.dumps(header)}))


@dataclass(frozen=True)
class Checkpoint:
    progress: Progress
    recipe: dict[str, Any]
    stands_on: dict[str, str]
    """Digests of what it is trained by, by the recipe's key; of an older program's run there are none."""
    tensors: dict[str, Tensor]

    def check_stands_on(self, found: Mapping[str, str]) -> None:
        """Raises ValueError where what is under the same name is not what the run was started with."""
        for key, digest in self.stands_on.items():
            if digest != found.get(key):
                raise ValueError(f"{key} is not what the run was started with: put that back, or begin anew")

    def role(self, role: str) -> dict[str, Tensor]:
        return self._below(f"{role}/")

    def network(self, name: str) -> dict[str, Tensor]:
        """The weights of an opponent's own network."""
        return self._below(f"network {name}/")

    def restore(self, name: str, optimiser: torch.optim.Optimizer) -> None:
        """Puts the moments of the optimiser of this name back; one that has not stepped yet has none."""
        state: dict[int, dict[str, Tensor]] = {}
        for place, tensor in self._below(f"optimiser {name}/").items():
            index, key = place.split("/")
            state.setdefault(int(index), {})[key] = tensor
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})

    def _below(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def of(recipe: Recipe, out: Path, resume: bool) -> Checkpoint | None:
    """The checkpoint that this recipe's run goes on from, if any. Raises ValueError if `out` holds another run."""
    saved = read(out)
    if saved is None:
        _check_unused(recipe, out)
        return None
    if not resume:
        raise ValueError(f"{out} already holds a run; go on with --resume, or name another folder with --out")
    remedy = "resume with the same one, or name another folder with --out"
    try:
        started = parse(saved.recipe)  # what the program has gained since has its default
    except ValueError as error:
        raise ValueError(f"{out} was started with a recipe that is none any more ({error}); {remedy}") from error
    named = None not in (recipe.lora.targets, started.lora.targets)  # recipe.json names the base's own
    now, then = (_trains(each, named) for each in (recipe, started))
    if different := [key for key in now if _without_rates(now[key]) != _without_rates(then[key])]:
        raise ValueError(f"{out} was started with another recipe ({different[0]!r} differs); {remedy}")
    if now != then and saved.progress.stage == len(recipe.stages):
        raise ValueError(f"{out} is finished, and at another learning rate; {remedy}")
    if now != then:
        warnings.warn("the run goes on at another learning rate: its files will name this one only", stacklevel=3)
    return saved


def _check_unused(recipe: Recipe, out: Path) -> None:
    """Raises ValueError for a folder without a checkpoint in which something would be written over, but for what a run
    of this recipe left that was killed before its first one.
    """
    there = [name for name in TAKEN if (out / name).exists()] + [file.name for file in out.glob("stage*.safetensors")]
    if not there:
        return
    try:
        before = parse(json.loads((out / RECIPE).read_text()))
        same = _trains(before, targets=False) == _trains(recipe, targets=False)
    except (OSError, ValueError, TypeError):
        same = False
    if not same:
        raise ValueError(f"{out} holds {there[0]} and no checkpoint to go on from; name another folder with --out")


def _trains(recipe: Recipe, targets: bool) -> dict[str, Any]:
    """What decides the weights, with a LoRA's `targets` or without; losses draw random numbers one after the other."""
    found = resolve.in_full(recipe, MAY_DIFFER)
    if not targets:
        found["lora"] = [{key: value for key, value in lora.items() if key != "targets"} for lora in found["lora"]]
    return {**found, "the order of losses": [list(recipe.at(index).losses) for index in range(len(recipe.stages))]}


def _without_rates(values: Any) -> Any:
    if isinstance(values, list):
        return [_without_rates(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {key: _without_rates(value) for key, value in values.items() if key != RATE}


def read(out: Path, whole: bool = True) -> Checkpoint | None:
    """The run's checkpoint, or None if it has none yet; without its tensors if not the `whole` is asked for.

    Raises OSError if it is damaged.
    """
    path = out / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["run"])
            tensors = {key: file.get_tensor(key) for key in file.keys()} if whole else {}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError) as error:
        raise OSError(f"{path} is damaged ({error}); start again in another folder with --out") from error
    progress = Progress(header["stage"], header["iteration"])
    return Checkpoint(progress, header["recipe"], header.get("stands_on", {}), tensors)
