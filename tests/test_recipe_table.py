"""The one table of recipes/README.md: every field in which the rivals differ, as their recipes say it.

Rewrite it with `python -m tests.test_recipe_table`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from hypersd import recipe
from hypersd.distill import losses
from hypersd.recipe import Recipe

RECIPES = Path(__file__).parents[1] / "recipes"
PAGE = RECIPES / "README.md"
RIVALS = ("lcm", "tcd", "pcm", "lightning", "dmd2", "tscd", "hyper")
NONE = "–"
VISITING = ("draw.samplers", "draw.steps", "draw.eta")
"""What says nothing where no sampler is visited."""

ALWAYS = (
    "teacher.guidance",
    "losses.adversarial.updates",
    *(f"losses.score.{key}" for key in ("weight", "updates", "fake.lr")),
)
"""What is looked for, though it is alike in all that have it."""


def flat(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def stages(made: Recipe) -> Iterator[dict[str, Any]]:
    """Each stage's settings by dotted key, those of its losses with what they are unless said."""
    for index, stage in enumerate(made.stages):
        values = made.at(index).model_dump(mode="json", exclude={"name", "stages", "losses"})
        values["sampler"].pop("hint")
        told = {name: losses.load(name, given).settings.model_dump() for name, given in made.at(index).losses.items()}
        own = {"segments": stage.segments, "iterations": stage.iterations, "losses": " + ".join(sorted(told))}
        found = dict(flat({**values, "losses": told})) | own
        idle = [*(VISITING if not found["draw.visited_share"] else ())]
        idle += ["teacher.guidance"] if found["teacher.follow"] == "previous" else []
        yield found | dict.fromkeys(idle, NONE)


def cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(cell, value)) if value else NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NONE if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def over_stages(values: list[str]) -> str:
    """From stage to stage, with how many are alike in a row."""
    if len(set(values)) == 1:
        return values[0]
    runs = [(value, len(list(same))) for value, same in groupby(values)]
    return " → ".join(value if count == 1 else f"{value} ×{count}" for value, count in runs)


def table() -> list[str]:
    """A row for each key in which the rivals differ; of a loss, those that have it."""
    found = [list(stages(recipe.load(RECIPES / f"{name}.yaml"))) for name in RIVALS]
    keys = dict.fromkeys(key for rival in found for stage in rival for key in stage)
    rows = {key: [[cell(stage.get(key)) for stage in rival] for rival in found] for key in sorted(keys)}
    differ = [key for key, row in rows.items() if len({value for rival in row for value in rival} - {NONE}) > 1]
    differ += [*ALWAYS, *(key for key, row in rows.items() if key.startswith("sampler.") and {NONE} in map(set, row))]
    first = ("segments", "iterations", "draw.", "teacher.", "losses")
    order = sorted(sorted(set(differ)), key=lambda key: [not key.startswith(part) for part in first])
    head = [f"| | {' | '.join(f'[{name}]({name}.yaml)' for name in RIVALS)} |", "|---" * (len(RIVALS) + 1) + "|"]
    return head + [f"| `{key}` | {' | '.join(map(over_stages, rows[key]))} |" for key in order]


def test_the_table_has_every_field_in_which_the_rivals_differ_as_their_recipes_say_it():
    lines = PAGE.read_text().splitlines()
    begins = lines.index(table()[0])
    assert lines[begins : lines.index("", begins)] == table()


def test_a_method_is_data_of_under_forty_lines():
    for name in RIVALS:
        assert len((RECIPES / f"{name}.yaml").read_text().splitlines()) < 40


if __name__ == "__main__":
    lines = PAGE.read_text().splitlines()
    begins = next(index for index, line in enumerate(lines) if line.startswith("| | [lcm]"))
    lines[begins : lines.index("", begins)] = table()
    PAGE.write_text("\n".join(lines) + "\n")
