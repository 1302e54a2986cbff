"""What stops a run that has broken: where, by which term, and what helps."""

from __future__ import annotations

from hypersd.distill import checkpoint
from hypersd.distill.parts import Run, StageParts


def check(run: Run, stage: StageParts, iteration: int, wrong: str, rate: str = "optimiser.lr") -> None:
    """Raises FloatingPointError if something is wrong; the checkpoint stays at a state from before."""
    if wrong:
        lower = f"a lower {rate}{_overridden(run, stage, rate)}"
        raise FloatingPointError(f"{wrong} in stage {stage.index + 1} at iteration {iteration}; {_from(run)} {lower}")


def _from(run: Run) -> str:
    """Where the run can begin."""
    saved = checkpoint.read(run.out, whole=False)
    if saved is None:
        return "begin anew with"
    stage, iteration = saved.progress.stage + 1, saved.progress.iteration
    return f"--resume goes on from iteration {iteration} of stage {stage} with"


def _overridden(run: Run, stage: StageParts, key: str) -> str:
    """Where the stage has a value of its own for what is to be changed."""
    group = "losses" if "losses" in key else "optimiser"
    own = any(name.partition(".")[0] == group for name in run.recipe.stages[stage.index].override)
    return f" (stages.{stage.index}.override has its own)" if own else ""
