"""The loop: stages of k = 8, 4, 2, 1 segments, each resuming the last (Hyper-SD Algorithm 1).

A run is a folder: `checkpoint.safetensors` (whole at any moment), `recipe.json`, `log.jsonl`, one LoRA (or whole
network) a stage, `lora.safetensors` (`unet.safetensors`) at the end, and strips of samples on the way.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hypersd import atomic, sharing
from hypersd.diffusion.segments import Segments
from hypersd.distill import checkpoint, log, resolve, results, trained
from hypersd.distill.checkpoint import Checkpoint, Progress
from hypersd.distill.guard import Guard, infinite
from hypersd.distill.learn import batches, blamed, learn
from hypersd.distill.losses import Adversary, Miss
from hypersd.distill.parts import Run, StageParts
from hypersd.distill.remedy import check
from hypersd.distill.samples import draw_strip
from hypersd.distill.step import AVERAGE, BENEATH, PREVIOUS, STUDENT, TARGET, Batch, Nets
from hypersd.distill.trained import Trained
from hypersd.distill.watch import Silent, Watcher
from hypersd.lora.roles import Roles
from hypersd.recipe import Recipe, Stage

PATIENCE = timedelta(days=7)
"""Of the processes that wait for the first one's pool."""


def train(recipe: Recipe, out: Path, resume: bool = False, watch: Watcher | None = None) -> Path:
    """Runs the recipe into the folder `out`; returns the file of the LoRA, or network.

    Raises ValueError if `out` holds a run and `resume` is off, a run of another recipe or trained by other files, or
    one that goes on in another process; OSError where nothing can be written.
    """
    resolve.check(recipe)
    with _alone(out):
        return _train(recipe, out, resume, watch or Silent())


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Makes the folder, into which no other run writes meanwhile; takes it away again if it stays empty.

    Raises OSError where nothing can be, and ValueError where another run is at it.
    """
    first = os.environ.get("RANK", "0") == "0"  # of the processes that share this run
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"could not write into {out}: {error.strerror}; name another folder with --out") from error
    try:
        with sharing.claimed(out / "run", wait=False) if first else nullcontext(True) as mine:
            if not mine:
                raise ValueError(f"another run is training into {out}: wait for it, or name another folder with --out")
            yield
    finally:
        with suppress(OSError):
            if made:
                out.rmdir()


def _train(recipe: Recipe, out: Path, resume: bool, watch: Watcher) -> Path:
    saved = checkpoint.of(recipe, out, resume)
    run = _open(recipe, out, watch, saved)
    progress = saved.progress if saved else Progress()
    if saved:
        for role in run.kept:
            run.roles.load(role, saved.role(role))
    if run.accelerator.is_main_process:
        if resume and not saved:
            warnings.warn(f"there is nothing to resume in {out}: the run begins anew", stacklevel=2)
        _tidy(run, progress)
    run.accelerator.wait_for_everyone()  # what others read of the log is trimmed
    try:
        for index in range(progress.stage, len(recipe.stages)):
            first = progress.iteration if index == progress.stage else 0
            stage = _begin(run, index, fresh=first == 0)
            if saved and first:
                for name, network in stage.networks.items():
                    network.load_state_dict(saved.network(name))
                for name, optimiser in stage.optimisers.items():
                    saved.restore(name, optimiser)
            _remember(run, stage)
            _run_stage(run, stage, first)
        run.unproven.keep()  # no update follows
    finally:
        run.unproven.drop()
    return _write(run, out / results.NAMES[recipe.student], whole=True)


def _open(recipe: Recipe, out: Path, watch: Watcher, saved: Checkpoint | None) -> Run:
    accelerator = _accelerator()
    if recipe.batch % accelerator.num_processes:
        raise ValueError(
            f"a batch of {recipe.batch} does not divide over {accelerator.num_processes} processes; set batch="
        )
    base = resolve.base(recipe, accelerator.device)
    stands_on = resolve.stands_on(recipe, base)
    if saved:
        saved.check_stands_on(stands_on)
    roles, kept = Roles(base.unet), resolve.roles(recipe)
    for role, rank in kept.items():
        if rank is None:
            roles.add_full(role)
        else:
            alpha = recipe.lora.alpha if rank == recipe.lora.rank else None
            roles.add(role, rank, resolve.lora_targets(recipe, base), alpha, seed=recipe.seed)
    if recipe.lora.beneath:
        below = resolve.beneath(recipe.lora.beneath, recipe, base)
        roles.add(BENEATH, below.rank, below.targets)
        roles.load(BENEATH, below.weights)
        roles.freeze(BENEATH)
    if start := resolve.start(recipe, base, roles):
        roles.load(STUDENT, start)
    if recipe.gradient_checkpointing:
        unet: Any = base.unet.train()  # diffusers checkpoints in training mode only; SD has no dropout
        if not hasattr(unet, "enable_gradient_checkpointing"):
            raise ValueError(f"the base {recipe.base} has no gradient checkpointing: set gradient_checkpointing=false")
        unet.enable_gradient_checkpointing(roles.checkpoint)
        if vae := getattr(base, "vae", None):  # judges look at pictures: at full size its activations are the most
            vae.enable_gradient_checkpointing()
    watch = watch if accelerator.is_main_process else Silent()
    with accelerator.main_process_first():  # a pool of latents is drawn once; the others find it
        data = resolve.data(recipe, base, out, watch.note)
    return Run(recipe, out, base, roles, data, watch, accelerator, kept, stands_on)


def _accelerator() -> Any:
    """One for all processes. Left to itself, accelerate takes processes without a GPU for runs of their own, and gives
    up on one that draws a pool for longer than half an hour.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    launched = int(os.environ.get("WORLD_SIZE", "1"))
    patient = InitProcessGroupKwargs(timeout=PATIENCE)
    return Accelerator(cpu=launched > 1 and not torch.cuda.is_available(), kwargs_handlers=[patient])


def _tidy(run: Run, progress: Progress) -> None:
    """The folder as the run goes on from it: without what a killed one left."""
    atomic.sweep(run.out)
    log.trim(run.out, progress)
    values = resolve.filled(run.recipe, resolve.lora_targets(run.recipe, run.base))
    atomic.write_json(run.out / checkpoint.RECIPE, values, sort=False)  # losses draw in their order


def _begin(run: Run, index: int, fresh: bool) -> StageParts:
    """A stage's parts. At its first iteration the target, the previous student and the average copy the student."""
    recipe, stage = run.recipe.at(index), run.recipe.stages[index]
    if fresh:
        for role in (TARGET, PREVIOUS, AVERAGE):
            if role in run.kept:
                run.roles.follow(role, STUDENT, 0.0)
    begun = index > 0 or run.recipe.lora.start or run.recipe.lora.beneath  # there is a student to follow
    follows = recipe.teacher.follow == "previous" and begun
    nets = Nets(
        run.base,
        run.roles,
        target=STUDENT if recipe.ema is None else TARGET,
        previous=PREVIOUS if follows else None,
        substeps=recipe.teacher.substeps,
        beneath=(BENEATH,) if recipe.lora.beneath else (),
    )
    losses = resolve.losses(recipe)
    adversaries = {name: loss for name, loss in losses.items() if isinstance(loss, Adversary)}
    built = {name: loss.build(run.base, recipe.seed) for name, loss in adversaries.items()}
    networks = {name: network for name, network in built.items() if network is not None}
    return StageParts(
        index,
        recipe,
        Segments(stage.segments, recipe.draw.points, run.base.schedule.total),
        resolve.visited(recipe),
        losses,
        nets,
        trained.made(list(run.roles.parameters(STUDENT).values()), recipe.optimiser, stage.iterations),
        {name: _opponent(run, loss, networks.get(name), stage) for name, loss in adversaries.items()},
        networks,
        Guard(resolve.watched(recipe)),
    )


def _opponent(run: Run, loss: Adversary, network: nn.Module | None, stage: Stage) -> Trained:
    parameters = [parameter for role in loss.roles for parameter in run.roles.parameters(role).values()]
    parameters += list(network.parameters()) if network is not None else []
    return trained.made(parameters, loss.optimiser, stage.iterations)


def _remember(run: Run, stage: StageParts) -> None:
    """What the log tells of the stage, if it is resumed, and of those before it that were watched alike."""
    run.accelerator.wait_for_everyone()  # what others read of the log is written
    alike = resolve.watched_alike(run.recipe, stage.index)
    before = [line["scores"] for index in alike for line in log.of_stage(run.out, index)]
    stage.guard.replay(log.of_stage(run.out, stage.index), before, next(iter(stage.losses)))


def _run_stage(run: Run, stage: StageParts, first: int) -> None:
    every, iterations = stage.recipe, stage.student.iterations
    run.watch.stage(stage.index, run.recipe.stages[stage.index], first)
    _weigh(run, stage, first)
    for iteration in range(first, iterations):
        terms = _iterate(run, stage, iteration)
        run.unproven.keep()
        _record(run, stage, iteration, terms)
        _look(run, stage, iteration)
        done = iteration + 1
        if done % every.sample_every == 0 and every.sample_prompts and run.accelerator.is_main_process:
            playing = stage.nets.playing(stage.result)
            run.watch.note(f"samples: {draw_strip(run.base, run.roles, playing, every, run.out, stage.index, done)}")
        if done % every.checkpoint_every == 0 and done < iterations:
            _weigh(run, stage, done)
            _save(run, Progress(stage.index, done), stage)
    _weigh(run, stage, iterations)
    if stage.result != STUDENT:
        run.roles.follow(STUDENT, stage.result, 0.0)
    _write(run, _stage_file(run, stage.index), stage=stage.index)
    if run.accelerator.is_main_process:
        for name, network in stage.networks.items():
            path = run.out / f"stage{stage.index + 1}-{name}.safetensors"
            results.write_opponent(run.recipe, run.base, name, stage.index, network, path)
    _save(run, Progress(stage.index + 1, 0))


def _iterate(run: Run, stage: StageParts, iteration: int) -> dict[str, float]:
    """One update of the student and of its opponents, on the same samples; returns every term of their losses."""
    drawn = batches(run, stage, iteration)
    terms = _study(run, stage, iteration, drawn)
    for name, opponent in stage.opponents.items():
        loss = stage.losses[name]
        assert isinstance(loss, Adversary)
        for _ in range(loss.updates):
            terms |= learn(run, stage, drawn, {f"{name}, opponent": loss.opponent})
            wrong = infinite(f"the gradient of the opponent of {name}", opponent.clip(run.accelerator))
            check(run, stage, iteration, wrong, stage.rate_key(name))
            opponent.step(iteration)
        check(run, stage, iteration, stage.guard.grown(term := f"{name}, opponent", terms[term]), stage.rate_key(name))
    stage.student.step(iteration)
    if stage.nets.target == TARGET:
        run.roles.follow(TARGET, STUDENT, stage.recipe.ema or 0.0)
    if stage.recipe.average is not None:
        run.roles.follow(AVERAGE, STUDENT, min(stage.recipe.average, (1 + iteration) / (10 + iteration)))
    return terms


def _study(run: Run, stage: StageParts, iteration: int, drawn: list[Batch]) -> dict[str, float]:
    """The student's gradients, clipped; returns its losses."""
    terms = learn(run, stage, drawn, {name: loss.student for name, loss in stage.losses.items()})
    check(run, stage, iteration, stage.guard.wrong(terms))
    if wrong := infinite("the gradient", stage.student.clip(run.accelerator)):
        name = blamed(run, stage, iteration)
        check(run, stage, iteration, wrong.replace("gradient", f"gradient of the loss {name!r}") if name else wrong)
    return terms


def _weigh(run: Run, stage: StageParts, iteration: int) -> None:
    """Raises FloatingPointError for weights that are blown up: before they are kept, and whatever the losses say."""
    for name, part in {STUDENT: stage.student, **stage.opponents}.items():
        check(run, stage, iteration, stage.guard.blown_up(name, part.size()), stage.rate_key(name))


def _test(run: Run, stage: StageParts, iteration: int) -> dict[str, dict[str, float]]:
    """By how much samples that are held out are missed, and as many others, all else drawn alike; as often as a
    checkpoint is made, else nothing.
    """
    done = iteration + 1
    terms = {name: loss.student for name, loss in stage.losses.items() if isinstance(loss, Miss)}
    if not terms or run.data.held is None or (done % stage.recipe.checkpoint_every and done < stage.student.iterations):
        return {}
    found: dict[str, dict[str, float]] = {}
    for name, data in (("held", run.data.held), ("trained", run.data)):
        with torch.no_grad():
            found[name] = learn(run, stage, batches(run, stage, iteration, data), terms)
    stage.guard.tested(found)
    if done == stage.student.iterations and (words := stage.guard.by_heart()):
        run.watch.note(f"stage {stage.index + 1}: {words}; more of them would be better (data.pool, or a larger file)")
    return found


def _stage_file(run: Run, index: int) -> Path:
    return run.out / f"stage{index + 1}-{run.recipe.stages[index].segments}segments.safetensors"


def _record(run: Run, stage: StageParts, iteration: int, terms: dict[str, float]) -> None:
    loss, lr = sum(terms[name] for name in stage.losses), stage.student.rate(iteration)
    scores = _scores(run, stage.nets)
    stage.guard.saw(loss, scores)
    run.watch.update(iteration + 1, loss, lr)
    tested = _test(run, stage, iteration)
    if run.accelerator.is_main_process:
        seconds = round(time.monotonic() - run.started, 2)
        line: dict[str, Any] = {
            "stage": stage.index,
            "iteration": iteration,
            "loss": loss,
            "lr": lr,
            "seconds": seconds,
        }
        if len(terms) > 1:
            line["terms"] = terms
        if scores:
            line["scores"] = scores
        if stage.guard.turned:
            line[log.TOLD] = stage.guard.told
        log.append(run.out, {**line, **tested})


def _scores(run: Run, nets: Nets) -> dict[str, float]:
    """What each judge gave the iteration's drawings, the mean of all processes."""
    if not nets.scores:
        return {}
    total = torch.stack([nets.scores[name] for name in sorted(nets.scores)]) / len(run.share)
    found = dict(zip(sorted(nets.scores), run.accelerator.reduce(total, "mean").tolist(), strict=True))
    nets.scores.clear()
    return found


def _look(run: Run, stage: StageParts, iteration: int) -> None:
    """Once a window: keeps the student that held-out judges like best, and says when they are no longer pleased."""
    guard = stage.guard
    if not guard.turned:
        return
    words = guard.told and f"at iteration {iteration} of stage {stage.index + 1} {guard.told}"
    best = run.out / results.BEST_NAME
    if guard.best() == len(guard.windows) - 1:
        _write(run, best, whole=True, proven=False, role=stage.result)
    elif words:
        words += f"; {best} is from before"
    if words and guard.watched and guard.watched.stop:
        raise FloatingPointError(f"stopped: {words}")
    if words:
        run.watch.note(words)


def _save(run: Run, progress: Progress, stage: StageParts | None = None) -> None:
    """In the middle of a stage with its optimisers and networks; between two there are none."""
    if run.accelerator.is_main_process:
        values, place = run.recipe.model_dump(mode="json"), run.unproven.place(run.out / checkpoint.NAME)
        optimisers, networks = (stage.optimisers, stage.networks) if stage else ({}, {})
        checkpoint.write(place, progress, values, run.stands_on, run.roles, list(run.kept), optimisers, networks)


def _write(
    run: Run, path: Path, whole: bool = False, stage: int | None = None, proven: bool = True, role: str = STUDENT
) -> Path:
    if run.accelerator.is_main_process:
        place = path if proven else run.unproven.place(path)
        results.write(run.recipe, run.base, run.roles, place, whole, stage, role, log.told(run.out))
        run.watch.note(f"wrote {path}")
    return path
