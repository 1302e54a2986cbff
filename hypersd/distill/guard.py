"""Where going on would only spoil the student: a loss that is no number, one that explodes, a judge that is fooled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

EXPLODED = 1e4
"""Times what a stage began with."""
SETTLE = 20  # iterations: what a stage began with is their mean
LITTLE = 0.01
"""Of what all losses together began with: a term that began smaller may grow as if it had begun there."""
SMALL = 1e-3
"""Below, a loss may as well be one whose weight grows from nothing."""
LEAST = 2.0  # standard errors
PARTED = 1.1
"""Times that of samples that are trained on, from which on the miss of held-out ones says that the others are learnt by
heart.
"""
TINY = 1e-12
"""The spread of what is always the same."""
LATEST, FEWEST = 8, 3
"""How many tests of held-out samples count, and how many it needs."""

Window = Sequence[Mapping[str, float]]
"""The scores of as many iterations as are compared as one."""


def infinite(what: str, value: float) -> str:
    """What is wrong with a value that must be a number; empty if nothing is."""
    return "" if math.isfinite(value) else f"{what} became {value}"


@dataclass(frozen=True)
class Watched:
    """A loss that pleases judges, and those that only look on."""

    judges: tuple[str, ...]
    held_out: tuple[str, ...]
    window: int
    """Iterations that are compared as one."""
    stop: bool


@dataclass
class Guard:
    """What a stage has seen of itself so far, and of the scores before it that compare with its own."""

    watched: Watched | None = None
    losses: list[float] = field(default_factory=list)
    scores: list[Mapping[str, float]] = field(default_factory=list)
    began: dict[str, list[float]] = field(default_factory=dict)
    """What each term of the losses began with, opponents' too."""
    sizes: dict[str, float] = field(default_factory=dict)
    """The norms of what is trained, as the stage began or was resumed."""
    tests: list[tuple[float, float]] = field(default_factory=list)
    """How far held-out samples were missed, and others."""
    told: str = ""
    """What the last whole window said of a judge that is fooled."""

    def replay(
        self, lines: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, float]] = (), only: str = ""
    ) -> None:
        """Takes up what a resumed stage had logged, and the scores of stages `before` it that were watched alike.

        `only` is the loss of a stage that has no other, whose lines name none.
        """
        self.losses = [line["loss"] for line in lines]
        self.scores = [*before, *(line["scores"] for line in lines if "scores" in line)]
        self.told = self.fooled()
        for line in lines:
            if "held" in line:
                self.tested(line)
        for line in lines[:SETTLE]:
            for name, value in line.get("terms", {only: line["loss"]}).items():
                self.began.setdefault(name, []).append(value)

    def wrong(self, terms: Mapping[str, float]) -> str:
        """What is wrong with an iteration's terms, in words; else nothing."""
        if broken := [name for name, value in terms.items() if not math.isfinite(value)]:
            return f"the loss {broken[0]!r} became {terms[broken[0]]}"
        whole = fmean(map(abs, self.losses[:SETTLE] or [0.0]))
        grown = [self.grown(name, value, whole) for name, value in terms.items()]
        return next(filter(None, grown), "")

    def grown(self, name: str, value: float, whole: float = 0.0) -> str:
        """What is wrong with the size of a loss, an opponent's too: each is measured by what it began with itself, or
        a little of the `whole` that it is a term of.
        """
        began = self.began.setdefault(name, [])
        if len(began) < SETTLE:
            began.append(value)
            return ""
        own = fmean(map(abs, began))
        usual = max(own, LITTLE * whole, SMALL) if own else max(whole, 1.0)  # 0 is a hinge that asks nothing yet
        if abs(value) <= EXPLODED * usual:
            return ""
        return f"the loss {name!r} grew to {value:.3g}, from {fmean(began):.3g} as the stage began"

    def blown_up(self, name: str, size: float) -> str:
        """What is wrong with the norm of trained weights: one batch's losses may not show it."""
        began = self.sizes.setdefault(name, size)
        if math.isfinite(size) and not size > EXPLODED * began > 0:
            return ""
        return f"the weights of {name!r} grew to {size:.3g}, from {began:.3g} as the stage began"

    def saw(self, loss: float, scores: Mapping[str, float]) -> None:
        self.losses.append(loss)
        if scores:
            self.scores.append(scores)
        if self.turned:
            self.told = self.fooled()

    def tested(self, found: Mapping[str, Any]) -> None:
        self.tests.append((sum(found["held"].values()), sum(found["trained"].values())))

    def by_heart(self) -> str:
        """In words, how much farther held-out samples are missed; nothing where that is little or chance."""
        latest = self.tests[-LATEST:]
        if len(latest) < FEWEST:
            return ""
        held, trained = (fmean(values) for values in zip(*latest, strict=True))
        error = stdev(a - b for a, b in latest) / math.sqrt(len(latest))
        if held <= PARTED * trained or held - trained <= LEAST * error:
            return ""
        return f"samples that were held out are missed by {held:.4g}, others by {trained:.4g}: they are learnt by heart"

    @property
    def windows(self) -> list[Window]:
        """The scores in whole windows."""
        size = self.watched.window if self.watched else 1
        return [self.scores[first : first + size] for first in range(0, len(self.scores) - size + 1, size)]

    @property
    def turned(self) -> bool:
        """Whether the last iteration filled a window."""
        watched = self.watched
        return watched is not None and bool(watched.held_out) and len(self.scores) % watched.window == 0

    def best(self) -> int:
        """The window that the judges who only look on like best, all together."""
        return max(range(len(self.windows)), key=self._held_out)

    def fooled(self) -> str:
        """In words, who fell below the best window of its own while who is pleased rose since then; else nothing."""
        watched, windows = self.watched, self.windows
        if watched is None or len(windows) < 2:
            return ""
        chance = LEAST + math.sqrt(math.log(len(windows) - 1))  # the best of many windows is above by chance
        last = windows[-1]
        for name in watched.held_out:
            best = max(windows, key=lambda window: _mean(window, name))
            rose = [judge for judge in watched.judges if _difference(best, last, judge) > LEAST]
            if rose and _difference(best, last, name) < -chance:
                fell = f"{name} fell from {_mean(best, name):.4g} to {_mean(last, name):.4g}"
                return f"{fell} while {rose[0]} rose: the student pleases its judge only"
        return ""

    def _held_out(self, index: int) -> float:
        """In units of the first window's spread, so that judges of any scale count alike."""
        assert self.watched
        first, window = self.windows[0], self.windows[index]
        names = self.watched.held_out
        return fmean((_mean(window, name) - _mean(first, name)) / _spread(first, name) for name in names)


def _mean(window: Window, name: str) -> float:
    return fmean(scores[name] for scores in window)


def _spread(window: Window, name: str) -> float:
    return stdev(scores[name] for scores in window) or TINY


def _difference(a: Window, b: Window, name: str) -> float:
    """b's mean above a's, in standard errors of that difference."""
    errors = [_spread(window, name) / math.sqrt(len(window)) for window in (a, b)]
    return (_mean(b, name) - _mean(a, name)) / math.hypot(*errors)
