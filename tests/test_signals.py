"""Signals as requests: the first asks, a second Ctrl-C acts, and what a launcher passes on is no second one.

Around what is asked they end the block at once, and what was asked in vain does so, too.
"""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundswell import signals
from groundswell.errors import DivergedError, StoppedBySignal
from groundswell.signals import listening, stoppable

WHERE = Path("study")


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


def test_sigterm_only_asks_however_often_it_comes() -> None:
    """Slurm sends one ahead of the end of a job and one when it preempts it, while a checkpoint is being saved."""
    acted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: acted.append(number))

    def work() -> None:
        with listening() as request:
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            assert request.number == signal.SIGTERM
            raise StoppedBySignal("stopped")

    try:
        with pytest.raises(StoppedBySignal):
            work()
        assert acted == []
        signal.raise_signal(signal.SIGTERM)
        assert acted == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_block_that_can_be_stopped_ends_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def work() -> None:
        with stoppable(WHERE, fix="again"):
            signal.raise_signal(number)
            pytest.fail("it went on")

    with pytest.raises(StoppedBySignal) as caught:
        work()
    assert caught.value.details() == [("where", "study"), ("fix", "again")]
    assert caught.value.what == f"stopped by {number.name}"
    assert signal.getsignal(number) is before


def test_a_stage_of_a_block_says_why_as_it_is_then_and_the_block_what_to_do() -> None:
    written: list[str] = []

    def work() -> None:
        with stoppable(WHERE, "the whole again"), stoppable(Path("archive"), "again", lambda: f"{len(written)} shards"):
            written.append("a shard")
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it went on")

    with pytest.raises(StoppedBySignal, match="stopped by SIGINT") as caught:
        work()
    assert caught.value.details() == [("where", "archive"), ("why", "1 shards"), ("fix", "the whole again")]


def test_outside_the_main_thread_nothing_is_caught() -> None:
    def handlers() -> list[object]:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    found: list[object] = []

    def look() -> None:
        with stoppable(WHERE, fix="again"), listening():
            found.extend(handlers())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == handlers()


@pytest.mark.parametrize(
    ("number", "times", "heard"),
    [
        (signal.SIGINT, 1, [signal.SIGINT]),
        (signal.SIGINT, 2, [signal.SIGINT]),  # the second ends the block around before it is noted
        (signal.SIGTERM, 2, [signal.SIGTERM, signal.SIGTERM]),
    ],
)
@pytest.mark.parametrize("error", [None, DivergedError("the run has diverged")])
def test_what_was_asked_in_vain_and_a_second_ctrl_c_end_the_block_around(
    error: DivergedError | None, number: signal.Signals, times: int, heard: list[int]
) -> None:
    asked: list[int] = []

    def work() -> None:
        with stoppable(WHERE, fix="again"):
            with listening() as request:
                for _ in range(times):
                    signal.raise_signal(number)
                    asked.append(request.number)
                if error is not None:
                    raise error
            pytest.fail("it went on")

    with pytest.raises(StoppedBySignal, match=f"stopped by {number.name}"):
        work()
    assert asked == heard


def test_an_answer_leaves_the_block_around_with_what_to_do_there() -> None:
    def work() -> None:
        with stoppable(WHERE, fix="again"), listening():
            signal.raise_signal(signal.SIGTERM)
            raise StoppedBySignal("stopped by SIGTERM, with a checkpoint", where="run", fix="--resume")

    with pytest.raises(StoppedBySignal) as caught:
        work()
    what, where, fix = caught.value.what, caught.value.where, caught.value.fix
    assert (what, where, fix) == ("stopped by SIGTERM, with a checkpoint", "run", "again")
