"""Yardsticks that cannot be bent: a LoRA against its base's own many-step pictures.

`run` is one evaluation; `Report` what it found. `docs/evaluate.md` says what each number means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypersd.evaluate.evaluation import run as run
    from hypersd.evaluate.report import Report as Report

WHERE = {"run": "hypersd.evaluate.evaluation", "Report": "hypersd.evaluate.report"}


def __getattr__(name: str) -> Any:
    """Imports torch and its company only once something is used."""
    from importlib import import_module

    if name not in WHERE:
        raise AttributeError(f"hypersd.evaluate has no {name!r}")
    return getattr(import_module(WHERE[name]), name)
