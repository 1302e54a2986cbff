"""The networks that look at pictures: ImageNet features, judge B, and two optional ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from hypersd.judges.emoji import Judge

Pictures = Float[Tensor, "b 3 h w"]
LPIPS_PICTURES = 256  # the first of a set, in pairs of one caption
SECOND_PICTURES = 1000  # the first of a set that the slow ResNet50 looks at


@dataclass(frozen=True)
class Eyes:
    """What sees pictures (b, 3, h, w) in [0, 1]. `name` tells one choice of networks from another."""

    name: str
    see: Callable[[Tensor], dict[str, Tensor]]
    """features (for distances), judged (the judge's embeddings) and quality: one row for each picture."""
    embed_texts: Callable[[Sequence[str]], Tensor]
    """Embeddings whose dot products with `judged` are the judge's scores."""
    second: Callable[[Tensor], Tensor] | None = None
    """ResNet50 features: the second opinion on Fréchet distance."""
    apart: Callable[[Tensor, Tensor], Tensor] | None = None
    """LPIPS between two batches."""

    @torch.no_grad()
    def look(self, images: Pictures, number: int = 0, second: bool = True) -> dict[str, Tensor]:
        """What is kept of a batch that starts at picture `number`; 0 and 1, 2 and 3 share captions."""
        seen = self.see(images)
        if self.second is not None and second and number < SECOND_PICTURES:
            seen["second"] = self.second(images)
        if self.apart is not None and number < LPIPS_PICTURES:
            seen["apart"] = self.apart(images[0::2], images[1::2])
        return seen


def load(cache: Path, device: torch.device | str = "cpu", optional: bool = True) -> Eyes:
    """EfficientNet-lite0 and judge B; ResNet50 and LPIPS where `hypersd.evaluate.fetch` has put them."""
    from hypersd.evaluate import resnet
    from hypersd.judges import emoji
    from hypersd.judges.networks import imagenet, vgg

    judge = emoji.load_judge("b").to(device)
    second = resnet.load(cache) if optional else None
    apart = vgg.load(cache) if optional else None
    weights = sha256((emoji.FOLDER / "b.safetensors").read_bytes()).hexdigest()[:8]
    names = [f"lite0 at {imagenet.SIZE} px", f"judge b {weights}"]
    names += [*(["resnet50"] if second else []), *(["lpips"] if apart else [])]
    return Eyes(
        name=", ".join(names),
        see=through(judge),
        embed_texts=lambda texts: judge.embed_texts(list(texts)),
        second=second.to(device) if second else None,
        apart=apart.to(device) if apart else None,
    )


def through(judge: Judge) -> Callable[[Tensor], dict[str, Tensor]]:
    """Features, judge B's embeddings and its quality, with one pass of the ImageNet network for all three."""
    from hypersd.judges.networks import imagenet

    def see(images: Tensor) -> dict[str, Tensor]:
        stages = imagenet.stage_features(images)
        hidden = judge.eyes.read(stages)
        return {
            "features": stages[:, -imagenet.WIDTH :],
            "judged": F.normalize(judge.eyes.out(hidden), dim=-1),
            "quality": judge.eyes.quality(hidden).squeeze(-1),
        }

    return see
