"""Every write, sync and rename of an ingest fails once, and the power fails at many: what is committed is never lost.

The archive is small, but has every kind of file: pixels, masks, boxes, failures, parts, of two shards; the second
time it is finished from pending shards, one of which holds a duplicate of another.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fake_source import FakeSource

import crash
from groundswell.archive import writer
from groundswell.archive.ingest import ingest, ingest_share, plan_ingest
from groundswell.archive.planning import Options
from groundswell.archive.reader import open_archive
from groundswell.archive.schema import is_archive
from groundswell.archive.writer import _NpyRows
from groundswell.errors import GroundswellError
from groundswell.executors.tasks import Share

SOURCE = FakeSource(count=8, size=(4, 5), bad={1: "unreadable", 6: "nan"}, same={5: 3})
ROWS = 4
NAMED = {"eio": "Input/output error", "enospc": "No space left on device"}


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """What the disk does is modelled here; asking the real one to sync some thousand files would take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def from_nothing(path: Path) -> None:
    """An ingest in one go."""
    ingest(SOURCE, path, shard_rows=ROWS, batch=2)


def array(path: Path) -> None:
    """What the tasks of an array leave: everything pending."""
    plan_ingest(SOURCE, path, Options(shard_rows=ROWS))
    for index in (1, 0):
        ingest_share(SOURCE, path, Share(index, 2), Options(shard_rows=ROWS), batch=2)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "archive"
    from_nothing(path)
    assert open_archive(path).verify() == []
    return path


@pytest.fixture(scope="module")
def pending(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pending") / "archive"
    array(path)
    return path


Begin = Callable[[Path], None]


@pytest.fixture(params=["from nothing", "from pending shards"])
def begin(request: pytest.FixtureRequest, pending: Path) -> Begin:
    """Puts an archive to be finished into a folder."""
    if request.param == "from nothing":
        return lambda path: shutil.rmtree(path, ignore_errors=True)

    def copy(path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(pending, path)

    return copy


def check(path: Path, reference: Path) -> None:
    """What is committed is what the reference has there, and a second run makes it the reference."""
    if is_archive(path):
        left, full = open_archive(path), open_archive(reference)
        # A run that ended between the last part and the statistics says so, and nothing else.
        assert {damage.file for damage in left.verify()} <= {"statistics.json"}
        for record in left.records:
            ours, theirs = left.where(f"shard == {record.shard}"), full.where(f"shard == {record.shard}")
            assert ours.catalogue.equals(theirs.catalogue)
            np.testing.assert_array_equal(ours.read(slice(None)), theirs.read(slice(None)))
    from_nothing(path)
    assert crash.tree(path) == crash.tree(reference)


def counted(begin: Begin, path: Path) -> dict[str, int]:
    begin(path)
    with crash.trapped() as trap:
        from_nothing(path)
    return trap.counts


@pytest.mark.parametrize(("kind", "what"), [("write", "enospc"), ("fsync", "eio"), ("replace", "eio")])
def test_whatever_call_fails_is_named_and_nothing_whole_is_lost(
    kind: str, what: str, begin: Begin, tmp_path: Path, reference: Path
) -> None:
    path = tmp_path / "archive"
    calls = counted(begin, path)[kind]
    assert calls > 5
    for number in range(1, calls + 1):
        begin(path)
        with (
            crash.trapped(f"{kind}:{what}:{number}"),
            pytest.raises(GroundswellError, match=r"could not (write|delete) a file") as error,
        ):
            from_nothing(path)
        assert error.value.why == NAMED[what], number
        assert Path(str(error.value.where)).is_relative_to(path)
        assert not list(path.rglob("*.tmp"))
        check(path, reference)


def test_whichever_write_is_short_nothing_changes(begin: Begin, tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "archive"
    for number in range(1, counted(begin, path)["write"] + 1):
        begin(path)
        with crash.trapped(f"write:short:{number}"):
            from_nothing(path)
        assert crash.tree(path) == crash.tree(reference), number


def lose_power(begin: Begin, path: Path, reference: Path, *, lying: bool = False) -> int:
    """Fail the power at every third call, with and without the renames that were not synced; how often."""
    counts, failures = counted(begin, path), 0
    points = [f"{kind}:power:{number}" for kind in counts for number in range(1, counts[kind] + 1)]
    for i, point in enumerate(points[::3]):
        begin(path)
        with crash.trapped(point, lying=lying) as trap, pytest.raises(crash.PowerLost):
            from_nothing(path)
        trap.lose(names_too=i % 2 == 0)
        check(path, reference)
        failures += 1
    return failures


def test_a_power_failure_loses_nothing_that_was_committed(begin: Begin, tmp_path: Path, reference: Path) -> None:
    assert lose_power(begin, tmp_path / "archive", reference) > 10


def test_the_power_check_fails_on_a_disk_that_only_says_it_synced(
    begin: Begin, tmp_path: Path, reference: Path
) -> None:
    """Negative control: without the effect of fsync, the same failures must be found harmful."""
    with pytest.raises((AssertionError, GroundswellError)):
        lose_power(begin, tmp_path / "archive", reference, lying=True)


def test_the_power_check_fails_where_the_part_is_committed_before_its_pixels_are_durable(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: a writer that is right but for the one fsync of its pixels."""

    @contextmanager
    def unsynced(path: Path, dtype: str, row_shape: tuple[int, ...], planned: int) -> Iterator[_NpyRows]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".new").open("wb") as handle:
            rows = _NpyRows(handle, dtype, row_shape, planned)
            yield rows
            rows.finish()
        path.with_suffix(".new").replace(path)

    def begin(path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)

    monkeypatch.setattr(writer, "_npy_rows", unsynced)
    path = tmp_path / "archive"
    from_nothing(path)
    assert crash.tree(path) == crash.tree(reference)  # without a failure, nobody can tell
    with pytest.raises((AssertionError, GroundswellError)):
        lose_power(begin, path, reference)
