"""From a recipe's words to the parts they name."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypersd import bases, bundled
from hypersd.bases import Base
from hypersd.diffusion import samplers
from hypersd.diffusion.segments import Segments
from hypersd.distill import data as sources
from hypersd.distill import losses as terms
from hypersd.distill import paths
from hypersd.distill.data import Data
from hypersd.distill.guard import Watched
from hypersd.distill.losses import Adversary, Loss
from hypersd.distill.step import AVERAGE, PATHS, PREVIOUS, ROUTES, STUDENT, TARGET, off_grid
from hypersd.lora import algebra, files
from hypersd.lora.roles import Roles
from hypersd.recipe import Recipe
from hypersd.recipe import check as check_settings

ENDS = {"adversarial", "likeness", "regression", "rollout"}
"""Losses that ask where the teacher's path ends."""
LEADING = {"likeness", "regression", "rollout", "score"}
"""Losses that say where a jump leads whatever the student makes of other timesteps."""
TOTAL, ANYWHERE = 1000, 0
"""Timesteps, and one that is on no path's grid."""
LOCAL_PATHS = {"data": ("path", "prompts"), "lora": ("start", "beneath")}


def base(recipe: Recipe, device: torch.device) -> Base:
    try:
        found = bases.load(recipe.base, device, **recipe.base_settings)
    except TypeError as error:
        if not recipe.base_settings:
            raise
        raise ValueError(f"base_settings={recipe.base_settings} do not suit {recipe.base}: {error}") from error
    if found.distilled:
        raise ValueError(f"{recipe.base} is distilled already, and no teacher: set base to the one it was made from")
    half = recipe.precision == "bf16" or (recipe.precision == "auto" and bases.fast_bfloat16(device))
    found.autocast = torch.bfloat16 if half else None
    return found


def lora_targets(recipe: Recipe, found: Base) -> tuple[str, ...]:
    return recipe.lora.targets or tuple(found.lora_targets)


def lora_file(path: Path, found: Base) -> files.LoraFile:
    """A LoRA of this base, by its path or as `bundled`. Raises ValueError for another's."""
    file = files.read(bundled.lora(path))
    files.check_fits(file, found.unet, path.name, found.schedule.prediction)
    return file


def beneath(path: Path, recipe: Recipe, found: Base) -> files.LoraFile:
    """The LoRA that the student stands on. Raises ValueError where it draws otherwise than the recipe would train."""
    file, used = lora_file(path, found), recipe.sampler.model_dump()
    for key, usual in (("one_step", None), ("step_code", 0)):
        theirs, mine = file.sampler.get(key, usual), used.get(key, usual)
        if theirs != mine and (key != "one_step" or 1 in recipe.sampler.steps):
            raise ValueError(
                f"{path.name} is drawn with {key} {theirs}, this recipe with {mine}: set sampler.{key}={theirs}"
            )
    return file


def stands_on(recipe: Recipe, found: Base) -> dict[str, str]:
    """Digests of what a run does not train and is trained by, by the recipe's key: weights, pictures, prompts."""
    read = {"data.path": recipe.data.get("path"), "data.prompts": recipe.data.get("prompts")}
    if recipe.lora.beneath:
        read["lora.beneath"] = bundled.lora(recipe.lora.beneath)
    return {"base": files.digest(found.unet), **{key: _digest(Path(file)) for key, file in read.items() if file}}


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def start(recipe: Recipe, found: Base, roles: Roles) -> dict[str, Tensor] | None:
    """What the student begins as, if not as the base: `lora.start`, or the base with that LoRA in its weights."""
    if recipe.student == "full" and recipe.lora.start:
        return algebra.merged(roles.state(STUDENT), lora_file(recipe.lora.start, found).weights)
    return lora_start(recipe, found, roles.parameters(STUDENT))


def lora_start(recipe: Recipe, found: Base, names: Collection[str]) -> dict[str, Tensor] | None:
    """The weights of `lora.start` for a student whose parameters have these names. Raises ValueError."""
    settings = recipe.lora
    if settings.start is None:
        return None
    file = lora_file(settings.start, found)
    if file.rank != settings.rank:
        raise ValueError(f"{settings.start} has rank {file.rank}, not {settings.rank}: set lora.rank={file.rank}")
    if different := sorted(set(names) ^ file.weights.keys()):
        layer, side = different[0].partition(".lora_")[0], "it lacks" if different[0] in names else "the recipe lacks"
        raise ValueError(f"{settings.start} was trained on other layers, {side} {layer}: set lora.targets to its own")
    return files.with_alpha(file, settings.alpha)


def data(recipe: Recipe, found: Base, cache: Path, say: sources.Say = sources.silent) -> Data:
    if recipe.data.get("kind") != "paths":
        return sources.load(found, recipe.data, cache, say)
    rest = {key: value for key, value in recipe.data.items() if key != "kind"}
    settings = check_settings(paths.Settings, rest, "data")
    return paths.load(found, settings, recipe.teacher, recipe.draw.points, cache, say)


def losses(recipe: Recipe) -> dict[str, Loss]:
    return {name: terms.load(name, settings) for name, settings in recipe.losses.items()}


def watched(stage: Recipe) -> Watched | None:
    """Who is pleased and who looks on in a stage, if anyone."""
    return next((loss.watched for loss in losses(stage).values() if hasattr(loss, "watched")), None)


def watched_alike(recipe: Recipe, index: int) -> list[int]:
    """The stages before this one whose students' scores compare with its own: back to the last that others watched,
    or that drew otherwise.
    """
    mine, found = _scored(recipe.at(index)), list[int]()
    for earlier in reversed(range(index if mine else 0)):
        theirs = _scored(recipe.at(earlier))
        if theirs and theirs != mine:
            break
        found += [earlier] if theirs else []
    return found[::-1]


def _scored(stage: Recipe) -> tuple[Any, ...] | None:
    """Who judges which drawings, where somebody looks on."""
    who, draw = watched(stage), stage.draw
    if who is None or not who.held_out:
        return None
    return who.judges, who.held_out, who.window, draw.samplers, draw.steps, draw.eta


def roles(recipe: Recipe) -> dict[str, int | None]:
    """The roles that a run trains or keeps, with the rank of each, None for a full one; the student first."""
    stages = [recipe.at(index) for index in range(len(recipe.stages))]
    rank = None if recipe.student == "full" else recipe.lora.rank
    found = {STUDENT: rank}
    if any(stage.ema is not None for stage in stages):
        found[TARGET] = rank
    if any(stage.teacher.follow == "previous" for stage in stages):
        found[PREVIOUS] = rank
    if any(stage.average is not None for stage in stages):
        found[AVERAGE] = rank
    for stage in stages:
        for loss in losses(stage).values():
            for role, asked in loss.roles.items() if isinstance(loss, Adversary) else ():
                own = asked or recipe.lora.rank
                if found.setdefault(role, own) != own:
                    raise ValueError(
                        f"the role {role!r} has rank {found[role]} in one stage and {own} in another: set one"
                    )
    return found


def filled(recipe: Recipe, targets: Collection[str]) -> dict[str, Any]:
    """The recipe's values, with what it left to the base."""
    values = recipe.model_dump(mode="json")
    values["lora"]["targets"] = list(targets)
    return values


def published(recipe: Recipe, targets: Collection[str]) -> dict[str, Any]:
    """The same for a file that others will read: of local paths their last part only."""
    values = filled(recipe, targets)
    values["base"] = Path(recipe.base).resolve().name
    for group, keys in LOCAL_PATHS.items():
        values[group] |= {key: Path(values[group][key]).name for key in keys if values[group].get(key)}
    return {**values, **{key: _judged(values[key]) for key in ("losses", "stages")}}


def in_full(recipe: Recipe, without: Collection[str] = ()) -> dict[str, list[Any]]:
    """What each stage trains by, however it is said: overrides applied, and losses with what was left to them."""
    stages = [recipe.at(index) for index in range(len(recipe.stages))]
    values = [stage.model_dump(mode="json", exclude={*without, "stages", "losses"}) for stage in stages]
    for stage, found in zip(stages, values, strict=True):
        given = stage.losses.items()
        found["losses"] = {name: terms.settings_of(name, own).model_dump(mode="json") for name, own in given}
    lengths = [[stage.segments, stage.iterations] for stage in recipe.stages]
    return {"stages": lengths, **{key: [found[key] for found in values] for key in values[0]}}


def opponent(stage: Recipe, name: str) -> dict[str, Any]:
    """Which loss an opponent is of, with all of its settings, as `published`."""
    return {"loss": name, **_judged(terms.settings_of(name, stage.losses[name]).model_dump(mode="json"))}


def _judged(values: Any) -> Any:
    """The same for the folders of judges, wherever in losses and overrides they are named."""
    if isinstance(values, list):
        return [_judged(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {key: Path(v).name if key == "weights" and isinstance(v, str) else _judged(v) for key, v in values.items()}


def check(recipe: Recipe) -> None:
    """Raises ValueError for a stage, or for parts of one, that do not exist: before anything is written."""
    for index in range(len(recipe.stages)):
        stage = recipe.at(index)
        for name, loss in losses(stage).items():
            terms.check_needs(name, loss, stage, index)
        _check_paths(recipe, stage, index)
        _check_target(stage, recipe.stages[index].segments, index)
    roles(recipe)
    _check_idle(recipe)
    _check_ends(recipe)
    _check_watch(recipe)


def _check_idle(recipe: Recipe) -> None:
    """Warns of settings of `draw` that change nothing in any stage."""
    stages = [recipe.at(index) for index in range(len(recipe.stages))]
    noised, together = ([stage for stage in stages if getattr(stage.draw, key)] for key in ("eta", "together"))
    if noised and not any(ROUTES in getattr(loss, "needs", ()) for stage in noised for loss in losses(stage).values()):
        warnings.warn("draw.eta changes nothing: no loss draws whole pictures, set draw.eta=0", stacklevel=3)
    if together and not any(stage.draw.visited_share for stage in together):
        words = "no sample has a sampler's timestep, set draw.visited_share"
        warnings.warn(f"draw.together changes nothing: {words}", stacklevel=3)


def _check_ends(recipe: Recipe) -> None:
    """Warns where `one_step_guidance` is given and no stage has a loss that asks where a single step ends."""
    stages = [recipe.at(index) for index in range(len(recipe.stages))]
    drawn = [stage for stage in stages if 1 in stage.draw.steps and stage.draw.visited_share > 0]
    if "one_step_guidance" in recipe.data and not any(ENDS & stage.losses.keys() for stage in drawn):
        warnings.warn(
            "data.one_step_guidance changes nothing: no stage draws in one step with a loss that asks where that ends: "
            f"set draw.visited_share=1, draw.steps with 1 in it, and one of losses {', '.join(sorted(ENDS))}",
            stacklevel=3,
        )


def _check_paths(recipe: Recipe, stage: Recipe, index: int) -> None:
    """Raises ValueError for a stage that would follow another teacher than the one whose paths are kept."""
    if recipe.data.get("kind") != PATHS:
        return
    if stage.teacher != recipe.teacher or stage.teacher.follow == "previous":
        raise ValueError(
            f"paths are walked once, by the base, for all stages: stage {index + 1} cannot have a teacher of its own, "
            "nor follow the previous student: set data.kind=prompts, or leave teacher as it is"
        )
    if recipe.draw.points % stage.draw.points:
        raise ValueError(
            f"the paths have {recipe.draw.points} points, and not the {stage.draw.points} of stage {index + 1}: "
            f"set draw.points of that stage to one that divides {recipe.draw.points}"
        )
    for t in _stops(stage):
        if wrong := off_grid(recipe.draw.points, t, TOTAL):
            raise ValueError(f"in stage {index + 1} {wrong}")


def _stops(stage: Recipe) -> set[int]:
    """Timesteps at which samples are, or losses ask where the path is; of ends that lie anywhere, one such."""
    draw, found = stage.draw, {t for route in visited(stage) for t in route[1:]}  # the first is noise, wherever it is
    anywhere = draw.end in ("uniform", "mixture") or (draw.end == "visited" and draw.visited_share < 1)
    return found | {ANYWHERE} if anywhere and "regression" in stage.losses else found


def _check_watch(recipe: Recipe) -> None:
    """Warns where a student is to please judges, and nobody would notice that it learns to please them only."""
    who = {index: found for index in range(len(recipe.stages)) if (found := watched(recipe.at(index)))}
    if alone := [index for index, found in who.items() if not found.held_out]:
        judges = " and ".join(who[alone[0]].judges)
        words = f"no judge looks on while stage {alone[0] + 1} pleases {judges}"
        warnings.warn(f"{words}: name one that is not pleased under watch", stacklevel=3)
    alike = {index: watched_alike(recipe, index) for index in who.keys() - alone}
    for index in alike.keys() - {each for earlier in alike.values() for each in earlier}:  # the last of those alike
        iterations, window = sum(recipe.stages[i].iterations for i in (*alike[index], index)), who[index].window
        if iterations < 2 * window:
            words = f"judges look on in windows of {window} iterations, and by the end of stage {index + 1}"
            warnings.warn(f"{words} there were {iterations}: set window lower", stacklevel=3)


def _check_target(stage: Recipe, segments: int, index: int) -> None:
    """Warns where nothing but consistency says where jumps lead, towards the student's own jump from an s that is no t
    of any sample; with step codes, of any that draws in as many steps.

    Raises ValueError for a sampler that is not there.
    """
    routes, draw = visited(stage), stage.draw
    if "consistency" not in stage.losses or LEADING & stage.losses.keys() or draw.visited_share < 1:
        return
    cut, coded = Segments(segments, draw.points), stage.sampler.step_code > 0
    for route in routes:
        trained = {t for other in routes for t in other if not coded or len(other) == len(route)}
        for t, after in zip(route, [*route[1:], -1], strict=True):
            s, start = (int(found(torch.tensor([t]))) for found in (cut.previous, cut.start))
            arrives = max(start, min(after, s)) if draw.end == "visited" else start
            if s != arrives and s not in trained:
                remedy = "set draw.visited_share below 1, or draw.points to the most of draw.steps"
                if coded:
                    remedy = "with a step code learn from paths instead, by losses.rollout or losses.regression"
                warnings.warn(
                    f"in stage {index + 1} the target of t = {t} is the student's own jump from {s}, where no sample "
                    f"{'of as many steps ' * coded}is: {remedy}",
                    stacklevel=3,
                )
                return


def visited(recipe: Recipe) -> list[list[int]]:
    """The timesteps that each sampler of the recipe visits, for each of its step counts."""
    draw, used = recipe.draw, recipe.sampler
    if draw.visited_share == 0:
        return []
    chosen = [samplers.load(name, **samplers.meant(used.model_dump(), name)) for name in draw.samplers]
    return [sampler.grid(steps) for sampler in chosen for steps in draw.steps]
