"""A signal asks; the loop answers between two steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from groundswell import distributed

REPEAT_S = 2.0
"""Where a launcher started the process: Ctrl-C reaches both, and the launcher passes it on so much later, at most."""


@dataclass
class StopRequest:
    """Which signal has asked this process to stop, by its number; 0 for none."""

    number: int = 0


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Catch SIGTERM (Slurm, a shutdown) and SIGINT (Ctrl-C) as requests; a second one acts at once, as usual.

    Where a launcher has started several processes, what comes within `REPEAT_S` is no second one but its echo.

    Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    wanted = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in wanted}

    patience = REPEAT_S if distributed.launched()[1] > 1 else 0.0
    came: dict[int, float] = {}

    def note(number: int, frame: FrameType | None) -> None:
        request.number = number
        if time.monotonic() - came.setdefault(number, time.monotonic()) <= patience:
            return
        handler = before[signal.Signals(number)]
        signal.signal(number, handler)
        signal.raise_signal(number)

    for number in wanted:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
