"""What the paper says of the methods' order, held against runs of ours; and ours against the strongest rival.

A claim holds where it does in the mean over seeds and the seeds do not overlap, is open where they do, and fails where
the mean is the other way round. Each method draws with its own sampler; those of the paper are asked with DDIM too, and
a rival is as strong as its best sampler makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hypersd.evaluate.report import Row, Stat, grid

Methods = Mapping[tuple[str, int], Row]
"""(method, steps) -> what it gets, all seeds together.

With its own sampler it has its name alone; with another the method is called NAME (SAMPLER), and where one step begins
lower than it was trained to, NAME from T.
"""
DDIM = " (ddim)"
LOWER = ("fd_teacher", "fd_real", "path")
"""Measures of which less is better; of the others more is."""
RIVALS = ("lcm", "tcd", "pcm", "lightning", "dmd2")
OURS = ("hyper", "hyper-feedback", "emoji", "drawings", "drawings-likeness", "drawings-sharp")
FED = ("tscd", "hyper")
"""Methods that were run with human feedback too."""
STEPS = (1, 2, 4, 8)
MEASURES = ("alignment", "recall_at_1", "quality", "fd_teacher", "fd_real", "path")
"""By which ours are held against the strongest rival, each by itself."""


@dataclass(frozen=True)
class Claim:
    """`better` is above `worse` by a measure at a number of steps; with `slack`, at most that much below."""

    words: str
    better: str
    worse: str
    steps: int
    measure: str
    slack: float = 0.0

    @property
    def sign(self) -> int:
        return -1 if self.measure in LOWER else 1


PAPER = (
    *(
        Claim("TSCD is above TCD", "tscd", "tcd", n, measure)
        for n in (2, 4)
        for measure in ("alignment", "quality", "fd_teacher")
    ),
    *(
        Claim("score distillation from TSCD is above that from TCD", "tscd-score", "tcd-score", 1, measure)
        for measure in ("alignment", "quality", "fd_teacher")
    ),
    *(Claim("feedback raises quality", f"{name}-feedback", name, n, "quality") for name in FED for n in STEPS),
    *(
        Claim("feedback keeps alignment (within .005)", f"{name}-feedback", name, n, "alignment", 0.005)
        for name in FED
        for n in STEPS
    ),
)


def against_rivals(methods: Methods) -> list[Claim]:
    """Each of ours over whichever rival is the best at that number of steps."""
    found = []
    for ours in OURS:
        for n in STEPS:
            for measure in MEASURES:
                claim = Claim("ahead of the strongest rival", ours, "", n, measure)
                rivals = [name for name in rivals_of(methods) if _has(methods, name, n, measure)]
                if rivals and _has(methods, ours, n, measure):
                    best = max(rivals, key=lambda name: claim.sign * methods[name, n].mean(measure))
                    found.append(Claim(claim.words, ours, best, n, measure))
    return found


def rivals_of(methods: Methods) -> list[str]:
    """Those that were run, in every way of drawing."""
    return list(dict.fromkeys(name for name, _ in methods if name.partition(" ")[0] in RIVALS))


def verdict(claim: Claim, better: Stat, worse: Stat) -> str:
    """`holds`, `fails`, or `open` where seeds overlap; `(one seed)` where there is nothing to overlap."""
    mine, theirs = ([claim.sign * value for value in stat.values] for stat in (better, worse))
    if claim.sign * (better.mean - worse.mean) <= -claim.slack:
        return "fails"
    if min(len(mine), len(theirs)) < 2:
        return "holds (one seed)"
    return "holds" if min(mine) > max(theirs) - claim.slack else "open"


def table(methods: Methods) -> str:
    """Those of the paper's claims of which both methods were run."""
    cells = []
    with_ddim = (replace(claim, better=claim.better + DDIM, worse=claim.worse + DDIM) for claim in PAPER)
    for claim in (*PAPER, *with_ddim):
        if all(_has(methods, name, claim.steps, claim.measure) for name in (claim.better, claim.worse)):
            better, worse = _both(claim, methods)
            numbers = [f"{claim.better} {_number(better)}", f"{claim.worse} {_number(worse)}"]
            cells.append([claim.words, str(claim.steps), claim.measure, *numbers, verdict(claim, better, worse)])
    return grid(["claim", "steps", "measure", "", "", ""], cells) if cells else ""


def rivals_table(methods: Methods) -> str:
    """A line for each of ours at each number of steps: by each measure, which rival is the strongest, and who leads."""
    lines: dict[tuple[str, int], dict[str, str]] = {}
    for claim in against_rivals(methods):
        better, worse = _both(claim, methods)
        said = f"{_number(better)}; {claim.worse} {_number(worse)}: {verdict(claim, better, worse)}"
        lines.setdefault((claim.better, claim.steps), {})[claim.measure] = said
    cells = [[name, str(n), *(said.get(measure, "–") for measure in MEASURES)] for (name, n), said in lines.items()]
    return grid(["", "steps", *MEASURES], cells) if cells else ""


def _both(claim: Claim, methods: Methods) -> tuple[Stat, Stat]:
    better, worse = (methods[name, claim.steps].values[claim.measure] for name in (claim.better, claim.worse))
    return better, worse


def _has(methods: Methods, name: str, steps: int, measure: str) -> bool:
    return (name, steps) in methods and measure in methods[name, steps].values


def _number(stat: Stat) -> str:
    spread = f" ± {stat.spread:.2g}" if stat.spread is not None else ""
    return f"{stat.mean:.3g}{spread}"


def by_name(runs: Sequence[dict], rows: Mapping[tuple[str, int, str, float], Row]) -> Methods:
    """A method's rows, those of the sampler that its recipe names under its name alone."""
    samplers = {run["recipe"]["name"]: run["recipe"]["sampler"]["name"] for run in runs}
    return {(_called(name, sampler, samplers[name]), n): row for (name, n, sampler, _), row in rows.items()}


def _called(name: str, sampler: str, own: str) -> str:
    return name + sampler.removeprefix(own) if sampler.startswith(own) else f"{name} ({sampler})"
