"""What a person sees of a run: bars with loss and time left. Training itself only calls a `Watcher`."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from hypersd.recipe import Stage


@runtime_checkable
class Watcher(Protocol):
    def stage(self, index: int, stage: Stage, done: int) -> None:
        """A stage begins, or goes on at iteration `done`."""

    def update(self, iteration: int, loss: float, lr: float) -> None: ...

    def note(self, text: str) -> None:
        """Something a person should read: a file written, a warning."""


class Silent:
    """Watches nothing."""

    def stage(self, index: int, stage: Stage, done: int) -> None: ...

    def update(self, iteration: int, loss: float, lr: float) -> None: ...

    def note(self, text: str) -> None: ...


class Bars:
    """One progress bar a stage, with the loss (a moving average) and the time left."""

    def __init__(self, console: Any = None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.5f}  lr {task.fields[lr]:.1e}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task: Any = None
        self.loss: float | None = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *error: object) -> None:
        if self.task is not None:
            self.progress.stop()

    def stage(self, index: int, stage: Stage, done: int) -> None:
        self.loss = None
        self.progress.start()  # only now: a run that is refused shows no bars
        name = f"stage {index + 1}, {stage.segments} segment{'s' if stage.segments > 1 else ''}"
        self.task = self.progress.add_task(name, total=stage.iterations, completed=done, loss=0.0, lr=0.0)

    def update(self, iteration: int, loss: float, lr: float) -> None:
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        self.progress.update(self.task, completed=iteration, loss=self.loss, lr=lr)

    def note(self, text: str) -> None:
        self.progress.console.print(text)
