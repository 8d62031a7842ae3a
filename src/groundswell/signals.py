"""A signal asks; the loop answers between two steps. Around loops it ends what can be ended anywhere."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from groundswell.errors import StoppedBySignal

REPEAT_S = 2.0
"""Where a launcher started the process: Ctrl-C reaches both, and the launcher passes it on so much later, at most."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class StopRequest:
    """Which signal has asked this process to stop, by its number; 0 for none."""

    number: int = 0


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Catch SIGTERM (Slurm, a shutdown) and SIGINT (Ctrl-C) as requests; a second Ctrl-C acts at once, as usual.

    A second SIGTERM asks again: Slurm sends one ahead of the end of a job and another when it preempts it.

    A request that the block has not answered by `StoppedBySignal` goes to the handler of whoever is around it, as
    `stoppable`; not to those that Python begins with, for they would end a process whose work is done.

    Where a launcher has started several processes, what comes within `REPEAT_S` is no second one but its echo.

    Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    request = StopRequest()
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1  # as `groundswell.distributed` has it, without its torch
    patience = REPEAT_S if launched else 0.0
    first: float | None = None

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        request.number = number
        if number == signal.SIGTERM:
            return
        now = time.monotonic()
        first = now if first is None else first
        if now - first <= patience:
            return
        signal.signal(number, before[number])
        signal.raise_signal(number)

    try:
        with _handling(note):
            yield request
    except StoppedBySignal:
        request.number = 0
        raise
    finally:
        around = before.get(request.number)
        if callable(around) and around is not signal.default_int_handler:
            signal.raise_signal(request.number)


@contextmanager
def stoppable(where: Path, fix: str, why: Callable[[], str] | None = None) -> Iterator[None]:
    """SIGTERM and SIGINT end the block at once, by `StoppedBySignal`; what is `listening` in it is asked first.

    ``why`` is asked once the block has ended. A `StoppedBySignal` of the block leaves it as it is but for ``fix``.
    Outside the main thread nothing is caught.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        # No Exception: whoever sums up the errors of a run must not take it for one of them.
        raise KeyboardInterrupt(signal.Signals(number).name)

    try:
        with _handling(stop):
            yield
    except KeyboardInterrupt as error:
        name = error.args[0] if error.args else signal.SIGINT.name
        known = None if why is None else why()
        raise StoppedBySignal(f"stopped by {name}", where=where, why=known, fix=fix) from None
    except StoppedBySignal as error:
        raise StoppedBySignal(error.what, where=error.where, why=error.why, fix=fix) from error


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Give the signals to a handler, where Python allows it: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
