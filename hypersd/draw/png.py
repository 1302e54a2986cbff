"""PNG files that say how they were drawn: to UIs in A1111's `parameters` text, to programs as JSON."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hypersd import __version__
from hypersd.atomic import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

PARAMETERS, RECORD = "parameters", "hypersd"
# What UIs call the same algorithm: DDIM on the trailing grid is their Euler with the SGM Uniform schedule.
UI_SAMPLER = {
    "ddim": {"Sampler": "Euler", "Schedule type": "SGM Uniform"},
    "tcd": {"Sampler": "TCD"},
    "lcm": {"Sampler": "LCM"},
}


@dataclass(frozen=True)
class Drawing:
    """Everything that it takes to draw a picture again."""

    prompt: str
    seed: int
    steps: int
    sampler: str
    guidance_scale: float
    width: int
    height: int
    base: str
    negative: str = ""
    sampler_settings: dict[str, float] = field(default_factory=dict)
    nag: dict[str, float] = field(default_factory=dict)
    """Scale, tau and alpha; empty is off."""
    lora: str | None = None
    lora_scale: float = 1.0
    version: str = __version__

    def parameters(self) -> str:
        """The text that A1111, Forge and others write, and read back from a picture dropped on them."""
        prompt = f"{self.prompt} <lora:{self.lora}:{self.lora_scale:g}>" if self.lora else self.prompt
        lines = [prompt, f"Negative prompt: {self.negative}"] if self.negative else [prompt]
        settings: dict[str, Any] = {"Steps": self.steps}
        settings |= UI_SAMPLER.get(self.sampler, {"Sampler": self.sampler})
        settings |= {"CFG scale": f"{self.guidance_scale:g}", "Seed": self.seed}
        settings |= {"Size": f"{self.width}x{self.height}", "Model": self.base}
        settings |= {name.capitalize(): f"{value:g}" for name, value in self.sampler_settings.items()}
        settings |= {f"NAG {name}": f"{value:g}" for name, value in self.nag.items()}
        settings["Version"] = f"hyper-sd {self.version}"
        return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def to_pil(image: Tensor) -> Image.Image:
    """A picture in [0, 1], shape 3 h w."""
    values = (image.detach().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy(), "RGB")


def write(path: Path, picture: Image.Image, drawing: Drawing | None = None, **texts: str) -> None:
    """Writes by rename: the file is whole or it is not there."""
    info = PngInfo()
    if drawing:
        texts = {
            PARAMETERS: drawing.parameters(),
            RECORD: json.dumps(asdict(drawing), sort_keys=True),
            **texts,
        }
    for name, text in texts.items():
        info.add_text(name, text)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info, optimize=picture.mode == "P")
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> Drawing:
    """How the picture at `path` was drawn. Raises ValueError if it does not say."""
    with Image.open(path) as picture:
        record = picture.info.get(RECORD)
    if record is None:
        raise ValueError(f"{path.name} does not say how it was drawn")
    return Drawing(**json.loads(record))
