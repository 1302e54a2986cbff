"""The held-out captions that evaluation draws, and what each one is told apart from.

They describe combinations (who × skin tone × gender × style) that nothing here was trained on, in two
halves: `develop` to look at as often as one likes, `report` once for each LoRA that is released.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from hypersd import bundled, tensors

SPLITS = ("develop", "report")
FILE = "captions.json.gz"
REMEDY = "it comes with the bundled miniature: install the package again"
CANDIDATES = 100  # captions a picture is retrieved among, its own included


@dataclass(frozen=True)
class Caption:
    """A caption, others that differ from it in one attribute, and others that differ in more."""

    text: str
    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()


@dataclass(frozen=True)
class Retrieval:
    """For each caption a row of candidates, itself first, as indices into `texts`."""

    texts: tuple[str, ...]
    candidates: Int[Tensor, "c n"]


def load(split: str, folder: Path = bundled.EVALUATION) -> list[Caption]:
    """The captions of one half, in an order that is random but always the same.

    The file has every text once, and records that name their texts by index.
    """
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; use one of {', '.join(SPLITS)}")
    path, captions = folder / FILE, {}
    found = tensors.facts(path, REMEDY)
    with tensors.readable(path, REMEDY):
        texts = found["texts"]
        for record in found["records"]:
            if record["half"] == split:
                near, far = (tuple(texts[i] for i in record.get(which, ())) for which in ("near", "far"))
                captions[record["caption"]] = Caption(texts[record["caption"]], near, far)
    return random.Random(0).sample(list(captions.values()), len(captions))


def paired(captions: int, pictures: int) -> Int[Tensor, " n"]:
    """Which caption each picture has: 0 0 1 1 2 2 …, from the first again after the last.

    The two pictures of a pair differ in their seeds alone, so that pictures 0, 2, 4 … and 1, 3, 5 … are
    two halves with the same captions.
    """
    if pictures % 2 or pictures < 4:
        raise ValueError(f"pictures must be an even number of at least 4, not {pictures}")
    return (torch.arange(pictures) // 2) % captions


def retrieval(captions: Sequence[Caption], count: int = CANDIDATES) -> Retrieval:
    """Half of a row's others are one attribute away, as far as there are so many; the rest are farther.

    Where a caption names too few, other captions fill its row.
    """
    named = [text for caption in captions for text in (*caption.near, *caption.far)]
    texts = list(dict.fromkeys([*(caption.text for caption in captions), *named]))
    index = {text: i for i, text in enumerate(texts)}
    rows = [_row(caption, captions, min(count, len(texts))) for caption in captions]
    return Retrieval(tuple(texts), torch.tensor([[index[text] for text in row] for row in rows]))


def _row(caption: Caption, others: Sequence[Caption], count: int) -> list[str]:
    rng = random.Random(caption.text)
    near = [text for text in dict.fromkeys(caption.near) if text != caption.text]
    near = rng.sample(near, min(len(near), count // 2))
    anyone = [other.text for other in rng.sample(list(others), len(others))]
    taken = {caption.text, *near}
    far = [text for text in dict.fromkeys([*caption.far, *anyone, *caption.near]) if text not in taken]
    return [caption.text, *near, *far[: count - 1 - len(near)]]
