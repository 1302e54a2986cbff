"""The frame of a recipe: strict YAML, `key=value` on the command line, and overrides for each stage.

A plug-in owns the model of its own settings: what stands under `losses.NAME` is checked by that loss
(`distill/resolve.py`), everything else here. An unknown key is refused, with the nearest one that is known.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from hypersd import dotted
from hypersd.diffusion import samplers
from hypersd.diffusion.grids import MOST_MADE_FOR
from hypersd.diffusion.segments import End, Segments

Steps = Annotated[int, Field(ge=1, le=MOST_MADE_FOR)]
MOST_CODE = 100
STAGE_KEYS = (
    "draw", "teacher", "optimiser", "losses", "ema", "average", "micro_batch",
    "checkpoint_every", "sample_every", "sample_prompts",
)  # fmt: skip
"""What a stage may override: the rest lasts as long as the run."""


class Strict(BaseModel):
    """Settings that refuse what they do not know and never change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(Strict):
    rank: int = Field(64, ge=1)
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    """None means alpha = rank, scale 1."""
    targets: tuple[str, ...] | None = None
    """None means the list of the base's family (for SD: LCM-LoRA's)."""
    dtype: Literal["fp16", "fp32"] = "fp16"
    """Of the file. Weights in training are fp32."""
    start: Path | None = None
    """A LoRA that training goes on from, a file or `bundled`; None changes nothing yet."""
    beneath: Path | None = None
    """A finished LoRA, a file or `bundled`, that stays as it is: what is trained comes on top of it, and the result is
    the sum of both."""
    fold: bool = False
    """Trains through W + B A as one weight: the same gradients, faster for a small network, for the memory of one
    more network and its gradient."""


class Teacher(Strict):
    guidance: tuple[float, float] = (7.0, 7.0)
    """[ω_min, ω_max] of Algorithm 1, in the ordinary convention; baked into the student."""
    follow: Literal["base", "previous"] = "base"
    """Whose ODE is solved: the base's, or the previous stage's student's (Fig. 2; guidance is then off). For the
    first stage that is the LoRA that it starts from or stands on, or without either the base."""
    substeps: int = Field(1, ge=1)
    """Solver steps from t to s. With few `draw.points` (8, say) the student learns at few timesteps and so sooner,
    and several substeps keep the teacher's path as true as that of many points."""

    @field_validator("guidance")
    @classmethod
    def _guidance(cls, given: tuple[float, float]) -> tuple[float, float]:
        low, high = given
        if not 0 <= low <= high < math.inf:
            raise ValueError("give [from, to], both 0 (off) or more and the smaller first")
        if low == 0:
            warnings.warn("teacher.guidance 0 means off: taken as 1", stacklevel=2)
        return (low or 1.0, max(high, low or 1.0))


class Draw(Strict):
    points: int = 40
    """N of the solver grid."""
    end: End = "uniform"
    start_share: float = Field(0.5, ge=0, le=1)
    """With end: mixture, the share of jumps that end at the segment's start."""
    visited_share: float = Field(0.0, ge=0, le=1)
    """The share of t drawn from the timesteps of the samplers and steps below; the rest is on the solver grid."""
    samplers: tuple[str, ...] = Field(("ddim", "tcd"), min_length=1)
    steps: tuple[Steps, ...] = Field((1, 2, 4, 8), min_length=1)
    """Each is drawn equally often; one that is given twice, twice as often."""
    together: bool = False
    """All samples of an update that samplers visit are of one sampler and number of steps, drawn for all: whole
    drawings then end together instead of waiting for the longest, whose last passes hold a few samples only."""
    eta: float = Field(0.0, ge=0, le=1)
    """The most of TCD's η in whole drawings: half of them have none, the others' is uniform up to this."""
    pure_noise: float = Field(0.0, ge=0, le=1)
    """At t = T−1, the share of samples that start from pure noise, as sampling does (SNR there is not 0)."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimiser(Strict):
    lr: float = Field(1e-6, gt=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    max_norm: float = Field(1.0, gt=0)
    warmup: int = Field(0, ge=0)
    decay: Literal["constant", "cosine"] = "constant"


def _of_a_folder(name: str) -> str:
    if name in ("", ".", "..") or set("/\\") & set(name):
        raise ValueError("name a folder, without slashes")
    return name


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= span[0] < span[1] <= 1:
        raise ValueError("give [from, to], two numbers from 0 to 1, the lower one first")
    return span


Span = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""A part of the timesteps: 0 is no noise, 1 is t = 999."""


def _of_a_loss(weight: Any) -> float | tuple[float, float]:
    try:
        ends = tuple(float(end) for end in (weight if isinstance(weight, list | tuple) else (weight, weight)))
    except (TypeError, ValueError):
        ends = ()
    if len(ends) != 2 or not all(0 <= end < math.inf for end in ends):
        raise ValueError("give a number of 0 or more, or two: [first, last]")
    return ends if isinstance(weight, list | tuple) else ends[0]


Weight = Annotated[float | tuple[float, float], BeforeValidator(_of_a_loss)]
"""Of a loss: a number, or [first, last], evenly from the one to the other over the stage."""


class Stage(Strict):
    segments: int = Field(ge=1)
    iterations: int = Field(ge=1)
    override: dict[str, Any] = Field(default_factory=dict)
    """Settings of this stage only, by dotted key: {draw.end: start, optimiser.lr: 1e-5}."""


class Usage(Strict):
    """How the result wants to be used. What is not named here is a setting of the sampler."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, int | float]

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        """A key that is null is left out: so a recipe that extends another takes `one_step` back."""
        return _given(given) if isinstance(given, dict) else given

    name: str = "ddim"
    steps: tuple[Steps, ...] = (1, 2, 4, 8)
    guidance_scale: float = Field(1.0, ge=0)
    hint: str = ""
    step_code: int = Field(0, ge=0, le=MOST_CODE)
    """How many timesteps less the network is told for each step after the first, in training and in use
    (`diffusion.grids.step_code`): one chord from t = 999 for each number of steps. 0 is off."""


class Recipe(Strict):
    name: Annotated[str, AfterValidator(_of_a_folder)]
    """Also of its folder among the runs."""
    base: str = "emoji"
    base_settings: dict[str, Any] = Field(default_factory=dict)
    data: Annotated[dict[str, Any], AfterValidator(_given)] = {"kind": "prompts"}
    """A key that is null is left out: another kind of data may not know it."""
    student: Literal["lora", "full"] = "lora"
    """full: every weight of the network is trained, and the result is a network of its own; `lora` is then about
    opponents' LoRAs, the dtype of the file, and the LoRA that the student begins as."""
    lora: Lora = Lora()
    teacher: Teacher = Teacher()
    draw: Draw = Draw()
    optimiser: Optimiser = Optimiser()
    losses: dict[str, dict[str, Any]] = {"consistency": {}}
    stages: tuple[Stage, ...]
    ema: float | None = Field(None, ge=0, lt=1)
    """μ of the target network; None is the student itself without gradient."""
    average: float | None = Field(None, ge=0, lt=1)
    """The most of the decay of a moving average of the student's weights, which then is what a stage results in; None
    is the weights as last updated."""
    batch: int = Field(32, ge=1)
    """Samples an update, over all processes and micro-batches."""
    micro_batch: int | None = Field(None, ge=1)
    """Samples at once on a device; None is all of its share."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """bf16: autocast around the backbone, and what `likeness` looks through; LoRA weights, schedule and other losses
    stay fp32.
    auto: bf16 where the device multiplies it in hardware."""
    gradient_checkpointing: bool = False
    seed: int = Field(0, ge=0)
    checkpoint_every: int = Field(200, ge=1)
    sample_every: int = Field(500, ge=1)
    sample_prompts: tuple[str, ...] = ()
    """Drawn every `sample_every` iterations, at the steps of `draw.steps`, into DIR/samples."""
    sampler: Usage = Usage()
    """Written into the result's header. Where `draw.samplers` names the same sampler, it visits the timesteps of these
    settings in training too; η there is `draw.eta`."""

    def at(self, stage: int) -> Recipe:
        """This recipe with the stage's overrides applied."""
        values = self.model_dump(mode="json")
        for key, value in self.stages[stage].override.items():
            dotted.put(values, key, dotted.own(value))
        return _validated(values)


def load(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `key=value` assignments on top. Raises ValueError in one line."""
    values = _read(path)
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise ValueError(f"{assignment!r} is not key=value")
        try:
            dotted.put(values, key, dotted.read(value))
        except yaml.YAMLError:
            raise ValueError(f"recipe key {key!r}: {value!r} is not YAML") from None
    return parse(values)


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a file says, on top of the recipe that it `extends`, a path beside it."""
    if not path.is_file():
        raise ValueError(f"no recipe at {path}; " + (f"{above[-1]} extends it" if above else "see the folder recipes/"))
    if path.resolve() in above:
        raise ValueError(f"{path} extends itself")
    try:
        values = dotted.read(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a recipe: expected keys and values")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise ValueError(f"{path}: extends is the path of another recipe, not {parent!r}")
    below = _read(path.parent / parent, (*above, path.resolve()))
    if wiped := dotted.wiped(values):
        raise ValueError(f"{path}: {wiped}")
    for key, value in values.items():
        dotted.put(below, key, value)
    return below


def parse(values: Mapping[str, Any]) -> Recipe:
    """Checks a recipe, and every stage of it with its overrides."""
    recipe = _validated(values)
    if not recipe.stages:
        raise ValueError("the recipe has no stages; give at least {segments: 8, iterations: 1000}")
    samplers.load(recipe.sampler.name, **(recipe.sampler.model_extra or {}))
    if recipe.student == "full" and recipe.lora.beneath:
        raise ValueError("student: full has no LoRA beneath it: set lora.start instead, which it begins as")
    for index in range(len(recipe.stages)):
        _check_stage(recipe, index)
    return recipe


def _check_stage(recipe: Recipe, index: int) -> None:
    for key in recipe.stages[index].override:
        if key.partition(".")[0] not in STAGE_KEYS:
            raise ValueError(f"stage {index + 1} cannot override {key!r}, only {', '.join(STAGE_KEYS)}")
    if wiped := dotted.wiped(recipe.stages[index].override):
        raise ValueError(f"in stage {index + 1} {wiped}")
    stage = recipe.at(index)
    if not stage.losses:
        raise ValueError("the recipe has no losses; give at least {consistency: {}}")
    for name in stage.draw.samplers:
        samplers.load(name)
    if stage.draw.end == "visited" and stage.draw.visited_share == 0:
        raise ValueError(f"draw.end: visited needs timesteps of samplers: set draw.visited_share in stage {index + 1}")
    if recipe.sampler.step_code and stage.draw.visited_share < 1:
        where = f"set draw.visited_share=1 in stage {index + 1}"
        raise ValueError(f"sampler.step_code needs to know every sample's steps: {where}")
    last, unseen = index == len(recipe.stages) - 1, 1 not in stage.draw.steps or stage.draw.visited_share == 0
    if last and samplers.ONE_STEP in (recipe.sampler.model_extra or {}) and unseen:
        raise ValueError("sampler.one_step must be trained at: set draw.visited_share=1, and draw.steps with 1 in it")
    Segments(recipe.stages[index].segments, stage.draw.points)


def check(model: type[BaseModel], values: Mapping[str, Any], where: str = "") -> Any:
    """`model(**values)`, its first error as a one-line ValueError that names the key and the remedy."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(_one_line(model, error.errors()[0], where)) from None


def _validated(values: Mapping[str, Any]) -> Recipe:
    return check(Recipe, values)


def _one_line(model: type[BaseModel], error: Any, where: str) -> str:
    path = [str(part) for part in error["loc"]]
    key = ".".join([*filter(None, [where]), *path])
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        near = get_close_matches(path[-1], known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        return f"unknown recipe key {key!r}: {remedy}"
    if error["type"] == "missing":
        return f"the recipe lacks {key!r}"
    message = error["msg"].removeprefix("Value error, ")
    return f"recipe key {key!r}: {message[0].lower()}{message[1:]}, not {error['input']!r}"


def _fields_at(model: Any, path: Sequence[str]) -> list[str]:
    for part in path:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        model = next((a for a in getattr(annotation, "__args__", ()) if isinstance(a, type)), annotation)
    return list(model.model_fields)
