"""What this project asks of its base and of its LoRA, as numbers that hold or do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypersd.evaluate.protocol import HARD_STEPS
from hypersd.evaluate.report import Row, Yardstick

ALIGNMENT = {1: 0.88, 2: 0.94, 4: 0.97, 8: 0.97}
RATIO = {1: 1 / 5, 2: 1 / 5, 4: 1 / 3}
HARDNESS = 5.0
SHARE_OF_REAL = 0.6


def yardsticks(rows: Sequence[Row], reference: Mapping[str, float]) -> list[Yardstick]:
    """Those that the rows speak of: the base's, then the LoRA's with the reference sampler."""
    return [*of_base(rows, reference), *of_lora(rows)]


def of_base(rows: Sequence[Row], reference: Mapping[str, float]) -> list[Yardstick]:
    teacher = next(row for row in rows if row.role == "teacher")
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


def of_lora(rows: Sequence[Row]) -> list[Yardstick]:
    found = []
    for row in rows:
        own = row.steps == 1 and " from " not in row.sampler  # a single step has one row, whatever the sampler
        if row.role != "distilled" or not (row.sampler == "ddim" or own):
            continue
        steps = f"{row.steps} step{'s' * (row.steps > 1)}"
        if row.steps in ALIGNMENT and "alignment" in row.values:
            claim = f"alignment at {steps}"
            found.append(Yardstick(claim, row.mean("alignment"), ALIGNMENT[row.steps], True))
        if row.steps in RATIO and "fd_ratio" in row.values:
            claim = f"FD to teacher at {steps}, over the best undistilled"
            found.append(Yardstick(claim, row.mean("fd_ratio"), RATIO[row.steps], False))
    return found
