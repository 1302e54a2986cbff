"""How verbs end: a user's mistake is one line and exit code 2, a failure one line and 1, Ctrl-C 130."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

MISTAKE, FAILURE, INTERRUPTED = 2, 1, 130
QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}

SMALLER = "draw fewer or smaller pictures, or train with a smaller batch or micro_batch, or lora.fold=false"
INSTALL = "the judges and `hypersd evaluate` need `pip install 'hyper-sd[eval]'`"


class Verbs(TyperGroup):
    """The group of all verbs: what one of them raises ends as one line."""

    def invoke(self, ctx: Any) -> Any:
        debug = bool(ctx.params.get("debug"))
        try:
            with quiet(debug):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            say("stopped")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except expected() as error:
            if debug:
                raise
            say(words(error), "error")
            raise typer.Exit(MISTAKE if isinstance(error, ValueError) else FAILURE) from None


def expected() -> tuple[type[Exception], ...]:
    """What may happen though nothing is wrong with the code."""
    return (ValueError, OSError, FloatingPointError, ImportError, *out_of_memory())


def out_of_memory() -> tuple[type[Exception], ...]:
    """Python's error, and torch's where a verb has imported torch: it must not be imported just to ask."""
    torch = sys.modules.get("torch")
    return (MemoryError, torch.OutOfMemoryError) if torch else (MemoryError,)


def words(error: Exception) -> str:
    """What happened and, where the error itself does not say, what to do."""
    if isinstance(error, out_of_memory()):
        return f"out of memory ({str(error).partition('. ')[0] or type(error).__name__}); {SMALLER}"
    if isinstance(error, ImportError):
        return f"{error}; {INSTALL}"
    return str(error) or type(error).__name__


@contextmanager
def quiet(debug: bool) -> Iterator[None]:
    """Our warnings become one-line notices, each once; libraries keep their advice to themselves."""
    if debug:
        yield
        return
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    said: set[str] = set()

    def notice(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if category is UserWarning and str(message) not in said:
            said.add(str(message))
            say(str(message), "notice")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = notice
        yield


def say(message: str, kind: str = "") -> None:
    """One line on stderr."""
    line = " ".join(message.split())
    typer.secho(f"{kind}: {line}" if kind else line, fg="red" if kind == "error" else None, err=True)


def wants_traceback(arguments: Sequence[str]) -> bool:
    return "--debug" in arguments or os.environ.get("HYPERSD_DEBUG", "") not in ("", "0")
