"""Judges: `(images in [0, 1], prompts) -> scores`, higher is better, differentiable in the images.

`load` finds one by its name, which the file that has it lists; a file never imports its sibling:

    JUDGES: dict[str, About]                                   # and PERCEPTUALS, where it has any
    def load(name: str, weights: Path | None) -> Judge         # a torch module

A third party's is a dotted path: `package.module.name`. docs/judges.md has a table of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

from jaxtyping import Float
from torch import Tensor, nn

JUDGES, PERCEPTUALS = "JUDGES", "PERCEPTUALS"
MASKS, INSTANCE_MASKS, PICTURES = "masks", "instance_masks", "pictures"
"""What a perceptual loss may compare with: a picture's alpha, each thing in it, or another picture."""


@dataclass(frozen=True)
class File:
    """A published file. `bytes` and `sha256` are None where nobody here knows them."""

    repository: str
    name: str
    bytes: int | None = None
    sha256: str | None = None
    on_hub = True
    """Whether it is fetched when it is asked for."""

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/main/{quote(self.name)}"

    @property
    def remedy(self) -> str:
        """For each file of its repository."""
        return f"fetch it again from https://huggingface.co/{self.repository}"

    def way_into(self, folder: Path) -> str:
        return f"fetch {self.url} into it"

    def fetch(self) -> Path:
        """From huggingface_hub's cache, or from the hub into it. Raises OSError in one line."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            return Path(hf_hub_download(self.repository, self.name))
        except (OSError, EntryNotFoundError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise OSError(
                f"the hub gave no {self.name} ({why}); fetch {self.url} on a machine that reaches it, "
                "and name the folder that it lies in"
            ) from error


@dataclass(frozen=True)
class About:
    """What may be known of a judge before it is loaded; its weights are the first of its files."""

    trained_on: str
    licence: str
    may_reward: bool
    """Whether training may please it. One that may not is kept to judge what was trained."""
    files: tuple[File, ...] = ()
    truth: str = ""
    """Of a perceptual loss: MASKS, INSTANCE_MASKS or PICTURES."""

    def check(self, folder: Path | None) -> None:
        """Raises FileNotFoundError where a file is missing that nothing fetches: before a training begins."""
        if folder is not None or not all(file.on_hub for file in self.files):
            self.find(folder)

    def find(self, folder: Path | None) -> list[Path]:
        """Its files, in order: those in `folder`, or if that is None the hub's, or those that were made in the cache
        folder. Raises FileNotFoundError.
        """
        if folder is None:
            return [file.fetch() for file in self.files]
        if missing := [file for file in self.files if not (folder / file.name).is_file()]:
            ways = " and ".join(file.way_into(folder) for file in missing)
            raise FileNotFoundError(f"{folder} has no {missing[0].name}; {ways}")
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: leave weights out for those that come with the package")
        return [folder / file.name for file in self.files]


@runtime_checkable
class Judge(Protocol):
    """`trained_on` and `licence` are for people to read, `may_reward` is for a recipe to obey."""

    name: str
    trained_on: str
    licence: str
    may_reward: bool

    def __call__(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]: ...


@runtime_checkable
class Cosine(Protocol):
    """A judge that compares what it has seen in a picture with any number of prompts, each looked at once."""

    def embed_images(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]: ...

    def compare(self, seen: Float[Tensor, "b d"], prompts: Sequence[str]) -> Float[Tensor, " b"]: ...


@runtime_checkable
class Perceptual(Protocol):
    """How far what a network sees in the images is from the ground truth (Hyper-SD Eq. 14), or from what it sees in
    another picture; lower is better.
    """

    def __call__(self, images: Float[Tensor, "b 3 h w"], truth: Any) -> Float[Tensor, ""]: ...


class Published(nn.Module):
    """A judge that others trained."""

    def __init__(self, name: str, about: About):
        super().__init__()
        self.name, self.about = name, about
        self.trained_on, self.licence, self.may_reward = about.trained_on, about.licence, about.may_reward


def names(kind: str = JUDGES) -> list[str]:
    return sorted(name for module in _modules() for name in getattr(module, kind, {}))


def about(name: str, kind: str = JUDGES) -> About:
    """What may be known of a judge without its files. Raises ValueError for a name that there is not."""
    return getattr(_module(name, kind), kind)[_last(name)]


def load(name: str, weights: str | Path | None = None) -> Judge:
    """The judge called `name`, frozen, in fp32, on the CPU.

    `weights` is the folder that its files lie in; nothing is then fetched. Without it they come from the package, from
    the hub, or from the cache folder. Raises FileNotFoundError or OSError, in one line, where a file is missing or
    damaged.
    """
    return _load(name, weights, JUDGES)


def load_perceptual(name: str, weights: str | Path | None = None) -> Perceptual:
    """The perceptual loss called `name`; all else as for `load`."""
    return _load(name, weights, PERCEPTUALS)


def pairs(images: Tensor, prompts: Sequence[str]) -> None:
    """Raises ValueError unless each image has a prompt: a single one would silently serve for all."""
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} images and {len(prompts)} prompts: give one prompt for each image")


def _load(name: str, weights: str | Path | None, kind: str) -> Any:
    folder = None if weights is None else Path(weights)
    return _module(name, kind).load(_last(name), folder).eval().requires_grad_(False)


def _module(name: str, kind: str) -> Any:
    """The file that has the name: one of this folder, or a third party's."""
    for module in _modules():
        if name in getattr(module, kind, {}):
            return module
    if "." not in name:
        raise ValueError(f"no judge {name!r}; there are {', '.join(names(kind))}")
    path = name.rpartition(".")[0]
    try:
        module = import_module(path)
    except ModuleNotFoundError as error:
        raise ValueError(f"the judge {name!r} is not to be found ({error}); install it, or mend its name") from error
    if _last(name) not in getattr(module, kind, {}):
        raise ValueError(f"the module {path!r} has no {_last(name)!r} in {kind}")
    return module


def _modules() -> list[Any]:
    return [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__) if not found.ispkg]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
