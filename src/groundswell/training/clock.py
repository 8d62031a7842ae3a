"""The times of a run: how long a step takes, how much of it is waiting for data, when to save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from groundswell.training.recipe import CheckpointSettings


class Clock:
    """Measures the steps between two readings.

    Attributes
    ----------
    step_seconds : float
        Duration of the last step, with all that came with it.
    """

    def __init__(self, settings: CheckpointSettings) -> None:
        self.settings = settings
        self.step_seconds = 0.0
        self._tick = self._read = self._saved = time.monotonic()
        self._waited = 0.0
        self._images = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        start = time.monotonic()
        yield
        self._waited += time.monotonic() - start

    def tick(self, images: int) -> None:
        """A step has ended, and it has used so many images."""
        now = time.monotonic()
        self.step_seconds = now - self._tick
        self._tick = now
        self._images += images

    def read(self) -> dict[str, float]:
        """Images per second, and the fraction of time spent waiting for data, since the last reading."""
        now = time.monotonic()
        seconds = max(now - self._read, 1e-9)
        figures = {"images_per_s": self._images / seconds, "data_wait": self._waited / seconds}
        self._read, self._waited, self._images = now, 0.0, 0
        return figures

    def save_is_due(self, step: int) -> bool:
        """Whether to save after ``step``."""
        if self.settings.steps is not None:
            return step % self.settings.steps == 0
        return time.monotonic() - self._saved >= 60.0 * self.settings.minutes

    def saved(self) -> None:
        """A checkpoint has been written."""
        self._saved = time.monotonic()
