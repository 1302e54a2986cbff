"""The held-out captions that evaluation draws, and what each one is told apart from.

They describe combinations (who × skin tone × gender × style) that nothing here was trained on, in two
halves: `develop` to look at as often as one likes, `report` once for each LoRA that is released.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hypersd import bundled

SPLITS = ("develop", "report")
CANDIDATES = 100  # captions a picture is retrieved among, its own included
ATTRIBUTES = ("concept", "gender", "tone", "style")


@dataclass(frozen=True)
class Caption:
    """A caption, and other captions that differ from it in one attribute."""

    text: str
    near: tuple[str, ...] = ()


@dataclass(frozen=True)
class Retrieval:
    """For each caption a row of candidates, itself first, as indices into `texts`."""

    texts: tuple[str, ...]
    candidates: Int[Tensor, "c n"]


def load(split: str, folder: Path = bundled.EVALUATION) -> list[Caption]:
    """The captions of one half, in an order that is random but always the same."""
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; use one of {', '.join(SPLITS)}")
    path = folder / "captions.json"
    if not path.is_file():
        raise FileNotFoundError(f"no held-out captions at {path}; they come with the bundled miniature")
    records = [record for record in json.loads(path.read_text()) if record["half"] == split]
    captions = {record["caption"]: Caption(record["caption"], _near(record, records)) for record in records}
    return random.Random(0).sample(list(captions.values()), len(captions))


def _near(record: dict[str, Any], others: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Captions one attribute away: those that the file lists, else those that it happens to hold."""
    if "near" in record:
        return tuple(record["near"])
    return tuple(
        dict.fromkeys(
            other["caption"] for other in others if sum(other[a] != record[a] for a in ATTRIBUTES) == 1
        )
    )


def paired(captions: int, pictures: int) -> Int[Tensor, " n"]:
    """Which caption each picture has: 0 0 1 1 2 2 …, from the first again after the last.

    The two pictures of a pair differ in their seeds alone, so that pictures 0, 2, 4 … and 1, 3, 5 … are
    two halves with the same captions.
    """
    if pictures % 2 or pictures < 4:
        raise ValueError(f"pictures must be an even number of at least 4, not {pictures}")
    return (torch.arange(pictures) // 2) % captions


def retrieval(captions: Sequence[Caption], count: int = CANDIDATES, seed: int = 0) -> Retrieval:
    """Half of a row's others are one attribute away, as far as there are so many; the rest are anyone's."""
    texts = list(dict.fromkeys([c.text for c in captions] + [near for c in captions for near in c.near]))
    index = {text: i for i, text in enumerate(texts)}
    count, rows = min(count, len(texts)), []
    for number, caption in enumerate(captions):
        rng = random.Random(f"{seed} {number}")
        near = [index[text] for text in caption.near if text != caption.text]
        near = rng.sample(near, min(len(near), count // 2))
        taken = {index[caption.text], *near}
        far = [i for i in rng.sample(range(len(texts)), len(texts)) if i not in taken]
        rows.append([index[caption.text], *near, *far[: count - 1 - len(near)]])
    return Retrieval(tuple(texts), torch.tensor(rows))
