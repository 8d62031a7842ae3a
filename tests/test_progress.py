"""Progress: silent by default, plain lines in a pipe, a bar on a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from groundswell import progress


@pytest.fixture(autouse=True)
def _silent_again() -> Iterator[None]:
    yield
    progress.use(progress.SilentReporter())


class Clock:
    """A clock that moves when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def test_the_library_is_silent_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.bar("work", total=3, unit="images") as bar:
        bar.advance(3)
        bar.note("done")
    assert capfd.readouterr() == ("", "")


def test_lines_come_every_so_often_with_rate_and_time_left(clock: Clock) -> None:
    out = io.StringIO()
    progress.use(progress.LineReporter(out, every=10.0))
    with progress.bar("ingest", total=200, unit="images") as bar:
        bar.advance(10)
        assert out.getvalue() == ""
        clock.now += 10
        bar.advance(40)
        assert out.getvalue() == "ingest: 50/200 images, 5.0/s, 10 s, 30 s left\n"  # 150 to go at 5 a second
        bar.note("loss 0.5")
        clock.now += 5
        bar.advance(50)
        clock.now += 5
        bar.advance(100)
    lines = out.getvalue().splitlines()
    assert lines[1:] == ["ingest: 200/200 images, 10.0/s, 20 s, loss 0.5"] * 2


def test_short_work_prints_nothing_and_unknown_length_no_time_left(clock: Clock) -> None:
    out = io.StringIO()
    progress.use(progress.LineReporter(out, every=10.0))
    with progress.bar("quick", total=1) as bar:
        clock.now += 1.9
        bar.advance()
    assert out.getvalue() == ""
    with progress.bar("open", unit="steps") as bar:
        clock.now += 4
        bar.advance(2)
    assert out.getvalue() == "open: 2 steps, 0.5/s, 4 s\n"


def test_the_terminal_bar_counts(capfd: pytest.CaptureFixture[str]) -> None:
    progress.use(progress.RichReporter())
    with progress.bar("ingest", total=7, unit="images") as bar:
        bar.advance(3)
        bar.note("half way")
        bar.advance(4)
    out, err = capfd.readouterr()
    assert out == ""
    for text in ("ingest", "7/7", "images", "/s", "half way"):
        assert text in err
