"""Two judges of one's own: `bold` may be pleased, `faint`, its opposite, only looks on. And two perceptual losses:
a segmenter, `light`, and one that compares pictures, `twin`; `mirror` only judges.
"""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from hypersd.judges import MASKS, PICTURES, About, Published

JUDGES = {name: About("nothing", "Apache-2.0", may_reward=name == "bold") for name in ("bold", "faint")}
BOLD, FAINT = (f"{__name__}.{name}" for name in JUDGES)
TRUTHS = {"light": MASKS, "twin": PICTURES, "mirror": PICTURES}
PERCEPTUALS = {
    name: About("nothing", "Apache-2.0", may_reward=name != "mirror", truth=truth) for name, truth in TRUTHS.items()
}
LIGHT, TWIN, MIRROR = (f"{__name__}.{name}" for name in PERCEPTUALS)


class Judge(Published):
    def forward(self, images, prompts):
        assert len(images) == len(prompts)
        return (1 if self.name == "bold" else -1) * images.square().mean((1, 2, 3))


class Light(nn.Module):
    """A picture's own numbers are the logits of its mask."""

    def forward(self, images, truth):
        return F.binary_cross_entropy_with_logits(images.mean(1, keepdim=True), truth)


class Twin(nn.Module):
    """Mean square of what two pictures differ by."""

    def forward(self, images, truth):
        return (images - truth).square().mean()


def load(name, weights):
    others = {"light": Light, "twin": Twin}
    return others[name]() if name in others else Judge(name, JUDGES[name])
