"""Cosines of CLIP embeddings: CLIP score (Hessel et al. 2021, arXiv 2104.08718), PickScore (Kirstain et al. 2023,
arXiv 2305.01569), HPSv2 and v2.1 (Wu et al. 2023, arXiv 2306.09341).

On the scales that Hyper-SD's tables and HPSv2's own use: CLIP score about 30, PickScore about 0.22, HPSv2 about 0.27.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hypersd import tensors
from hypersd.judges import About, File, Published, pairs
from hypersd.judges.networks import bpe, clip, open_clip, pictures, weights

B32 = "openai/clip-vit-base-patch32"
WORDS = (
    File(B32, "vocab.json", 862_328, "5047b556ce86ccaf6aa22b3ffccfc52d391ea4accdab9c2f2407da5b742d4363"),
    File(B32, "merges.txt", 524_657, "f526393189112391ce6f9795d4695f704121ce452c3aad1f5335cc41337eba85"),
)  # every CLIP has the same
LENGTH = 77
HPD = "HPD v2: 798,090 choices of people between pictures of one prompt; from LAION's CLIP ViT-H-14 (LAION-2B)"

JUDGES = {
    "clip": About(
        trained_on="400 million pictures and texts of the web, not published (OpenAI's WIT)",
        licence="MIT (the code's; the weights carry none of their own)",
        may_reward=False,
        files=(
            File(
                B32,
                "pytorch_model.bin",
                605_247_071,
                "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
            ),
            File(B32, "config.json", 4_186, "b575ef3c36f2a057fa19e221650105052d61cc9c1a972ec15019c6261ec98770"),
            *WORDS,
        ),
    ),
    "pickscore": About(
        trained_on="Pick-a-Pic v1: choices of people between pictures of one prompt; from LAION's CLIP ViT-H-14",
        licence="none stated",
        may_reward=False,
        files=(
            File(
                "yuvalkirstain/PickScore_v1",
                "model.safetensors",
                3_944_552_236,
                "ef31ef6fc5ff4d9bb90dd232df4e145887ba62c5a03aa2841415f8c25f18d52e",
            ),
            File("yuvalkirstain/PickScore_v1", "config.json"),
            *WORDS,
        ),
    ),
    "hpsv2": About(
        trained_on=HPD,
        licence="Apache-2.0",
        may_reward=False,
        files=(
            File(
                "xswu/HPSv2",
                "HPS_v2_compressed.pt",
                1_972_484_501,
                "07cb0d20626232204ca3a6ec53ff5984e7e53212a8a7b0e0ec2bac1bdaf125a1",
            ),
            *WORDS,
        ),
    ),
    "hpsv21": About(
        trained_on=f"{HPD}; what v2.1 adds to it is not known here",
        licence="Apache-2.0",
        may_reward=False,
        files=(
            File(
                "xswu/HPSv2",
                "HPS_v2.1_compressed.pt",
                1_972_490_005,
                "c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
            ),
            *WORDS,
        ),
    ),
}


class Judge(Published):
    """The cosine of picture and prompt, times a scale."""

    def __init__(self, name: str, net: Any, words: Any, prepare: Callable[[Tensor, int], Tensor], scale: float = 1.0):
        super().__init__(name, JUDGES[name])
        self.net, self.words, self.prepare, self.scale = net, words, prepare, scale

    def embed_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        return clip.embed_pictures(self.net, self.prepare(images, self.net.config.vision_config.image_size))

    def embed_texts(self, prompts: Sequence[str]) -> Float[Tensor, "b d"]:
        length = min(LENGTH, self.net.config.text_config.max_position_embeddings)
        return clip.embed_texts(self.net, bpe.encode(self.words, prompts, length).to(self.net.device))

    def compare(self, seen: Float[Tensor, "b d"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        return self.scale * (seen * self.embed_texts(prompts)).sum(-1)

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        pairs(images, prompts)
        return self.compare(self.embed_images(images), prompts)


def load(name: str, folder: Path | None = None) -> Judge:
    """One of `JUDGES`. Raises FileNotFoundError or OSError where a file is missing or damaged."""
    about = JUDGES[name]
    checkpoint, *rest, vocabulary, merges = about.find(folder)
    remedy = about.files[0].remedy
    words = bpe.load(vocabulary, merges, about.files[-1].remedy)
    if name.startswith("hps"):
        found = weights.read(checkpoint, remedy)
        with tensors.readable(checkpoint, remedy):
            return Judge(name, open_clip.load(found), words, pictures.padded)
    net = clip.load(checkpoint, rest[0], remedy)
    # PickScore is its learnt logit, about 100 cosines, in hundredths.
    scale = 100.0 if name == "clip" else net.logit_scale.detach().exp().item() / 100
    return Judge(name, net, words, pictures.cropped, scale)
