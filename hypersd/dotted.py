"""A recipe's values: strict YAML, and what is put on top of it by dotted keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml


class _Once(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"{twice[0]!r} is given twice")
        return node


def read(text: str) -> Any:
    """What YAML says, each part a copy of its own. Raises yaml.YAMLError, also for a key that is given twice."""
    return own(yaml.load(text, _Once))


def wiped(values: Mapping[str, Any]) -> str:
    """What is wrong with the order of dotted keys, if one takes the place of what another set before."""
    keys = list(map(str, values))
    pairs = ((a, b) for index, b in enumerate(keys) for a in keys[:index] if a.startswith(f"{b}."))
    return next((f"{b!r} takes the place of {a!r} before it: put {a!r} after it" for a, b in pairs), "")


def own(value: Any) -> Any:
    """The same, each part a copy of its own: YAML's aliases are one object in all places, and so is a change to it."""
    if isinstance(value, dict):
        return {key: own(each) for key, each in value.items()}
    return [own(each) for each in value] if isinstance(value, list) else value


def put(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets what lies at a dotted path, places of lists among its parts. Raises ValueError where it leads nowhere."""
    *path, last = dotted.split(".")
    if path[:1] == ["losses"]:
        _check_loss(values.setdefault("losses", {"consistency": {}}), path[1:], dotted)
    here: Any = values
    for depth, part in enumerate(path, 1):
        here = here[_index(here, part, dotted)] if isinstance(here, list) else here.setdefault(part, {})
        if not isinstance(here, dict | list):
            raise ValueError(f"recipe key {dotted!r}: {part!r} has no keys below it")
        if part == "override" and isinstance(here, dict):
            _put_beside(here, ".".join([*path[depth:], last]), value)
            return
    here[_index(here, last, dotted) if isinstance(here, list) else last] = value


def _put_beside(override: dict[str, Any], dotted: str, value: Any) -> None:
    """Keys of an override are dotted paths themselves: into the one that leads there, else as one more."""
    leading = max((key for key in override if dotted.startswith(f"{key}.")), key=len, default=None)
    if leading is None:
        for below in [key for key in override if key.startswith(f"{dotted}.")]:
            del override[below]
        override[dotted] = value
    elif isinstance(override[leading], dict):
        rest = dotted.removeprefix(f"{leading}.")
        if leading == "losses":
            _check_loss(override[leading], rest.split(".")[:-1], dotted)
        put(override[leading], rest, value)
    else:
        raise ValueError(f"recipe key {dotted!r}: {leading!r} has no keys below it")


def _check_loss(losses: Any, path: Sequence[str], dotted: str) -> None:
    """Raises ValueError for a setting of a loss that is not there: nobody adds one by its guidance."""
    if path and isinstance(losses, dict) and path[0] not in losses:
        raise ValueError(
            f"recipe key {dotted!r}: there is no loss {path[0]!r} to change; name the stage that has it "
            f"(stages.N.override.losses.{path[0]}…, N from 0), or add it whole (losses.{path[0]}={{…}})"
        )


def _index(items: list, part: str, dotted: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ValueError(f"recipe key {dotted!r}: {part!r} is no index from 0 to {len(items) - 1}")
    return int(part)
