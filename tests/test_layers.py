"""Imports only go downwards, plug-ins do not know each other, and `import hypersd` is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hypersd"

# From the ground up. A room may use those on lower floors, and not its neighbours on its own.
FLOORS = (
    ("atomic", "bundled", "cache", "diffusion", "dotted", "images", "sharing", "tensors"),
    ("recipe", "lora", "judges"),
    ("bases",),
    ("draw",),
    ("distill", "export"),
    ("evaluate", "serve"),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PLUGINS = ("diffusion.samplers", "bases", "judges", "distill.losses", "export")
HEAVY = ("torch", "diffusers", "transformers", "peft", "numpy", "PIL")

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def dotted(path: Path) -> str:
    """hypersd/bases/toy.py -> bases.toy; hypersd/bases/__init__.py -> bases."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(path) for path in FILES}


def imports(source: str) -> Iterator[str]:
    """Every module of the package that a file imports, wherever the import stands, without "hypersd."."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room they reach"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and called(node) == "import_module":
            names = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        for name in names:
            if name.startswith("hypersd."):
                yield module(name.removeprefix("hypersd."))


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def module(name: str) -> str:
    """The module that an imported name lives in: diffusion.solver.jump -> diffusion.solver."""
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name


def climbs(room: str, source: str) -> list[str]:
    """The imports of a file in `room` that do not go down."""
    others = [name for name in imports(source) if name.partition(".")[0] not in (room, "__version__")]
    return [name for name in others if FLOOR.get(name.partition(".")[0], 99) >= FLOOR[room]]


def siblings(name: str, source: str) -> list[str]:
    """The imports that take the plug-in called `name` to another one of its folder."""
    folder = name.rpartition(".")[0]
    if folder not in PLUGINS:
        return []
    return [other for other in imports(source) if other.rpartition(".")[0] == folder and other != name]


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_go_downwards(path):
    room = dotted(path).partition(".")[0]
    assert room in FLOOR, f"a new room: give {room!r} a floor in this test"
    assert climbs(room, path.read_text()) == []


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_plugins_do_not_import_their_siblings(path):
    assert siblings(dotted(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("room", "source", "caught"),
    [
        ("diffusion", "from hypersd.bases import Base", ["bases"]),
        ("diffusion", "def f():\n    import hypersd.bases.toy", ["bases.toy"]),
        ("bases", "if TYPE_CHECKING:\n    from hypersd.draw.pipeline import Drawer", ["draw.pipeline"]),
        ("bases", "import_module('hypersd.distill.train')", ["distill.train"]),
        ("lora", "from hypersd.recipe import Strict", ["recipe"]),
        ("lora", "from hypersd import bases, atomic", ["bases"]),
        ("draw", "from hypersd.bases import Base\nfrom hypersd.draw.sheet import Sheet", []),
    ],
)
def test_a_climbing_import_is_caught_wherever_it_stands(room, source, caught):
    assert climbs(room, source) == caught


def test_a_plugin_that_knows_another_is_caught():
    assert siblings("bases.toy", "from hypersd.bases.sd15 import SD15") == ["bases.sd15"]
    assert siblings("bases.toy", "from hypersd.bases import Cond, sd15") == ["bases.sd15"]
    assert siblings("bases.toy", "from hypersd.bases import Cond") == []


def run(code: str) -> str:
    """What a fresh interpreter prints, shape checking off."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("name", ["hypersd", "hypersd.cli"])
def test_importing_is_light(name):
    """CPU seconds, not wall clock: a busy machine must not fail this."""
    seconds, heavy = run(
        "import sys, time; before = time.process_time()\n"
        f"import {name}\n"
        f"print(time.process_time() - before, *[m for m in {HEAVY} if m in sys.modules], sep=';')"
    ).partition(";")[::2]
    assert heavy == ""
    assert float(seconds) < 0.5


def test_what_the_package_offers_is_there():
    import hypersd

    assert set(hypersd.__all__) == {*hypersd._WHERE, "__version__"} <= set(dir(hypersd))
    assert all(getattr(hypersd, name).__name__ in (name, "load") for name in hypersd._WHERE)
    with pytest.raises(AttributeError, match="'Drawr'; it offers Drawer, "):
        hypersd.Drawr  # noqa: B018
