"""LoRA files in the diffusers layout, which say themselves how they were made and how to use them.

Header (safetensors metadata, strings):
    lora_adapter_metadata   rank, alpha and targets, as diffusers writes and reads them
    hyper.recipe            the resolved recipe, JSON
    hyper.sampler           sampler, steps, guidance, JSON
    hyper.base              the network it was trained on, JSON: shape, prediction type, digest of the weights
    hyper.merged            what it was merged from, JSON, if it was
    hyper.told              what judges that only looked on said of it, in words, if they fell while others rose
    hyper.on_top_of         the name of the LoRA that it was trained on top of, if it is the new part alone
    modelspec.*             the ModelSpec fields that UIs show

Alpha is folded into B, so that alpha = rank and scale 1.0 is right in every reader: most drop alpha,
and the field's "use 0.125" is exactly that. What others wrote is brought into the same form when read.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from hypersd.atomic import write_bytes

PREFIX = "unet."
FINGERPRINT = ("in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim")
PREDICTION, DIGEST = "prediction", "weights"
DIGEST_VALUES = 64
"""Of each tensor, evenly spaced: training moves every tensor it trains, and reading all of SD takes seconds."""
PART = re.compile(r"(.+)\.(?:lora_[AB]\.weight|lora_embedding_[AB])")
REMEDY = "give the base it was made for with --base"


@dataclass(frozen=True)
class LoraFile:
    """A LoRA's weights by parameter name, of one rank and alpha = rank, and everything its header says."""

    weights: dict[str, Tensor]
    rank: int
    targets: tuple[str, ...]
    """The modules that it has weights for."""
    base: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    sampler: dict[str, Any] = field(default_factory=dict)
    merged: dict[str, Any] = field(default_factory=dict)
    told: str = ""
    """What judges that only looked on said of it, if anything."""
    on_top_of: str = ""
    """The LoRA without which it does not draw, if there is one."""
    dtype: torch.dtype = torch.float32
    """Of the file; `weights` are fp32."""


class Adapter(BaseModel):
    """What counts of `lora_adapter_metadata`, which holds a PEFT config; ranks are read off the weights."""

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False

    def scale(self, layer: str, rank: int) -> float:
        """What PEFT would multiply B A with. None said means alpha = rank."""
        alpha = self.alpha_pattern.get(get_pattern_key(list(self.alpha_pattern), layer), self.lora_alpha)
        return 1.0 if alpha is None else alpha / (rank**0.5 if self.use_rslora else rank)


def fingerprint(net: nn.Module, prediction: str | None = None) -> dict[str, Any]:
    """What tells a base: its network's shape, what it predicts, and a digest of its weights."""
    config = getattr(net, "config", {})
    found = {key: config[key] for key in FINGERPRINT if key in config}
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
    return {**found, **({PREDICTION: prediction} if prediction else {}), DIGEST: digest(net)}


def write(
    path: Path,
    state: Mapping[str, Tensor],
    shape: tuple[int, float, tuple[str, ...]],
    base: Mapping[str, Any],
    recipe: Mapping[str, Any],
    sampler: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    merged: Mapping[str, Any] | None = None,
    said: Mapping[str, str] | None = None,
) -> None:
    """Writes the file by rename: it is whole or it is not there."""
    rank, alpha, targets = shape
    tensors = {
        _key(name): (tensor if is_a(name) else tensor * (alpha / rank)).to(dtype).contiguous()
        for name, tensor in state.items()
    }
    about = {"r": rank, "lora_alpha": rank, "target_modules": list(targets)}
    about |= {"rank_pattern": {}, "alpha_pattern": {}}  # diffusers 0.35 does not load a file that lacks them
    adapter = {PREFIX + key: value for key, value in about.items()}
    header = {
        **about_it(recipe, sampler, base, "stable-diffusion-v1/lora", said),
        "lora_adapter_metadata": json.dumps(adapter, sort_keys=True),
        **({"hyper.merged": json.dumps(merged, sort_keys=True)} if merged else {}),
    }
    write_bytes(path, save(tensors, header))


def about_it(
    recipe: Mapping[str, Any],
    sampler: Mapping[str, Any],
    base: Mapping[str, Any],
    architecture: str,
    said: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The part of the header that any file of ours has, and what else is to be `said` in words."""
    return {
        "format": "pt",
        "hyper.recipe": json.dumps(recipe, sort_keys=True),
        "hyper.sampler": json.dumps(sampler, sort_keys=True),
        "hyper.base": json.dumps(base, sort_keys=True),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "diffusers",
        "modelspec.usage_hint": str(sampler.get("hint", "")),
        **{f"hyper.{key}": words for key, words in (said or {}).items() if words},
    }


def read(path: Path) -> LoraFile:
    """Raises FileNotFoundError, or ValueError for what is no LoRA, or OSError for a damaged file."""
    header, tensors = _open(path)
    _check_keys(tensors, path.name)
    weights = {_name(key): tensor.float() for key, tensor in tensors.items()}
    _check_halves(weights, path.name)
    _fold_alpha(weights, header, path.name)
    rank = pad(weights)
    return LoraFile(
        weights=weights,
        rank=rank,
        targets=tuple(sorted(layers(weights))),
        base=_json(header, "hyper.base", path.name),
        recipe=_json(header, "hyper.recipe", path.name),
        sampler=_json(header, "hyper.sampler", path.name),
        merged=_json(header, "hyper.merged", path.name),
        told=header.get("hyper.told", ""),
        on_top_of=header.get("hyper.on_top_of", ""),
        dtype=one_dtype(tensor.dtype for tensor in tensors.values()),
    )


def with_alpha(file: LoraFile, alpha: float | None) -> dict[str, Tensor]:
    """Its weights for a role of this alpha (None: the rank): what `write` folded into B comes out of it again."""
    scale = file.rank / (file.rank if alpha is None else alpha)
    return {name: tensor if is_a(name) else tensor * scale for name, tensor in file.weights.items()}


def check_fits(file: LoraFile, net: nn.Module, name: str, prediction: str | None = None) -> None:
    """Raises ValueError, with one line that says where they part, if the LoRA is of another base.

    Other weights of the same shape, such as a fine-tune, are fine, and noticed.
    """
    mine = fingerprint(net, prediction)
    for key, theirs in file.base.items():
        if key != DIGEST and mine.get(key, theirs) != theirs:
            raise ValueError(
                f"{name} was trained on another base: its {key} is {theirs}, this base has {mine[key]}; {REMEDY}"
            )
    modules = dict(net.named_modules())
    for layer, (a, b) in layers(file.weights).items():
        made, here = _made_for(file.weights[a], file.weights[b], a), _shape(modules.get(layer))
        if here is None:
            raise ValueError(f"{name} was trained on another base: it has weights for {layer}, this base has none")
        if made != here:
            raise ValueError(
                f"{name} was trained on another base: its {layer} is {made}, this base's is {here}; {REMEDY}"
            )
    if file.base.get(DIGEST, mine[DIGEST]) != mine[DIGEST]:
        warnings.warn(
            f"{name} was trained on other weights of the same shape; on this base quality may suffer", stacklevel=2
        )


def check_same_base(file: LoraFile, other: LoraFile, name: str, beside: str) -> None:
    """Raises ValueError, with one line that says where they part, if two LoRAs are of different bases.

    What either does not say or have is no difference; other weights of the same shape are noticed, as above.
    """
    mine, theirs = _about(file), _about(other)
    for key, value in mine.items():
        if key != DIGEST and theirs.get(key, value) != value:
            said = f"its {key} is {value}, that of {beside} is {theirs[key]}"
            raise ValueError(f"{name} was trained on another base: {said}; use LoRAs of one base together")
    if DIGEST in mine and theirs.get(DIGEST, mine[DIGEST]) != mine[DIGEST]:
        if not layers(file.weights).keys() & layers(other.weights).keys():
            raise ValueError(f"{name} was trained on another base: it shares no layer with {beside}, nor the weights")
        warnings.warn(
            f"{name} was trained on other weights than {beside}, of the same shape; quality may suffer", stacklevel=2
        )


def one_dtype(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The one that all are, else float32."""
    found = set(dtypes)
    return found.pop() if len(found) == 1 else torch.float32


def digest(net: nn.Module) -> str:
    """Of the frozen weights as fp16: the same for a base kept in either precision, and with LoRAs on it."""
    named = {name.replace(".base_layer", ""): p for name, p in net.named_parameters() if "lora_" not in name}
    chosen = [p.detach().flatten()[:: max(1, p.numel() // DIGEST_VALUES)].half() for _, p in sorted(named.items())]
    return hashlib.sha256(torch.cat(chosen).cpu().numpy().tobytes()).hexdigest()[:12]


def _about(file: LoraFile) -> dict[str, Any]:
    """What a LoRA tells of its base: what its header says, and the shape of each weight that it changes."""
    weights = file.weights
    shapes = {layer: _made_for(weights[a], weights[b], a) for layer, (a, b) in layers(weights).items()}
    return {**file.base, **shapes}


def _made_for(a: Tensor, b: Tensor, name: str) -> list[int]:
    """The shape of the weight that B A changes."""
    return [a.shape[1], len(b)] if "lora_embedding_" in name else [len(b), *a.shape[1:]]


def _shape(module: nn.Module | None) -> list[int] | None:
    """Of a module's own weight, LoRA on it or not; None where there is none."""
    weight = getattr(getattr(module, "base_layer", module), "weight", None)
    return list(weight.shape) if isinstance(weight, Tensor) else None


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"no LoRA file at {path}")
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is not a safetensors file; pickled weights (.pt, .bin, .ckpt) can run any code when "
            "read: convert it to safetensors first"
        )
    try:
        with safe_open(path, "pt") as file:
            header, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path.name, error) from error
    if "run" in header:
        raise ValueError(f"{path.name} is the checkpoint of a run: give the lora.safetensors beside it")
    return header, tensors


def _damaged(name: str, why: object) -> OSError:
    return OSError(f"{name} is damaged ({' '.join(str(why).split())}); fetch or train it again")


def _json(header: Mapping[str, str], key: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(header.get(key, "{}"))
    except ValueError as error:
        raise _damaged(name, f"{key}: {error}") from error
    if not isinstance(value, dict):
        raise _damaged(name, f"{key} holds no keys")
    return value


def _check_keys(keys: Iterable[str], name: str) -> None:
    if not any(is_a(key) for key in keys):
        whole = any(key.startswith("conv_in.") for key in keys)
        remedy = ": it is a whole network, whose folder can be given with --base" if whole else ""
        raise ValueError(f"{name} is not a LoRA in the diffusers layout (no lora_A weights in it){remedy}")
    for key in keys:
        if key.startswith("text_encoder"):
            raise ValueError(
                f"{name} holds weights for the text encoder too; only LoRAs of the UNet alone are supported yet: "
                "export it without them"
            )
        if not PART.fullmatch(_name(key)):
            raise ValueError(f"{name} is not a plain LoRA: it holds {key}; DoRA, biases and the like are not supported")


def _check_halves(weights: Mapping[str, Tensor], name: str) -> None:
    """Each layer has an A and a B of one rank."""
    pairs = layers(weights)
    for weight in weights:
        layer = _layer(weight)
        a, b = (weights.get(half) for half in pairs.get(layer, (weight, "")))
        if a is None or b is None or a.ndim < 2 or list(b.shape[1:]) != [len(a), *[1] * (a.ndim - 2)]:
            raise ValueError(f"{name} is not a whole LoRA: its A and B of {layer} do not match; export it again")


def _fold_alpha(weights: dict[str, Tensor], header: Mapping[str, str], name: str) -> None:
    said = _json(header, "lora_adapter_metadata", name)
    try:
        adapter = Adapter(**{key.removeprefix(PREFIX): value for key, value in said.items() if key.startswith(PREFIX)})
        for layer, (a, b) in layers(weights).items():
            weights[b] = weights[b] * adapter.scale(layer, len(weights[a]))
    except (ValidationError, re.error) as error:
        raise _damaged(name, f"lora_adapter_metadata: {error}") from error


def pad(weights: dict[str, Tensor]) -> int:
    """Brings every layer to the highest rank, which is returned: rows and columns of zeros change nothing."""
    pairs = layers(weights).values()
    rank = max(len(weights[a]) for a, _ in pairs)
    for a, b in pairs:
        if missing := rank - len(weights[a]):
            weights[a] = torch.cat([weights[a], weights[a].new_zeros(missing, *weights[a].shape[1:])])
            out, _, *kernel = weights[b].shape
            weights[b] = torch.cat([weights[b], weights[b].new_zeros(out, missing, *kernel)], dim=1)
    return rank


def layers(weights: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The names of A and B for each layer."""
    halves = [name for name in weights if is_a(name)]
    return {_layer(a): (a, a.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")) for a in halves}


def _layer(name: str) -> str:
    return name.rpartition(".lora_")[0]


def _key(name: str) -> str:
    return f"{PREFIX}{name}" if name.endswith(".weight") else f"{PREFIX}{name}.weight"


def _name(key: str) -> str:
    """The parameter's name in the network; PEFT's LoRA of an embedding has no `.weight`."""
    name = key.removeprefix(PREFIX)
    return name.removesuffix(".weight") if "lora_embedding_" in name else name


def is_a(name: str) -> bool:
    return "lora_A" in name or "lora_embedding_A" in name
