"""The time of a run, as its processes agree on it: how far it is, how long a step takes, when to save, when to stop.

All that follows from the time (the end of a run in minutes, its schedules, the next save) and from signals must be the
same in every process, or they would wait for each other for ever. So before and after each step the first process tells
the others its time, and a signal that one has got counts for all.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from groundswell import distributed
from groundswell.signals import StopRequest
from groundswell.training.recipe import CheckpointSettings


class Clock:
    """Agrees on the time, and spends it.

    Parameters
    ----------
    settings : CheckpointSettings
    started : float
        `time.monotonic` when the run began (as if it had run ever since).
    request : StopRequest
        The signals of this process.

    Attributes
    ----------
    elapsed : float
        Seconds spent on the run at the last agreement.
    signal : str or None
        The name of the signal that asked any of the processes to stop.
    """

    def __init__(self, settings: CheckpointSettings, started: float, request: StopRequest) -> None:
        self.settings = settings
        self.started = started
        self.request = request
        self._waited = 0.0
        self._images = 0
        self.agree()
        self._read = self._saved = self.elapsed

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def tick(self, images: int) -> float:
        """A step has ended, which began at the last agreement, and it has used so many images; its seconds."""
        begun = self.elapsed
        self.agree()
        self._images += images
        return self.elapsed - begun

    def agree(self) -> None:
        """Take the time of the first process, and the signals of all."""
        now = time.monotonic() - self.started if distributed.is_first() else -math.inf
        both = distributed.maximum(torch.tensor([now, self.request.number], dtype=torch.float64))
        self.elapsed, number = float(both[0]), int(both[1])
        self.signal = signal.Signals(number).name if number else None

    def read(self) -> dict[str, float]:
        """Images per second, and the fraction of time spent waiting for data, since the last reading."""
        seconds = max(self.elapsed - self._read, 1e-9)
        figures = {"images_per_s": self._images / seconds, "data_wait": self._waited / seconds}
        self._read, self._waited, self._images = self.elapsed, 0.0, 0
        return figures

    def save_is_due(self, step: int) -> bool:
        """Whether to save after ``step``."""
        if self.settings.steps is not None:
            return step % self.settings.steps == 0
        return self.elapsed - self._saved >= 60.0 * self.settings.minutes

    def saved(self) -> None:
        """A checkpoint has been written."""
        self._saved = self.elapsed
