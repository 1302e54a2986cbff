"""hypersd: turn a Stable Diffusion checkpoint into one that draws in 1 to 8 steps.

    hypersd.Drawer, hypersd.settings_for         draw with a base and a LoRA
    hypersd.load_recipe, hypersd.train           make a LoRA
    from hypersd.evaluate import run             measure it

Names load when first used: `import hypersd` alone imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypersd.distill.train import train
    from hypersd.draw.pipeline import Drawer, settings_for
    from hypersd.recipe import load as load_recipe

__version__ = "0.1.0"
__all__ = ["Drawer", "__version__", "load_recipe", "settings_for", "train"]

_WHERE = {
    "Drawer": ("draw.pipeline", "Drawer"),
    "settings_for": ("draw.pipeline", "settings_for"),
    "load_recipe": ("recipe", "load"),
    "train": ("distill.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(_WHERE)}")
    module, attribute = _WHERE[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
