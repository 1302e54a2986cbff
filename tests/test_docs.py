"""Documents that cannot rot: names exist, the file map is complete, links lead somewhere."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
README, PAPER_INDEX = ROOT / "README.md", ROOT / "docs" / "paper_index.md"
DOCUMENTS = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "emoji", ROOT / "hypersd", ROOT / "recipes")
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)

NAME = re.compile(r"`(hypersd(?:\.\w+)+)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
MAP_LINE = re.compile(r"^(?:[-*] |\| *)`(hypersd/[\w/]+\.py)`(.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def find(name: str) -> Any:
    """The object of a dotted name; raises if a part of it is missing."""
    parts = name.split(".")
    depth = next(n for n in range(len(parts), 0, -1) if is_module(".".join(parts[:n])))
    found = import_module(".".join(parts[:depth]))
    for part in parts[depth:]:
        found = getattr(found, part)
    return found


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is not a package
        return False


def functions_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def settings() -> list[str]:
    """The settings in the last column of the table that has one."""
    table = PAPER_INDEX.read_text().partition("| setting |")[2].partition("\n\n")[0]
    return re.findall(r"`([\w.]+)`", " ".join(row.split(" | ")[-1] for row in table.splitlines()[2:]))


def test_the_paper_index_covers_what_it_promises():
    row = re.compile(r"^\| (Eq\. \d+|Algorithm 1) \|.*`hypersd\..*`tests/", re.MULTILINE)
    rows = row.findall(PAPER_INDEX.read_text())
    assert rows == ["Eq. 1", "Eq. 4", "Eq. 5", "Eq. 11", "Eq. 12", "Algorithm 1", "Eq. 8", "Eq. 13", "Eq. 14"]


@pytest.mark.parametrize("name", sorted(set(NAME.findall(PAPER_INDEX.read_text()))))
def test_functions_of_the_paper_index_exist(name):
    find(name)


@pytest.mark.parametrize(("path", "test"), sorted(set(TEST.findall(PAPER_INDEX.read_text()))))
def test_tests_of_the_paper_index_exist(path, test):
    assert (ROOT / path).is_file()
    assert not test or test in functions_in(ROOT / path)


@pytest.mark.parametrize("setting", settings())
def test_settings_of_the_paper_index_are_in_a_recipe(setting):
    from hypersd.recipe import Recipe, Stage

    first, *rest = setting.split(".")
    assert first in Recipe.model_fields
    model: Any = Stage if first == "stages" else Recipe.model_fields[first].annotation
    if first == "losses":
        model = find(f"hypersd.distill.losses.{rest.pop(0)}").Settings
    if rest:
        assert issubclass(model, BaseModel)
        assert rest[0] in model.model_fields


def test_every_key_of_a_recipe_is_explained():
    from hypersd import recipe

    keys = (ROOT / "docs" / "train.md").read_text().partition("## The keys")[2].partition("\n## ")[0]
    words = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]+)`", keys))))
    parts = (recipe.Recipe, recipe.Lora, recipe.Teacher, recipe.Draw, recipe.Optimiser, recipe.Stage)
    assert {key for part in parts for key in part.model_fields} - words == set()


def test_names_that_are_gone_are_noticed():
    find("hypersd.diffusion.segments.Segments.start")
    for gone in ("hypersd.diffusion.segments.Segments.begin", "hypersd.diffusion.no_such_file"):
        with pytest.raises(AttributeError):
            find(gone)


def test_the_file_map_of_the_readme_has_a_line_for_every_file():
    """A folder's `__init__.py` needs none when it holds only a docstring."""
    assert README.is_file(), "README.md is missing"
    code = (ROOT / "hypersd").rglob("*.py")
    files = {path for path in code if path.name != "__init__.py" or holds_code(path)}
    lines = MAP_LINE.findall(README.read_text())
    listed = [name for name, _ in lines]
    assert sorted(set(listed)) == sorted(listed), "a file is listed twice"
    assert {str(path.relative_to(ROOT)) for path in files} - set(listed) == set(), "not in the file map"
    assert [name for name in listed if not (ROOT / name).is_file()] == [], "in the file map, but gone"
    assert [name for name, what in lines if len(what.strip(" |—–:-")) < 8] == [], "says too little"


def holds_code(path: Path) -> bool:
    return len(ast.parse(path.read_text()).body) > 1


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document):
    targets = [markdown or html for markdown, html in LINK.findall(without_code(document.read_text()))]
    here = [target.partition("#") for target in targets if not re.match(r"\w+:", target)]
    files = {(document.parent / file if file else document, anchor) for file, _, anchor in here}
    assert [file for file, _ in files if not file.exists()] == []
    assert [(file.name, anchor) for file, anchor in files if anchor and anchor not in headings(file)] == []


def headings(document: Path) -> set[str]:
    """Of a page, as links name them."""
    titles = re.findall(r"^#+ (.*)$", without_code(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)
