"""Model families, one a file, behind one protocol; `load` finds the right one.

Everything above this folder talks to a `Base` and never asks which family it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hypersd import bundled, tensors
from hypersd.diffusion.schedule import Schedule
from hypersd.recipe import Usage

REMEDY = "fetch the model again"
FAMILY_OF_PIPELINE = {"StableDiffusionPipeline": "sd15"}
ABOUT = "hypersd.json"
"""In the folder of a distilled base: how it was made, and how it wants to be used."""


@dataclass(frozen=True)
class Cond:
    """A batch of conditionings. Indexing, moving and joining act on every tensor it holds."""

    tokens: Float[Tensor, "b n d"]
    pooled: Float[Tensor, "b p"] | None = None
    sizes: Float[Tensor, "b 6"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> Cond:
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> Cond:
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change: Any) -> Cond:
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: v if v is None else change(v) for name, v in held.items()}
        return Cond(**changed)

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        names = [field.name for field in fields(Cond)]
        columns = {name: [getattr(cond, name) for cond in conds] for name in names}
        joined: dict[str, Any] = {name: v[0] if v[0] is None else torch.cat(v) for name, v in columns.items()}
        return Cond(**joined)


@dataclass(frozen=True)
class Distilled:
    """What the folder of a distilled base says of it, in the words of a LoRA's header."""

    recipe: dict[str, Any]
    sampler: dict[str, Any]


@runtime_checkable
class Base(Protocol):
    """A diffusion model that can be distilled: what the rest of the package knows of it."""

    family: str
    source: str
    unet: nn.Module
    schedule: Schedule
    lora_targets: tuple[str, ...]
    autocast: torch.dtype | None
    """Dtype of autocast around the backbone; None is off."""
    distilled: Distilled | None
    """None for a base as others trained it."""

    @property
    def device(self) -> torch.device: ...

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]: ...

    def encode(self, prompts: Sequence[str]) -> Cond: ...

    def null(self, cond: Cond) -> Cond:
        """What guidance subtracts, for each conditioning of a batch."""

    def predict(
        self, x_t: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], cond: Cond, told: Int[Tensor, " b"] | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """(x0, ε) at x_t, whatever the checkpoint predicts; the network is `told` another timestep if one is given."""

    def features(
        self, x_t: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], cond: Cond
    ) -> list[Float[Tensor, "b _ _ _"]]:
        """What the backbone makes of x_t on its way down to the middle, a map of each depth; differentiable in x_t."""

    def to_latents(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]: ...

    def to_images(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [0, 1], differentiable in the latents."""


def load(where: str | Path = "emoji", device: str | torch.device | None = None, **settings: Any) -> Base:
    """The base called `emoji` (bundled) or `toy`, or the one in a diffusers folder.

    Raises ValueError for a folder that is none, OSError for one whose weights are missing or damaged.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where == "toy":
        return import_module("hypersd.bases.toy").Toy(device=device, **settings)
    path = folder(where)
    family = import_module(f"hypersd.bases.{_family(path, str(where))}")
    found = family.load(path, device=device, source=str(where), **settings)
    found.distilled = distilled(path)
    return found


def folder(where: str | Path) -> Path:
    """The diffusers folder that a base's name stands for."""
    return bundled.BASE if where == "emoji" else Path(where)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware: a GPU since Ampere, a CPU with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _family(path: Path, name: str) -> str:
    index = path / "model_index.json"
    if not path.exists():
        raise ValueError(f"no base called {name!r}: give 'emoji', 'toy' or the path of a diffusers folder")
    if not index.is_file():
        raise ValueError(f"{name} is not a diffusers folder (no model_index.json in it)")
    pipeline = tensors.facts(index, REMEDY).get("_class_name")
    if pipeline not in FAMILY_OF_PIPELINE:
        known = ", ".join(FAMILY_OF_PIPELINE)
        raise ValueError(f"{name} is a {pipeline}, which is not supported yet; supported: {known}")
    return FAMILY_OF_PIPELINE[pipeline]


def distilled(where: Path) -> Distilled | None:
    """What a diffusers folder says of how it was distilled; None for a base as others trained it."""
    path = where / ABOUT
    if not path.is_file():
        return None
    facts = tensors.facts(path, REMEDY)
    with tensors.readable(path, REMEDY):
        return Distilled(dict(facts["recipe"]), Usage(**facts["sampler"]).model_dump(mode="json"))


@contextmanager
def readable_weights(path: Path) -> Iterator[None]:
    """Turns what safetensors and transformers raise on missing, damaged or pickled weights into one line."""
    from safetensors import SafetensorError

    if not list(path.glob("*.safetensors")):
        if list(path.glob("*.bin")) or list(path.glob("*.ckpt")) or list(path.glob("*.pt")):
            raise OSError(
                f"{path} holds pickled weights, which can run any code when read; "
                "save the model again with safe_serialization=True"
            )
        raise FileNotFoundError(f"no weights in {path}: expected *.safetensors; {REMEDY}")
    try:
        yield
    except (SafetensorError, RuntimeError, KeyError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise OSError(f"the weights in {path} are damaged ({first}); {REMEDY}") from error


@contextmanager
def no_bars() -> Iterator[None]:
    """Reading a folder takes a second or two: the libraries' bars for it are noise."""
    from diffusers.utils import logging as diffusers_bars
    from transformers.utils import logging as transformers_bars

    shown = [bars for bars in (diffusers_bars, transformers_bars) if bars.is_progress_bar_enabled()]
    for bars in shown:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        for bars in shown:
            bars.enable_progress_bar()
