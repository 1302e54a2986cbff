"""The miniature's judges: does an emoji show what its caption says, and is it drawn well?

`load_judge("a")`: small, from scratch; may be a reward. Also a foreground mask, from the alpha channel.
`load_judge("b")`: on ImageNet features, other seed, other order, other degradations; only judges.
Both are dual encoders (contrastive, as CLIP: Radford et al. 2021) with a text tower of their own, so the
score is a cosine. Trained by `emoji/judges.py` on the pictures that hypersd/bundled/README.md names.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hypersd import tensors
from hypersd.judges import About, Published
from hypersd.judges.networks import bpe, imagenet

BUNDLED = Path(__file__).resolve().parent.parent / "bundled"
FOLDER, WORDS = BUNDLED / "judges", BUNDLED / "emoji-sd" / "tokenizer"
PIXELS, WIDTH, LENGTH, GROUPS = 64, 128, 24, 8
REMEDY = "the judges come with the package: install it again, or train them with emoji/"
PICTURES = "the miniature's pictures (hypersd/bundled/README.md)"
JUDGES = {
    "emoji-a": About(trained_on=PICTURES, licence="Apache-2.0", may_reward=True),
    "emoji-b": About(trained_on=f"{PICTURES}, on ImageNet features", licence="Apache-2.0", may_reward=False),
}
QUALITY = "-quality"
JUDGES |= {name + QUALITY: about for name, about in JUDGES.items()}
"""Whether it is drawn well, whatever it shows."""


@functools.cache
def tokenizer(folder: Path = WORDS) -> Any:
    """The miniature's own BPE, which its base reads prompts by as well."""
    return bpe.load(folder / "vocab.json", folder / "merges.txt", REMEDY)


def tokenize(prompts: list[str], folder: Path = WORDS) -> Int[Tensor, "b l"]:
    return bpe.encode(tokenizer(folder), prompts, LENGTH)


class TextTower(nn.Module):
    def __init__(self, vocabulary: int, layers: int = 2):
        super().__init__()
        self.words = nn.Embedding(vocabulary, WIDTH)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
        block = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))

    def forward(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b d"]:
        end = self.words.num_embeddings - 1
        after_end = (tokens == end).cumsum(1) > 1
        x = self.blocks(self.words(tokens) + self.places, src_key_padding_mask=after_end)
        kept = (~after_end).unsqueeze(-1).float()
        return self.out((x * kept).sum(1) / kept.sum(1))


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        norm, conv = (lambda: nn.GroupNorm(GROUPS, width)), (lambda: nn.Conv2d(width, width, 3, padding=1))
        self.body = nn.Sequential(norm(), nn.SiLU(), conv(), norm(), nn.SiLU(), conv())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ScratchTower(nn.Module):
    """Judge A's eyes: four halvings of a 64 px picture; every scale is pooled, the finest ones also draw the mask."""

    widths, depths = (32, 48, 64, 96), (0, 0, 2, 2)  # the fine scales cost most and need least

    def __init__(self) -> None:
        super().__init__()
        pairs = zip((3, *self.widths[:-1]), self.widths, self.depths, strict=True)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.SiLU(), *(Residual(b) for _ in range(depth)))
            for a, b, depth in pairs
        )
        pooled = sum(self.widths) + self.widths[-1]
        self.out, self.quality = (
            nn.Linear(pooled, WIDTH),
            nn.Sequential(nn.Linear(pooled, 64), nn.SiLU(), nn.Linear(64, 1)),
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, 32, 1) for width in self.widths)
        self.mask = nn.Sequential(nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 4, 3, padding=1))

    def maps(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        if images.shape[-2:] != (PIXELS, PIXELS):
            images = F.interpolate(images, (PIXELS, PIXELS), mode="bilinear", align_corners=False, antialias=True)
        x, found = images * 2 - 1, []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def pool(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b f"]:
        maps = self.maps(images)
        return torch.cat([*(x.mean((2, 3)) for x in maps), maps[-1].amax((2, 3))], 1)

    def draw_mask(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 64 64"]:
        """Logits, positive on the emoji, negative on the ground."""
        maps = self.maps(images)
        x = self.lateral[-1](maps[-1])
        for lateral, finer in zip(list(self.lateral)[-2::-1], maps[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + lateral(finer)
        return F.pixel_shuffle(self.mask(x), 2)


class ImageNetTower(nn.Module):
    """Judge B's eyes: two layers on frozen EfficientNet-lite0 statistics."""

    hidden = 256
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        width = imagenet.STAGE_WIDTH
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.body = nn.Sequential(nn.Linear(width, self.hidden), nn.GELU(), nn.LayerNorm(self.hidden))
        self.out, self.quality = nn.Linear(self.hidden, WIDTH), nn.Linear(self.hidden, 1)

    def read(self, found: Float[Tensor, "... f"]) -> Float[Tensor, "... hidden"]:
        """Of features already computed."""
        return self.body((found - self.mean) / self.std)

    def pool(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b hidden"]:
        return self.read(imagenet.stage_features(images))


TOWERS: dict[str, type[nn.Module]] = {"a": ScratchTower, "b": ImageNetTower}


class Judge(nn.Module):
    """Scores are cosines in [-1, 1]. `trained_on`, `licence` and `may_reward` say what it may be used for."""

    def __init__(self, name: str, vocabulary: int, trained_on: str = "", licence: str = ""):
        super().__init__()
        self.name, self.trained_on, self.licence, self.may_reward = name, trained_on, licence, name == "a"
        self.eyes: Any = TOWERS[name]()
        self.text = TextTower(vocabulary)
        self.log_scale = nn.Parameter(torch.tensor(3.0))  # of the cosines, when trained

    def embed_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return F.normalize(self.eyes.out(self.eyes.pool(images)), dim=-1)

    def embed_texts(self, prompts: list[str]) -> Float[Tensor, "b d"]:
        return F.normalize(self.text(tokenize(prompts).to(self.log_scale.device)), dim=-1)

    def compare(self, seen: Float[Tensor, "b d"], prompts: list[str]) -> Float[Tensor, " b"]:
        return (seen * self.embed_texts(prompts)).sum(-1)

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: list[str]) -> Float[Tensor, " b"]:
        return self.compare(self.embed_images(images), prompts)

    def quality(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """A logit: positive for a clean drawing, negative for a degraded one."""
        score: Tensor = self.eyes.quality(self.eyes.pool(images)).squeeze(-1)
        return score

    def mask(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Foreground logits at the images' own size. Judge A only."""
        if not isinstance(self.eyes, ScratchTower):
            raise ValueError("judge b draws no masks: use load_judge('a')")
        return F.interpolate(self.eyes.draw_mask(images), images.shape[-2:], mode="bilinear", align_corners=False)


def load_judge(name: str, folder: Path = FOLDER) -> Judge:
    """The bundled judge "a" or "b", frozen, in fp32. Raises OSError where its file is missing or damaged."""
    if name not in TOWERS:
        raise ValueError(f"no judge {name!r}; there are {', '.join(TOWERS)}")
    path = folder / f"{name}.safetensors"
    header, weights = tensors.read(path, REMEDY)
    with tensors.readable(path, REMEDY):
        about = json.loads(header["judge"])
        judge = Judge(name, about["vocabulary"], about["trained_on"], about["licence"])
        judge.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
    return judge.eval().requires_grad_(False)


class Quality(Published):
    """A judge's opinion of the drawing alone: a logit, positive for a clean one."""

    def __init__(self, name: str, judge: Judge):
        super().__init__(name, JUDGES[name])
        self.judge = judge

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        return self.judge.quality(images)


def load(name: str, folder: Path | None = None) -> Judge | Quality:
    """One of `JUDGES`. Raises OSError where its file is missing or damaged."""
    judge = load_judge(name.removeprefix("emoji-").removesuffix(QUALITY), folder or FOLDER)
    return Quality(name, judge) if name.endswith(QUALITY) else judge
