"""What every executor has in common: results in the order of the tasks, each task done on one thread.

An executor calls ``function(context, task)`` for each of many tasks. ``function`` is importable, ``context`` (what all
tasks share) and the tasks pickle; what comes back is yielded in the order of the tasks, whoever finished first. So
whoever reads the results sees what a plain loop would have given. Sums of floating-point numbers depend on how many
threads they were split over, hence one thread everywhere: more processes, never other bytes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import threadpoolctl

from groundswell.errors import UsageError

Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")
Item = TypeVar("Item")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Lost:
    """In place of a result: the worker that had the task is gone, and how it ended."""

    reason: str


class Executor(Protocol):
    """Does many tasks; see the module."""

    def map(
        self, function: Callable[[Context, Task], Result], context: Context, tasks: Iterable[Task]
    ) -> Generator[Result | Lost, None, None]:
        """Yield ``function(context, task)`` for each task, in order, or `Lost` where a worker died with it.

        Tasks are drawn a little ahead of what is yielded. Closing the generator stops the workers. What the function
        raises is raised here, when the turn of its task has come.
        """


@dataclass(frozen=True, slots=True)
class Serial:
    """Does every task in this process, when its result is asked for."""

    def map(
        self, function: Callable[[Context, Task], Result], context: Context, tasks: Iterable[Task]
    ) -> Generator[Result | Lost, None, None]:
        """As `Executor.map`."""
        with single_threaded():
            for task in tasks:
                yield function(context, task)


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread for BLAS, OpenMP and torch in this process and in those it starts meanwhile."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    torch = sys.modules.get("torch")  # unless it is there already, the variables will tell it
    threads = None if torch is None else torch.get_num_threads()
    try:
        with threadpoolctl.threadpool_limits(1):
            if torch is not None:
                torch.set_num_threads(1)
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(threads)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True, slots=True)
class Share:
    """Task ``index`` of ``count`` (from 0): what one task of an array has to do."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """``3/16``: share 3 of 16, counted from 0; `UsageError` for anything else."""
        match = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise UsageError(
                f"{text!r} is no task", fix="write i/n with i from 0 to n - 1: --task 0/4 is the first of four"
            )
        return cls(int(match[1]), int(match[2]))

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every ``count``-th item from ``index`` on: all shares together are all items, each once."""
        return items[self.index :: self.count]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def cores() -> int:
    """How many processes this one may run at a time: the cores that it is allowed to use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
