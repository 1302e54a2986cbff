"""Real pictures, as the features that travel with the package: what drawn ones are compared with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypersd import bundled
from hypersd.evaluate.captions import FILE as CAPTIONS
from hypersd.evaluate.captions import Caption

FILE = "real.safetensors"


@dataclass(frozen=True)
class Real:
    """Features of real pictures, and of those with captions of this half how the judge sees them."""

    features: Float[Tensor, "n d"]
    judged: Float[Tensor, "m e"] | None = None
    own: Int[Tensor, " m"] | None = None
    """Each judged picture's caption, as an index into the captions of the half."""


def load(captions: Sequence[Caption], folder: Path = bundled.EVALUATION) -> Real:
    """Raises FileNotFoundError where the bundled miniature's evaluation files are missing.

    The file keeps features as coordinates along their leading principal directions.
    """
    from safetensors.torch import load_file

    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"no features of real pictures in {folder}; they come with the miniature")
    stored = load_file(folder / FILE)
    features = stored["mean"].float() + stored["coordinates"].float() @ stored["basis"].float()
    features = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))]
    if "judge_b" not in stored:
        return Real(features)
    texts = json.loads((folder / CAPTIONS).read_text())["texts"]
    index = {caption.text: i for i, caption in enumerate(captions)}
    own = [index.get(texts[i], -1) if i >= 0 else -1 for i in stored["caption"].tolist()]
    chosen = torch.tensor([i for i, caption in enumerate(own) if caption >= 0], dtype=torch.long)
    return Real(features, stored["judge_b"].float()[chosen], torch.tensor(own)[chosen])
