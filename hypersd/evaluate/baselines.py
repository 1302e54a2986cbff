"""The undistilled base at its best: the rival that a distilled one has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypersd.evaluate.protocol import Plan

Measure = Callable[[Plan], float]
"""A plan -> how far a small set of its pictures is from the teacher's."""


def choose(plans: Sequence[Plan], measure: Measure) -> tuple[Plan, dict[str, float]]:
    """The plan closest to the teacher (the first of equals), and how far each one is."""
    far = [measure(plan) for plan in plans]
    best = min(range(len(plans)), key=far.__getitem__)
    return plans[best], {plan.label: value for plan, value in zip(plans, far, strict=True)}
