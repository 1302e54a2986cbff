"""Where clean latents and their conditioning come from. `kind` in a recipe names the class.

    prompts   no pictures needed: the base itself draws a pool of latents from prompts, once
    latents   a file of encoded pictures with captions (the bundled dataset's, or one's own)
    gaussian  the toy's
    paths     no pictures needed: whole paths of the guided teacher (`paths.py`)

Which sample is drawn depends on that sample's own generator only (`randomness.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hypersd import bundled
from hypersd.atomic import write_bytes
from hypersd.bases import Base, Cond
from hypersd.distill.randomness import Generators, normal, uniform
from hypersd.distill.truth import Kept, Truth, kind_of, read_truth
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.lora.files import fingerprint
from hypersd.lora.roles import Roles
from hypersd.recipe import Strict, check

SAY_EVERY = 8  # batches
Say = Callable[[str], None]
"""Tells whoever waits."""

LATENTS_HINT = (
    "docs/train.md says how one is written, the bundled base's by `python -m emoji.base --start "
    "hypersd/bundled/emoji-sd`; without losses.perceptual prompts will do, data={kind: prompts}"
)


def silent(words: str) -> None:
    pass


@runtime_checkable
class Data(Protocol):
    """Samples, each chosen by its own generator."""

    @property
    def held(self) -> Data | None:
        """Those that are never trained on, if any."""

    def draw(self, rngs: Generators) -> Drawn: ...


@dataclass(frozen=True)
class Drawn:
    """Samples: latents, or whole paths of them, with their captions."""

    latents: Float[Tensor, "b *p c h w"]
    cond: Cond
    prompts: tuple[str, ...]
    truth: Truth | None = None
    """What a perceptual loss compares with, where the data keeps it."""
    one_step: Float[Tensor, "b c h w"] | None = None
    """Where a drawing in one step is to end, if elsewhere than its path."""


class Captioned:
    """Latents with one or more captions each, kept in memory; text is encoded as it is drawn."""

    held: Captioned | None

    def __init__(
        self,
        base: Base,
        latents: Tensor,
        captions: list[list[str]],
        weight: Tensor,
        truth: Kept | None = None,
        empty: float = 0.0,
        held: int = 0,
    ) -> None:
        """`empty` is the share of samples that get no caption, as guidance needs; `held` of those with a weight, the
        same whenever they are chosen, are held out. Raises ValueError where that leaves none.
        """
        self.base, self.latents, self.captions, self.truth, self.empty = base, latents, captions, truth, empty
        self.held, self.heap = None, heap(weight)
        if held:
            weighs = weight.nonzero().squeeze(1)
            leaves_some(held, len(weighs))
            out = torch.zeros_like(weight, dtype=torch.bool)
            out[weighs[torch.randperm(len(weighs), generator=torch.Generator().manual_seed(0))[:held]]] = True
            self.heap, self.held = heap(weight * ~out), copy(self)
            self.held.heap = heap(weight * out)

    def draw(self, rngs: Generators) -> Drawn:
        u_picture, u_text = uniform(rngs, 2)
        chosen = torch.searchsorted(self.heap, u_picture, right=True).clamp(max=len(self.latents) - 1)
        lists = [self.captions[picture] for picture in chosen.tolist()]
        texts = [self._text(texts, u) for texts, u in zip(lists, u_text.tolist(), strict=True)]
        x0 = self.latents[chosen].float().to(self.base.device)
        shown = self.truth.of(chosen.tolist()) if self.truth else None
        return Drawn(x0, self.base.encode(texts), tuple(texts), shown)

    def _text(self, texts: list[str], u: float) -> str:
        return "" if u < self.empty else texts[int((u - self.empty) / (1 - self.empty) * len(texts))]


def heap(weight: Tensor) -> Tensor:
    """Where the share of each sample ends. Raises ValueError if none has a weight."""
    if not float(weight.sum()) > 0:
        raise ValueError("no sample of the data has a weight above 0: build it again")
    return (weight.double() / weight.double().sum()).cumsum(0)


def leaves_some(held: int, samples: int) -> None:
    if held >= samples:
        raise ValueError(f"data.held={held} leaves none of {samples} samples to train on: set it lower")


class Pool(Strict):
    """What the kinds that keep their samples have in common."""

    held: int = Field(0, ge=0)
    """How many are never trained on: how far they are missed is logged beside how far others are."""

    @model_validator(mode="after")
    def _some_are_left(self) -> Pool:
        """Before an hour is spent on drawing them."""
        if (pool := getattr(self, "pool", None)) is not None and self.held:
            leaves_some(self.held, pool)
        return self


class LatentsSettings(Pool):
    path: Path
    empty: float = Field(0.0, ge=0, lt=1)
    """The share of samples whose caption is left out: 0.1 for a LoRA that is to be guided."""


def latents(base: Base, settings: LatentsSettings, cache: Path, say: Say) -> Data:
    """A safetensors file: `latents` (n c h w), `weight` (n), and the captions in its header, JSON; maybe a truth."""
    _must_exist(settings.path)
    found, captions, weight = read_latents(settings.path)
    channels, shape = base.latent_shape()[0], " ".join(map(str, found.shape))
    if found.ndim != 4 or found.shape[1] != channels:
        raise ValueError(f"{settings.path} has latents of {shape}, not n {channels} h w as {base.source} draws")
    return Captioned(base, found, captions, weight, read_truth(settings.path), settings.empty, settings.held)


def truth_in(settings: dict[str, Any]) -> str | None:
    """Which truth a recipe's data holds, if any. Raises ValueError for a file that is not there."""
    if settings.get("kind") != "latents":
        return None
    path = check(LatentsSettings, _rest(settings), "data").path
    _must_exist(path)
    return kind_of(path)


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"no latents at {path}: {LATENTS_HINT}")


class PromptsSettings(Pool):
    prompts: Path | None = None
    """A text file, one prompt a line; None is the bundled list."""
    pool: int = Field(2048, ge=1)
    """How many latents the base draws."""
    steps: int = Field(25, ge=1)
    guidance: float = Field(5.0, ge=0)
    seed: int = 0
    batch: int = Field(64, ge=1)
    empty: float = Field(0.0, ge=0, lt=1)


def prompts(base: Base, settings: PromptsSettings, cache: Path, say: Say) -> Data:
    """The base's own many-step latents; drawn once, then kept in `cache` under a fingerprint."""
    texts = read_prompts(settings.prompts)
    about = settings.model_dump(mode="json", exclude={"empty", "held"})
    key = [fingerprint(base.unet), base.latent_shape(), about, texts]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    file = cache / f"pool-{name}.safetensors"
    if not file.is_file():
        _write(file, _pool(base, texts, settings, say), [[texts[i % len(texts)]] for i in range(settings.pool)])
    return Captioned(base, *read_latents(file), empty=settings.empty, held=settings.held)


def read_prompts(path: Path | None) -> list[str]:
    """The lines of a text file; the bundled ones for None."""
    path = path or bundled.PROMPTS
    if not path.is_file():
        raise ValueError(f"no prompts at {path}")
    try:
        texts = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file ({error.reason}); put one prompt on each line") from error
    if not texts:
        raise ValueError(f"{path} holds no prompts; put one on each line")
    return texts


def _pool(base: Base, texts: list[str], settings: PromptsSettings, say: Say) -> Tensor:
    how = Settings(steps=settings.steps, guidance_scale=settings.guidance)
    drawer, drawn = Drawer(base, roles=Roles.of.get(base.unet)), list[Tensor]()  # those that are being trained
    for first in range(0, settings.pool, settings.batch):
        if len(drawn) % SAY_EVERY == 0:
            say(f"drawing latents from prompts, once: {first} of {settings.pool}")
        indices = range(first, min(first + settings.batch, settings.pool))
        chosen = [texts[i % len(texts)] for i in indices]
        drawn.append(drawer.latents(chosen, [settings.seed + i for i in indices], how).half().cpu())
    return torch.cat(drawn)


class GaussianSettings(Strict):
    std: float = Field(0.5, gt=0)


class GaussianData:
    """N(0, std²) latents for the toy."""

    held = None

    def __init__(self, base: Base, settings: GaussianSettings) -> None:
        self.base, self.std = base, settings.std

    def draw(self, rngs: Generators) -> Drawn:
        x0, prompts = self.std * normal(rngs, self.base.latent_shape()), ("",) * len(rngs)
        return Drawn(x0.to(self.base.device), self.base.encode(prompts), prompts)


def gaussian(base: Base, settings: GaussianSettings, cache: Path, say: Say) -> Data:
    return GaussianData(base, settings)


KINDS: dict[str, tuple[Callable[..., Data], type[Strict]]] = {
    "latents": (latents, LatentsSettings),
    "prompts": (prompts, PromptsSettings),
    "gaussian": (gaussian, GaussianSettings),
}


def load(base: Base, settings: dict[str, Any], cache: Path, say: Say = silent) -> Data:
    """The data of a recipe. Raises ValueError in one line."""
    kind = settings.get("kind", "prompts")
    if kind not in KINDS:
        raise ValueError(f"unknown data kind {kind!r}: use one of {', '.join([*KINDS, 'paths'])}")
    make, model = KINDS[kind]
    return make(base, check(model, _rest(settings), "data"), cache, say)


def _rest(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "kind"}


def _write(path: Path, tensor: Tensor, captions: list[list[str]]) -> None:
    tensors = {"latents": tensor, "weight": torch.ones(len(tensor))}
    write_bytes(path, save(tensors, {"captions": json.dumps(captions)}))


def read_latents(path: Path) -> tuple[Tensor, list[list[str]], Tensor]:
    """Latents (or paths), each one's captions and each one's weight. Raises OSError for a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            captions = json.loads((file.metadata() or {}).get("captions", "[]"))
            tensors = file.get_tensor("latents"), file.get_tensor("weight")
    except (SafetensorError, json.JSONDecodeError) as error:
        raise OSError(f"{path} is damaged ({error}); delete it and build it again") from error
    for what, count in {"lists of captions in its header": len(captions), "weights": len(tensors[1])}.items():
        if count != len(tensors[0]):
            raise ValueError(f"{path} has {len(tensors[0])} latents but {count} {what}")
    lists = all(isinstance(texts, list) and texts for texts in captions)
    if not lists or not all(isinstance(text, str) for texts in captions for text in texts):
        raise ValueError(f"{path}: its captions must be a list of texts for each of its latents, with one at least")
    return tensors[0], captions, tensors[1]
