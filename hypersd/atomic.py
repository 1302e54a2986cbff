"""Files and folders that appear whole or not at all: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LEFTOVER = re.compile(r"\..+\.\d+\.tmp")


def write_bytes(path: Path, data: bytes) -> None:
    """Raises OSError with one line (a full disk, say), and leaves what was at `path` untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror}; nothing was changed") from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def move(source: Path, path: Path) -> None:
    """Gives a whole file its place. Raises OSError with one line."""
    try:
        os.replace(source, path)
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror}; nothing was changed") from error
    _sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` once it is full. Raises OSError with one line.

    Killed in between, there is the old one, the new one or, for an instant, none.
    """
    temporary = beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            _sync(file)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)


def write_json(path: Path, value: Any, indent: int | None = 1, sort: bool = True) -> None:
    """With `indent` None without a space: rows of numbers are not for people to read."""
    separators = (",", ":") if indent is None else None
    write_bytes(path, (json.dumps(value, indent=indent, sort_keys=sort, separators=separators) + "\n").encode())


def append(path: Path, line: str) -> None:
    """Adds a line to a log, which a crash may leave half written. Raises OSError with one line."""
    try:
        with open(path, "ab") as file:
            file.write(f"{line}\n".encode())
    except OSError as error:
        raise OSError(f"could not write {path}: {error.strerror}") from error


def sweep(folder: Path) -> None:
    """Deletes what killed processes left half written in a folder that no other process writes to."""
    for path in folder.rglob(".*.tmp"):
        if LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """Where this process writes what is to become `path`; what is left there, `sweep` deletes."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _sync(path: Path) -> None:
    """A rename survives a power cut once its folder is on disk; where folders cannot be flushed it is whole anyway."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
