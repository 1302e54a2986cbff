"""Two judges of one's own: `bold` may be pleased, `faint`, its opposite, only looks on."""

from __future__ import annotations

from hypersd.judges import About, Published

JUDGES = {name: About("nothing", "Apache-2.0", may_reward=name == "bold") for name in ("bold", "faint")}
BOLD, FAINT = (f"{__name__}.{name}" for name in JUDGES)


class Judge(Published):
    def forward(self, images, prompts):
        assert len(images) == len(prompts)
        return (1 if self.name == "bold" else -1) * images.square().mean((1, 2, 3))


def load(name, weights):
    return Judge(name, JUDGES[name])
