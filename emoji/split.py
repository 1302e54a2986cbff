"""Which combinations are never trained on.

A combination is concept x gender x tone x style of a person ("woman firefighter, dark skin, flat").
Each of its parts is trained on in other combinations, so drawing it means composing. The held-out
ones fall in two halves: `develop`, and `report`, the latter looked at once per release.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPLIT_FILE = Path(__file__).with_name("split.json")
HELD_OUT = 0.15  # of the combinations
TONE_CODES = {"yellow": "0", "light": "1", "medium-light": "2", "medium": "3", "medium-dark": "4", "dark": "5"}
HALVES = ("develop", "report")


def code(record: dict[str, Any]) -> str:
    """A combination in five or so letters within its concept: style, gender, tone ("flat:w5")."""
    return f"{record['style']}:{record['gender'][0]}{TONE_CODES[record['tone']]}"


def composable(record: dict[str, Any]) -> bool:
    return record["gender"] is not None and record["tone"] in TONE_CODES


def _share(*words: str) -> float:
    """A number in [0, 1) that only depends on the words."""
    return int.from_bytes(hashlib.sha256("|".join(words).encode()).digest()[:6]) / 2**48


def make_split(records: Iterable[dict[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """half -> concept -> codes. Keeps at least half of every concept x style, and every part, for training."""
    pool = [record for record in records if composable(record)]
    left = Counter((record["concept"], record["style"]) for record in pool)
    floor = {key: (count + 1) // 2 for key, count in left.items()}
    split: dict[str, dict[str, list[str]]] = {half: {} for half in HALVES}
    for record in sorted(pool, key=lambda r: _share(r["concept"], code(r))):
        key = (record["concept"], record["style"])
        if _share(record["concept"], code(record)) >= HELD_OUT or left[key] <= floor[key]:
            continue
        left[key] -= 1
        half = HALVES[_share("half", record["concept"], code(record)) < 0.5]
        split[half].setdefault(record["concept"], []).append(code(record))
    return {half: {name: sorted(codes) for name, codes in sorted(chosen.items())} for half, chosen in split.items()}


def part_of(record: dict[str, Any], split: dict[str, dict[str, list[str]]]) -> str:
    """ "train", "develop" or "report"."""
    if not composable(record):
        return "train"
    return next((half for half in HALVES if code(record) in split[half].get(record["concept"], ())), "train")


def write_split(split: dict[str, dict[str, list[str]]], path: Path = SPLIT_FILE) -> None:
    path.write_text(json.dumps(split, indent=0, ensure_ascii=False) + "\n")


def read_split(path: Path = SPLIT_FILE) -> dict[str, dict[str, list[str]]]:
    split: dict[str, dict[str, list[str]]] = json.loads(path.read_text())
    return split
