"""Progress that people can watch and logs can keep.

Library code writes ``with progress.bar("simulate", total=n, unit="images") as bar: bar.advance(k)``. Nothing is
shown until a front end chooses how: a rich bar on a terminal, a plain line every few seconds elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO


class Bar(Protocol):
    """What a running job reports to."""

    def advance(self, amount: float = 1) -> None:
        """Say that ``amount`` more units are done."""

    def note(self, text: str) -> None:
        """Show a short text beside the bar (a loss, a rate)."""


class Reporter(Protocol):
    """Makes bars."""

    def bar(self, description: str, total: float | None, unit: str) -> AbstractContextManager[Bar]:
        """A context manager that yields a `Bar`."""


class _Silent:
    def advance(self, amount: float = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class SilentReporter:
    """Shows nothing: the default of the library."""

    @contextmanager
    def bar(self, description: str, total: float | None, unit: str) -> Iterator[Bar]:
        yield _Silent()


class _Lines:
    """One plain line every ``every`` seconds, and one at the end."""

    def __init__(self, description: str, total: float | None, unit: str, out: TextIO, every: float) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.out, self.every = out, every
        self.done, self.text = 0.0, ""
        self.start = self.last = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        self.done += amount
        if time.monotonic() - self.last >= self.every:
            self.print()

    def note(self, text: str) -> None:
        self.text = text

    def print(self) -> None:
        self.last = time.monotonic()
        seconds = self.last - self.start
        rate = self.done / seconds if seconds > 0 else 0.0
        total = "" if self.total is None else f"/{self.total:g}"
        parts = [f"{self.description}: {self.done:g}{total} {self.unit}", f"{rate:.1f}/s", f"{seconds:.0f} s"]
        if self.total is not None and 0 < self.done < self.total:
            parts.append(f"{(self.total - self.done) / max(rate, 1e-9):.0f} s left")
        if self.text:
            parts.append(self.text)
        print(", ".join(parts), file=self.out, flush=True)


class LineReporter:
    """Plain lines for logs and pipes."""

    def __init__(self, out: TextIO | None = None, every: float = 10.0) -> None:
        self.out = out if out is not None else sys.stderr
        self.every = every

    @contextmanager
    def bar(self, description: str, total: float | None, unit: str) -> Iterator[Bar]:
        lines = _Lines(description, total, unit, self.out, self.every)
        yield lines
        if time.monotonic() - lines.start >= 2.0:
            lines.print()


class RichReporter:
    """A live bar with rate and time left, on a terminal."""

    @contextmanager
    def bar(self, description: str, total: float | None, unit: str) -> Iterator[Bar]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Task as RichTask
        from rich.progress import TimeRemainingColumn as Remaining
        from rich.text import Text

        class _Rate(ProgressColumn):
            def render(self, task: RichTask) -> Text:
                return Text("" if task.speed is None else f"{task.speed:.1f}/s")

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            _Rate(),
            TimeElapsedColumn(),
            Remaining(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as live:
            task = live.add_task(description, total=total, text="")

            class _Live:
                def advance(self, amount: float = 1) -> None:
                    live.advance(task, amount)

                def note(self, text: str) -> None:
                    live.update(task, text=text)

            yield _Live()


_reporter: Reporter = SilentReporter()


def use(reporter: Reporter) -> None:
    """Choose how progress is shown from here on, in this process."""
    global _reporter
    _reporter = reporter


def bar(description: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Bar]:
    """A bar of the chosen reporter, as a context manager."""
    return _reporter.bar(description, total, unit)


def is_shown() -> bool:
    """Whether a front end shows progress: False in the library and under ``--quiet``."""
    return not isinstance(_reporter, SilentReporter)
