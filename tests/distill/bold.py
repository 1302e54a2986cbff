"""Two judges of one's own: `bold` may be pleased, `faint`, its opposite, only looks on. And a segmenter, `light`."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from hypersd.judges import MASKS, About, Published

JUDGES = {name: About("nothing", "Apache-2.0", may_reward=name == "bold") for name in ("bold", "faint")}
BOLD, FAINT = (f"{__name__}.{name}" for name in JUDGES)
PERCEPTUALS = {"light": About("nothing", "Apache-2.0", may_reward=True, truth=MASKS)}
LIGHT = f"{__name__}.light"


class Judge(Published):
    def forward(self, images, prompts):
        assert len(images) == len(prompts)
        return (1 if self.name == "bold" else -1) * images.square().mean((1, 2, 3))


class Light(nn.Module):
    """A picture's own numbers are the logits of its mask."""

    def forward(self, images, truth):
        return F.binary_cross_entropy_with_logits(images.mean(1, keepdim=True), truth)


def load(name, weights):
    return Light() if name == "light" else Judge(name, JUDGES[name])
