"""What this project asks of its base and of its LoRA, as numbers that hold or do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypersd.evaluate.protocol import HARD_STEPS
from hypersd.evaluate.report import Row, Yardstick

ALIGNMENT = {1: 0.97, 2: 0.98, 4: 0.98, 8: 0.98}
RATIO = {1: 1 / 5, 2: 1 / 5, 4: 1 / 3}
REAL = {1: 1.1}
"""FD to real pictures over the teacher's, both above the floor."""
DIVERSITY = 0.9
"""Of the teacher's LPIPS over seeds."""
HARDNESS = 5.0
SHARE_OF_REAL = 0.6


def yardsticks(rows: Sequence[Row], reference: Mapping[str, float]) -> list[Yardstick]:
    """Those that the rows speak of: the base's, then the LoRA's with the reference sampler."""
    teacher = next(row for row in rows if row.role == "teacher")
    found = of_base(rows, teacher, reference)
    for row in rows:
        own = row.steps == 1 and " from " not in row.sampler  # a single step has one row, whatever the sampler
        if row.role == "distilled" and (row.sampler == "ddim" or own):
            found += of_lora(row, teacher)
    return found


def of_base(rows: Sequence[Row], teacher: Row, reference: Mapping[str, float]) -> list[Yardstick]:
    found = []
    for row in rows:
        if row.role == "hardness":
            # a second teacher set lies about 0 above the floor: its whole distance is the honest unit
            unit = teacher.mean("fd_teacher") + reference["floor of fd_teacher"]
            claim = f"the base's FD at {HARD_STEPS} guided steps, over a second 25-step set's"
            found.append(Yardstick(claim, row.mean("fd_teacher") / unit, HARDNESS, True))
    if reference.get("R@1 of real pictures"):
        share = teacher.mean("recall_at_1") / reference["R@1 of real pictures"]
        found.append(Yardstick("the base's R@1, over real pictures'", share, SHARE_OF_REAL, True))
    return found


def of_lora(row: Row, teacher: Row) -> list[Yardstick]:
    """Of what was measured: diversity is not where captions are not followed as by the teacher (`diversity.py`)."""
    steps, found = f"{row.steps} step{'s' * (row.steps > 1)}", []

    def ask(measure: str, claim: str, bound: float | None, at_least: bool, over: float = 1.0) -> None:
        if measure in row.values and bound is not None:
            found.append(Yardstick(claim, row.mean(measure) / over, bound, at_least))

    def teachers(measure: str) -> float | None:
        return teacher.mean(measure) if measure in teacher.values else None

    ask("alignment", f"alignment at {steps}", ALIGNMENT.get(row.steps), True)
    ask("quality", f"quality at {steps}, beside the teacher's", teachers("quality"), True)
    ask("fd_ratio", f"FD to teacher at {steps}, over the best undistilled", RATIO.get(row.steps), False)
    if real := teachers("fd_real"):
        ask("fd_real", f"FD to real at {steps}, over the teacher's", REAL.get(row.steps), False, real)
    if apart := teachers("diversity"):
        ask("diversity", f"LPIPS over seeds at {steps}, over the teacher's", DIVERSITY, True, apart)
    return found
