"""LoRA files in the diffusers layout, which say themselves how they were made and how to use them.

Header (safetensors metadata, strings):
    lora_adapter_metadata   rank, alpha and targets, as diffusers writes and reads them
    hyper.recipe            the resolved recipe, JSON
    hyper.sampler           sampler, steps, guidance, JSON
    hyper.base              the shape of the network it was trained on, JSON
    modelspec.*             the ModelSpec fields that UIs show

Alpha is folded into B, so that alpha = rank and scale 1.0 is right in every reader: most drop alpha,
and the field's "use 0.125" is exactly that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hypersd.atomic import write_bytes

PREFIX = "unet."
FINGERPRINT = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")


@dataclass(frozen=True)
class LoraFile:
    """A LoRA's weights by module name, and everything its header says."""

    weights: dict[str, Tensor]
    rank: int
    targets: tuple[str, ...]
    base: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)


def fingerprint(net: nn.Module) -> dict[str, Any]:
    """What must agree for a LoRA to fit: the network's shape, from its config."""
    config = getattr(net, "config", {})
    return {key: config[key] for key in FINGERPRINT if key in config}


def write(
    path: Path,
    state: Mapping[str, Tensor],
    shape: tuple[int, float, tuple[str, ...]],
    base: Mapping[str, Any],
    recipe: Mapping[str, Any],
    sampler: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Writes the file by rename: it is whole or it is not there."""
    rank, alpha, targets = shape
    tensors = {
        _key(name): (tensor if _is_a(name) else tensor * (alpha / rank)).to(dtype).contiguous()
        for name, tensor in state.items()
    }
    adapter = {f"{PREFIX}r": rank, f"{PREFIX}lora_alpha": rank, f"{PREFIX}target_modules": list(targets)}
    header = {
        "format": "pt",
        "lora_adapter_metadata": json.dumps(adapter, sort_keys=True),
        "hyper.recipe": json.dumps(recipe, sort_keys=True),
        "hyper.sampler": json.dumps(sampler, sort_keys=True),
        "hyper.base": json.dumps(base, sort_keys=True),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.usage_hint": str(sampler.get("hint", "")),
    }
    write_bytes(path, save(tensors, header))


def read(path: Path) -> LoraFile:
    """Raises FileNotFoundError, or ValueError for what is no LoRA, or OSError for a damaged file."""
    if not path.is_file():
        raise FileNotFoundError(f"no LoRA file at {path}")
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is not a safetensors file; pickled weights (.pt, .bin, .ckpt) can run any code when "
            "read: convert it to safetensors first"
        )
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise OSError(f"{path.name} is damaged ({error}); fetch or train it again") from error
    if not any(_is_a(key) for key in tensors):
        raise ValueError(f"{path.name} is not a LoRA in the diffusers layout (no lora_A weights in it)")
    adapter = json.loads(header.get("lora_adapter_metadata", "{}"))
    weights = {_name(key): tensor.float() for key, tensor in tensors.items()}
    return LoraFile(
        weights=weights,
        rank=next(len(tensor) for name, tensor in weights.items() if _is_a(name)),
        targets=tuple(adapter.get(f"{PREFIX}target_modules", ())) or _targets(weights),
        base=json.loads(header.get("hyper.base", "{}")),
        recipe=json.loads(header.get("hyper.recipe", "{}")),
        sampler=json.loads(header.get("hyper.sampler", "{}")),
    )


def with_alpha(file: LoraFile, alpha: float | None) -> dict[str, Tensor]:
    """Its weights for a role of this alpha (None: the rank): what `write` folded into B comes out of it again."""
    scale = file.rank / (file.rank if alpha is None else alpha)
    return {name: tensor if _is_a(name) else tensor * scale for name, tensor in file.weights.items()}


def check_fits(file: LoraFile, net: nn.Module, name: str) -> None:
    """Raises ValueError, with one line that says where they part, if the LoRA is of another base."""
    mine = fingerprint(net)
    for key, theirs in file.base.items():
        if key in mine and list_or(mine[key]) != list_or(theirs):
            raise ValueError(
                f"{name} was trained on another base: its {key} is {theirs}, this base has {mine[key]}; "
                "give the base it was made for with --base"
            )
    modules = dict(net.named_modules())
    for weight in file.weights:
        module = weight.rsplit(".lora_", 1)[0]
        if module not in modules:
            raise ValueError(f"{name} was trained on another base: it has weights for {module}, this base has none")


def list_or(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _key(name: str) -> str:
    return f"{PREFIX}{name}" if name.endswith(".weight") else f"{PREFIX}{name}.weight"


def _name(key: str) -> str:
    """The parameter's name in the network; PEFT's LoRA of an embedding has no `.weight`."""
    name = key.removeprefix(PREFIX)
    return name.removesuffix(".weight") if "lora_embedding_" in name else name


def _is_a(name: str) -> bool:
    return "lora_A" in name or "lora_embedding_A" in name


def _targets(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(sorted({name.rsplit(".lora_", 1)[0] for name in weights}))
