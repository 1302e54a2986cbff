"""What a run leaves for others: a LoRA or a whole network, whose header says how it was made and is to be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from hypersd import atomic
from hypersd.bases import Base
from hypersd.diffusion.samplers import ONE_STEP
from hypersd.distill import resolve
from hypersd.distill.step import STUDENT
from hypersd.lora import algebra, files, network
from hypersd.lora.roles import Roles
from hypersd.recipe import Recipe

NAMES = {"lora": "lora.safetensors", "full": "unet.safetensors"}
BEST_NAME = "best.safetensors"


def write_opponent(recipe: Recipe, base: Base, name: str, stage: int, network: nn.Module, path: Path) -> None:
    """What the opponent of a loss has learnt in a stage, such as a discriminator's heads, in a file of its own. Its
    header says of which base and recipe, and under `hyper.opponent` of which loss, with all settings.
    """
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    about = {
        "opponent": resolve.opponent(recipe.at(stage), name),
        "recipe": resolve.published(recipe, resolve.lora_targets(recipe, base)),
        "base": files.fingerprint(base.unet, base.schedule.prediction),
    }
    header = {f"hyper.{key}": json.dumps(value, sort_keys=True) for key, value in about.items()}
    atomic.write_bytes(path, save(state, {"format": "pt", **header}))


def usage(recipe: Recipe, stage: int | None) -> dict[str, Any]:
    """How the result wants to be used; a stage's as far as that stage trained it: with fewer segments, or for a single
    step that begins lower.
    """
    used = recipe.sampler.model_dump(mode="json")
    if stage is None:
        return used
    draw, steps, hint = recipe.at(stage).draw, recipe.stages[stage].segments, "a stage of its training"
    if ONE_STEP in used and (1 not in draw.steps or draw.visited_share == 0):
        del used[ONE_STEP]
        used["hint"] = hint
    if steps != recipe.stages[-1].segments:
        used |= {"steps": [steps], "hint": f"{hint}: {steps} step{'s' * (steps > 1)}"}
    return used


def write(
    recipe: Recipe,
    base: Base,
    roles: Roles,
    path: Path,
    whole: bool = False,
    stage: int | None = None,
    role: str = STUDENT,
    told: str = "",
) -> None:
    """What was trained, so far or in a stage; the `whole` is its sum with the LoRA that it stands on. What was `told`
    of it by judges that only look on stands in the header.
    """
    state, about = roles.state(role), files.fingerprint(base.unet, base.schedule.prediction)
    values = resolve.published(recipe, resolve.lora_targets(recipe, base))
    used = usage(recipe, stage)
    dtype = torch.float16 if recipe.lora.dtype == "fp16" else torch.float32
    if recipe.student == "full":
        return network.write(path, state, about, values, used, dtype, {"told": told})
    shape = rank, alpha, _ = roles.shape(role)
    if whole and recipe.lora.beneath:
        below = resolve.lora_file(recipe.lora.beneath, base).weights  # of alpha = rank, as every file is read
        state = algebra.concatenate([below, state], [1.0, alpha / rank])
        shape = (algebra.rank_of(state), algebra.rank_of(state), tuple(sorted(files.layers(state))))
    said = {"told": told, "on_top_of": recipe.lora.beneath.name if recipe.lora.beneath and not whole else ""}
    return files.write(path, state, shape, about, values, used, dtype, said=said)
