"""Weights and facts on disk: a file that is missing or damaged ends as one line that names it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

UNPACKED = (EOFError, gzip.BadGzipFile, zlib.error)
BROKEN = (SafetensorError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, ValueError, *UNPACKED)
"""What readers raise on a file that is not what it should be."""


@contextmanager
def readable(path: Path, remedy: str) -> Iterator[None]:
    """Around whatever reads and uses the file: raises FileNotFoundError or OSError, with the remedy."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {remedy}")
    try:
        yield
    except BROKEN as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = f"no {first} in it" if isinstance(error, KeyError) else first
        raise OSError(f"{path} is damaged ({why}); {remedy}") from error


def read(path: Path, remedy: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a safetensors file."""
    with readable(path, remedy), safe_open(path, "pt") as file:
        return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def facts(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON file with keys at its top, gzipped where it is named .gz."""
    with readable(path, remedy):
        data = path.read_bytes()
        found = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
        if not isinstance(found, dict):
            raise ValueError("no keys in it")
        return found


def merges(path: Path, vocabulary: Container[str], remedy: str) -> list[tuple[str, str]]:
    """A byte-pair tokenizer's merges; with none in the file, the tokenizer would silently know letters only."""
    with readable(path, remedy):
        lines = [line.split() for line in path.read_text().split("\n") if line and not line.startswith("#version")]
        wrong = [line for line in lines if len(line) != 2 or "".join(line) not in vocabulary]
        if wrong or not lines:
            raise ValueError(f"{' '.join(wrong[0])!r} is no merge" if wrong else "no merges in it")
        return [(first, second) for first, second in lines]
