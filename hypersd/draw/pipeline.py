"""Text to image: a base, perhaps a LoRA on it, a sampler, and one seed a picture.

A picture depends on its own prompt and seed alone, never on the batch that it was drawn in.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hypersd import bases
from hypersd.bases import Base, Cond, Distilled
from hypersd.diffusion import samplers
from hypersd.diffusion.grids import MAX_STEPS, begun, check_one_step, step_code
from hypersd.diffusion.samplers import Sampler
from hypersd.diffusion.solver import Predict, guide
from hypersd.draw.nag import ALPHA, TAU, Nag, steer
from hypersd.lora import files
from hypersd.lora.roles import Roles

LORA_ROLE = "lora"
BASE_GUIDANCE = 5.0
"""What a base without a few-step LoRA is drawn with, unless told otherwise."""
USUAL_STEPS, MOST_STEPS = 4, 100
FEW_WEIGHTS = 100_000_000
"""Below, a second copy of the network is cheap, and a LoRA beside it costs as much time as the network itself."""


Made = files.LoraFile | Distilled
"""What was distilled, and says so in its header."""


@dataclass(frozen=True)
class Settings:
    """How to draw. `guidance_scale` is the ordinary convention: 1 is the conditional prediction only.

    `nag_scale` above 1 steers away from the negative prompt, or from the empty one, with guidance or without
    (`draw/nag.py`).
    """

    steps: int = 4
    sampler: str = "ddim"
    sampler_settings: dict[str, float] = field(default_factory=dict)
    guidance_scale: float = 1.0
    negative: str = ""
    height: int | None = None
    width: int | None = None
    nag_scale: float = 1.0
    nag_tau: float = TAU
    nag_alpha: float = ALPHA

    @property
    def nag(self) -> Nag:
        return Nag(self.nag_scale, self.nag_tau, self.nag_alpha)

    def checked(self) -> Settings:
        """Guidance 0 becomes 1, with a notice; what is set and does nothing is noticed too."""
        settings = self
        if not 0 <= self.guidance_scale < math.inf:
            raise ValueError(f"guidance_scale must be 0 (off) or more, not {self.guidance_scale:g}")
        if self.guidance_scale == 0:
            warnings.warn("guidance_scale 0 means off, as on Hyper-SD's model cards: taken as 1", stacklevel=3)
            settings = replace(settings, guidance_scale=1.0)
        if self.negative and settings.guidance_scale == 1 and not self.nag.on:
            remedy = "give --nag 3 (nag_scale) or, without a few-step LoRA, raise the guidance"
            warnings.warn(f"the negative prompt does nothing at guidance_scale 1; {remedy}", stacklevel=3)
        if not self.nag.on and self.nag != Nag():
            warnings.warn("nag_tau and nag_alpha do nothing at nag_scale 1; give --nag 3 (nag_scale)", stacklevel=3)
        return settings


class Drawer:
    """A base with an optional LoRA, ready to draw."""

    def __init__(self, base: Base, lora: Path | None = None, scale: float = 1.0, roles: Roles | None = None) -> None:
        """`roles` are those that are on the base already, if it is being trained."""
        if not math.isfinite(scale):
            raise ValueError(f"the LoRA's scale must be a number such as 1, not {scale}")
        self.base = base
        self.roles = roles or Roles(base.unet)
        self.playing: tuple[str, ...] = ()
        self.lora: files.LoraFile | None = None
        self.lora_name = lora.stem if lora else None
        if lora is not None:
            self._load(lora, scale)
        self.step_code = int(self.made.sampler.get("step_code", 0)) if self.made else 0

    @classmethod
    def load(cls, base: str = "emoji", lora: Path | None = None, scale: float = 1.0) -> Drawer:
        """The folder of a distilled network may stand where a LoRA does: it draws instead of the base."""
        if lora is not None and lora.is_dir():
            made_by(lora)
            if scale != 1:
                raise ValueError(f"{lora} is a network of its own, which has no scale")
            return cls(bases.load(lora))
        return cls(bases.load(base), lora, scale)

    def _load(self, path: Path, scale: float) -> None:
        file = files.read(path)
        files.check_fits(file, self.base.unet, path.name, self.base.schedule.prediction)
        if file.on_top_of:
            remedy = "draw with lora.safetensors of its run, or add it by hypersd merge"
            warnings.warn(f"{path.name} is a part alone, trained on top of {file.on_top_of}: {remedy}", stacklevel=4)
        self.roles.add(LORA_ROLE, file.rank, file.targets)
        self.roles.load(LORA_ROLE, file.weights)
        self.roles.scale(LORA_ROLE, scale)
        self.lora, self.playing = file, (LORA_ROLE,)

    @property
    def made(self) -> Made | None:
        """What says how to draw: the LoRA, or a distilled base; None for a base as others trained it."""
        return self.lora or self.base.distilled

    @torch.no_grad()
    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        callback: samplers.Callback | None = None,
        sampler: Sampler | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Pictures in [0, 1], one for each prompt and seed."""
        return self.base.to_images(self.latents(prompts, seeds, settings, callback, sampler))

    @torch.no_grad()
    def latents(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: Settings,
        callback: samplers.Callback | None = None,
        sampler: Sampler | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """`sampler` takes the place of the one that the settings name."""
        settings = settings.checked()
        if sampler is None:
            sampler = samplers.load(settings.sampler, **settings.sampler_settings)
            grid = self.grid(sampler, settings)
        else:
            grid = sampler.grid(settings.steps, self.base.schedule.total)
        cond = self.base.encode(prompts)
        null = self.base.encode([settings.negative] * len(prompts)) if settings.negative else self.base.null(cond)
        noise, generators = start(self.base, seeds, settings.height, settings.width)
        steered = steer(self.base.unet, null.tokens, settings.nag) if settings.nag.on else nullcontext()
        with self.on_stage(), steered:
            predict = bind(self.base, cond, null, settings.guidance_scale, self.code(settings.steps))
            return sampler(predict, self.base.schedule, noise, grid, generators, callback)

    def grid(self, sampler: Sampler, settings: Settings) -> list[int]:
        """The sampler's; of a single step, where the LoRA on stage wants that to begin if the settings do not say."""
        total, header = self.base.schedule.total, self.made.sampler if self.made else {}
        asked = {**header, **settings.sampler_settings}.get(samplers.ONE_STEP)
        check_one_step(asked)
        return begun(sampler.grid(settings.steps, total), asked, total)

    def code(self, steps: int) -> int:
        """What the LoRA on stage wants taken from the timesteps of so many steps (`grids.step_code`)."""
        return step_code(steps, self.step_code)

    @contextmanager
    def on_stage(self) -> Iterator[None]:
        """Inside, the network is the base with the LoRA on it, folded into the weights where those are few."""
        small = sum(parameter.numel() for parameter in self.base.unet.parameters()) < FEW_WEIGHTS
        folded = self.roles.fold(*self.playing) if small and self.playing else nullcontext()
        with folded, self.roles.play(*self.playing):
            yield


def start(
    base: Base, seeds: Sequence[int], height: int | None = None, width: int | None = None
) -> tuple[Float[Tensor, "b c h w"], list[torch.Generator]]:
    """The noise of each seed, and the generators to draw more from."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = torch.empty(len(seeds), *base.latent_shape(height, width), device=base.device)
    return samplers.noise_like(shape, generators), generators


def bind(base: Base, cond: Cond, null: Cond, guidance_scale: float | Tensor, code: int | Tensor = 0) -> Predict:
    """`base.predict` with conditioning, guidance and step code bound; both branches run as one batch.

    A guidance scale of 1 costs one evaluation a step, any other two.
    """
    if torch.as_tensor(guidance_scale == 1).all():
        return lambda x_t, t: base.predict(x_t, t, cond, told(t, code))
    both = Cond.cat([null, cond])

    def predict(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x0, eps = base.predict(torch.cat([x_t, x_t]), torch.cat([t, t]), both, told(t, code).repeat(2))
        (x0_null, x0_cond), (eps_null, eps_cond) = x0.chunk(2), eps.chunk(2)
        return guide(x0_cond, x0_null, guidance_scale), guide(eps_cond, eps_null, guidance_scale)

    return predict


def told(t: Tensor, code: int | Tensor) -> Tensor:
    """The timestep that the network is told for t."""
    return (t - code).clamp(min=0)


def made_by(path: Path) -> Made:
    """What a LoRA's file, or the folder of a distilled network, says of how it was made and wants to be used."""
    if not path.is_dir():
        return files.read(path)
    if (found := bases.distilled(path)) is None:
        raise ValueError(f"{path} does not say how it was distilled (no {bases.ABOUT}): give a LoRA's file, or --base")
    return found


def usual_steps(made: Made | None) -> int:
    """Of one who does not say: 4, or as many as it was made for if that is fewer."""
    return min(USUAL_STEPS, max(made.sampler.get("steps") or [USUAL_STEPS])) if made else USUAL_STEPS


def settings_for(
    made: Made | None,
    steps: int,
    sampler: str | None = None,
    eta: float | None = None,
    guidance_scale: float | None = None,
    one_step: int | None = None,
    **others: Any,
) -> Settings:
    """What was asked for; what was not is as the header of a LoRA or base says, or as suits a base alone.

    Raises ValueError for what there is not, or a `one_step` of several.
    """
    header: dict[str, Any] = made.sampler if made else {"guidance_scale": BASE_GUIDANCE}
    check_steps(steps, made is not None, header.get("steps") or ())
    if steps > (most := max(header.get("steps") or [steps])):
        warnings.warn(f"{steps} steps: it was made for {most}, and more are no better", stacklevel=2)
    usual: str = header.get("name", "ddim")
    name = sampler or usual
    chosen = samplers.meant(header, name)
    if steps > 1:
        chosen.pop(samplers.ONE_STEP, None)
    if one_step is not None:
        if steps > 1:
            raise ValueError(f"one_step is where a single step begins, and there are {steps}: set steps to 1")
        chosen[samplers.ONE_STEP] = one_step
    if eta is not None and not (name == "ddim" and eta == 0):  # that is what DDIM is, and no setting of it
        chosen["eta"] = eta
    return Settings(
        steps=steps,
        sampler=name,
        sampler_settings=chosen,
        guidance_scale=header.get("guidance_scale", 1.0) if guidance_scale is None else guidance_scale,
        **others,
    ).checked()


def teacher_guidance(made: Made | None) -> float:
    """The middle of the guidance range that was baked in; where none was, what it is drawn with, as a base is."""
    teacher = made.recipe.get("teacher", {}) if made else {}
    low, high = teacher.get("guidance", (BASE_GUIDANCE, BASE_GUIDANCE))
    baked = (low + high) / 2
    return made.sampler.get("guidance_scale", 1.0) if made and baked == 1 else baked


def check_steps(steps: int, with_lora: bool = True, made_for: Sequence[int] = ()) -> None:
    """Few-step LoRAs, and distilled bases, are made for 1 to 8 steps, or for more if they say so."""
    few = max([MAX_STEPS, *made_for])
    most, what = (few, "with a few-step LoRA") if with_lora else (MOST_STEPS, "without a LoRA")
    if not 1 <= steps <= most:
        raise ValueError(f"steps must be from 1 to {most} {what}, not {steps}")


def check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise ValueError("the prompt is empty: say what to draw")
