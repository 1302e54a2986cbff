"""LAION's aesthetic predictor, version 2 (https://github.com/christophschuhmann/improved-aesthetic-predictor):
how people would rate a picture, about 1 to 10, whatever its prompt. One of Hyper-SD's two rewards (Eq. 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from hypersd import tensors
from hypersd.judges import About, File, Published
from hypersd.judges.networks import clip, head, pictures, weights

L14 = "openai/clip-vit-large-patch14"
JUDGES = {
    "aesthetic": About(
        trained_on="ratings of pictures: Simulacra Aesthetic Captions, LAION-Logos, AVA; on CLIP ViT-L/14 (OpenAI)",
        licence="Apache-2.0 (the head, as its copy on the hub has it); MIT (CLIP's code)",
        may_reward=True,
        files=(
            File(
                "camenduru/improved-aesthetic-predictor",  # the author's own copy is on GitHub only
                "sac+logos+ava1-l14-linearMSE.pth",
                3_714_759,
                "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            ),
            File(
                L14,
                "model.safetensors",
                1_710_540_580,
                "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
            ),
            File(L14, "config.json"),
        ),
    )
}


class Judge(Published):
    """A linear function of the unit vector that CLIP makes of a picture; prompts are not looked at."""

    def __init__(self, name: str, net: Any, layers: nn.Sequential):
        super().__init__(name, JUDGES[name])
        self.net, self.head = net, layers

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str] = ()) -> Float[Tensor, " b"]:
        pixels = pictures.cropped(images, self.net.config.image_size)
        scores: Tensor = self.head(clip.embed_pictures(self.net, pixels)).squeeze(-1)
        return scores


def load(name: str = "aesthetic", folder: Path | None = None) -> Judge:
    """Raises FileNotFoundError or OSError where a file is missing or damaged."""
    about = JUDGES[name]
    rating, checkpoint, config = about.find(folder)
    found = weights.read(rating, about.files[0].remedy)
    with tensors.readable(rating, about.files[0].remedy):
        layers = head.load(found)
    net = clip.load_vision(checkpoint, config, about.files[1].remedy)
    if layers[0].in_features != net.visual_projection.out_features:
        widths = f"{layers[0].in_features} numbers, and this CLIP gives {net.visual_projection.out_features}"
        raise OSError(f"{rating} rates {widths}; {about.files[1].remedy}")
    return Judge(name, net, layers)
