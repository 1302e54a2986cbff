"""`log.jsonl`: a line for each iteration of a run, and what a resumed run keeps of it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypersd import atomic
from hypersd.distill.checkpoint import LOG, Progress

NAME = LOG
TOLD = "told"
"""Of the last line of a window: what judges who only look on say of it, in words; empty where nothing is amiss."""


def append(out: Path, line: dict[str, Any]) -> None:
    atomic.append(out / NAME, json.dumps(line))


def trim(out: Path, progress: Progress) -> None:
    """Drops what was logged after the checkpoint that the run goes on from."""
    if not (out / NAME).is_file():
        return
    done = (progress.stage, progress.iteration)
    kept = [json.dumps(line) + "\n" for line in _whole(out) if (line["stage"], line["iteration"]) < done]
    atomic.write_bytes(out / NAME, "".join(kept).encode())


def of_stage(out: Path, stage: int) -> list[dict[str, Any]]:
    """The lines of one stage."""
    return [line for line in _whole(out) if line["stage"] == stage] if (out / NAME).is_file() else []


def told(out: Path) -> str:
    """What was last said of the student that the run has come to."""
    lines = _whole(out) if (out / NAME).is_file() else []
    return next((line[TOLD] for line in reversed(lines) if TOLD in line), "")


def _whole(out: Path) -> list[dict[str, Any]]:
    """Every line but one that a killed run was writing, which is the last."""
    *lines, last = (out / NAME).read_text().splitlines() or ["{"]
    with suppress(json.JSONDecodeError):
        return [json.loads(line) for line in (*lines, last)]
    return [json.loads(line) for line in lines]
