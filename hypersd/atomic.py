"""Files that appear whole or not at all: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

LEFTOVER = re.compile(r"\..+\.\d+\.tmp")


def write_bytes(path: Path, data: bytes) -> None:
    """Raises OSError with one line (a full disk, say), and leaves what was at `path` untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


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
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut once its folder is on disk; where folders cannot be flushed it is whole anyway."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
