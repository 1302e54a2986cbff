"""Files that wait until what they hold is known to be sound.

Weights that an optimiser has just made were never looked at: they may be finite and still ruined. So a checkpoint, or
a best student, is written beside its place, and takes it once the next update's losses and gradients were numbers.
"""

from __future__ import annotations

from pathlib import Path

from hypersd import atomic


class Unproven:
    def __init__(self) -> None:
        self._waiting: list[Path] = []

    def place(self, path: Path) -> Path:
        """Where to write what is to become `path`."""
        self._waiting.append(path)
        return atomic.beside(path)

    def keep(self) -> None:
        """They are sound: each takes its place."""
        for path in self._waiting:
            atomic.move(atomic.beside(path), path)
        self._waiting.clear()

    def drop(self) -> None:
        for path in self._waiting:
            atomic.beside(path).unlink(missing_ok=True)
        self._waiting.clear()
