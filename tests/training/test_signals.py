"""Signals as requests: the first asks, a second acts, and what a launcher passes on is no second one."""

import signal
from collections.abc import Iterator

import pytest

from groundswell.training import signals
from groundswell.training.signals import listening


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Python's own: a shell that starts the tests in the background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_asks_and_the_second_acts() -> None:
    with listening() as request:
        assert request.number == 0
        signal.raise_signal(signal.SIGINT)
        assert request.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_of_launched_processes_an_echo_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with listening() as request:
        signal.raise_signal(signal.SIGINT)
        now[0] += 0.9 * signals.REPEAT_S
        signal.raise_signal(signal.SIGINT)
        assert request.number == signal.SIGINT
        now[0] += 0.2 * signals.REPEAT_S
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
