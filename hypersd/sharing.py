"""Files that several processes make together, each by the first to claim it, and folders that one alone writes into.

A claim is a lock on a file beside it, which ends with the process that holds it. Where a file system knows no locks
everyone makes everything, and the last rename stands: slower, and as right.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL = 0.2  # seconds


def have(file: Path, make: Callable[[], None], wait: bool = True) -> bool:
    """Whether the file is there, made now if need be. False if another process is at it and `wait` is off."""
    if file.is_file():
        return True
    with claimed(file, wait) as mine:
        if mine and not file.is_file():
            make()
        return mine


@contextmanager
def claimed(file: Path, wait: bool) -> Iterator[bool]:
    """Whether this process alone may make the file; with `wait`, once it may."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_suffix(".lock")
    while True:
        with open(lock, "w") as held:
            if _locked(held.fileno()) and _stands(held.fileno(), lock):
                try:
                    yield True
                finally:
                    lock.unlink(missing_ok=True)
                return
        if not wait:
            yield False
            return
        time.sleep(POLL)


def _stands(descriptor: int, lock: Path) -> bool:
    """Whether it is the file that others lock as well, not one that its last owner has deleted meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks here
        pass
    return True
