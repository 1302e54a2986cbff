"""Real pictures, as the features that travel with the package: what drawn ones are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypersd import bundled
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
    """Raises FileNotFoundError where the bundled miniature's evaluation files are missing."""
    import json

    from safetensors.torch import load_file

    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"no features of real pictures in {folder}; they come with the miniature")
    tensors = load_file(folder / FILE)
    features = tensors["features"].float()
    features = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))]
    if "judge_b" not in tensors:
        return Real(features)
    texts = [record["caption"] for record in json.loads((folder / "captions.json").read_text())]
    index = {caption.text: i for i, caption in enumerate(captions)}
    own = [index.get(texts[i], -1) if i >= 0 else -1 for i in tensors["caption"].tolist()]
    chosen = torch.tensor([i for i, caption in enumerate(own) if caption >= 0], dtype=torch.long)
    return Real(features, tensors["judge_b"].float()[chosen], torch.tensor(own)[chosen])
