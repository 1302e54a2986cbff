"""What stops a run that has broken: where, by which term, and what helps."""

from __future__ import annotations

from hypersd.distill import checkpoint
from hypersd.distill.parts import Run, StageParts
from hypersd.recipe import Stage


def check(run: Run, stage: StageParts, iteration: int, wrong: str, rate: str = "optimiser.lr") -> None:
    """Raises FloatingPointError if something is wrong; the checkpoint stays at a state from before."""
    if wrong:
        lower = f"a lower {rate}{_overridden(run.recipe.stages[stage.index], stage.index, rate)}"
        raise FloatingPointError(f"{wrong} in stage {stage.index + 1} at iteration {iteration}; {_from(run)} {lower}")


def _from(run: Run) -> str:
    """Where the run can begin."""
    saved = checkpoint.read(run.out, whole=False)
    if saved is None:
        return "begin anew with"
    stage, iteration = saved.progress.stage + 1, saved.progress.iteration
    return f"--resume goes on from iteration {iteration} of stage {stage} with"


def _overridden(stage: Stage, index: int, key: str) -> str:
    """Where the stage has a value of its own for what is to be changed."""
    own = any(f"{key}.".startswith(f"{name}.") for name in stage.override)
    return f" (stages.{index}.override has its own)" if own else ""
