"""Real pictures, as the features that travel with the package: what drawn ones are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypersd import bundled, tensors
from hypersd.evaluate.captions import FILE as CAPTIONS
from hypersd.evaluate.captions import REMEDY, Caption

FILE = "real.safetensors"
HELD_OUT = (0, 1)  # in the file's `half`: develop, report; the rest was trained on


@dataclass(frozen=True)
class Real:
    """Features of real pictures, and how the judge sees those that have captions of this half."""

    features: Float[Tensor, "n d"]
    """Of everything: their principal directions are what distances are measured along."""
    held_out: Float[Tensor, "h d"]
    """Of what captions like the drawn ones describe: what drawn pictures are compared with."""
    judged: Float[Tensor, "m e"] | None = None
    own: Int[Tensor, " m"] | None = None
    """Each judged picture's caption, as an index into the captions of the half."""


def load(captions: Sequence[Caption], folder: Path = bundled.EVALUATION) -> Real:
    """Raises OSError where the bundled miniature's evaluation files are missing or damaged."""
    path = folder / FILE
    stored, texts = tensors.read(path, REMEDY)[1], tensors.facts(folder / CAPTIONS, REMEDY)["texts"]
    with tensors.readable(path, REMEDY):
        return take_apart(stored, texts, captions)


def take_apart(stored: Mapping[str, Tensor], texts: Sequence[str], captions: Sequence[Caption]) -> Real:
    """The file keeps features as coordinates along their leading principal directions."""
    features = stored["mean"].float() + stored["coordinates"].float() @ stored["basis"].float()
    held_out = features[torch.isin(stored["half"].long(), torch.tensor(HELD_OUT))]
    held_out = held_out[torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))]
    index = {caption.text: i for i, caption in enumerate(captions)}
    own = [index.get(texts[i], -1) if i >= 0 else -1 for i in stored["caption"].tolist()]
    chosen = torch.tensor([i for i, caption in enumerate(own) if caption >= 0], dtype=torch.long)
    if "judge_b" not in stored or not len(chosen):
        return Real(features, held_out)
    return Real(features, held_out, stored["judge_b"].float()[chosen], torch.tensor(own)[chosen])
