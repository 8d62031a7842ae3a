"""Whoever does the work, in whatever order, with whatever losses: the same bytes, and the same duplicates."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_source import FakeSource
from hypothesis import given, settings
from hypothesis import strategies as st

import crash
from groundswell.archive.ingest import ingest, ingest_share, plan_ingest
from groundswell.archive.planning import Options
from groundswell.archive.reader import open_archive
from groundswell.archive.schema import pending_file, shard_file
from groundswell.errors import DataError, GroundswellError, StoppedBySignal, UsageError
from groundswell.executors.dask import Dask
from groundswell.executors.local import Local
from groundswell.executors.tasks import Executor, Lost, Serial, Share
from groundswell.locks import LOCK_FILE, held
from groundswell.physics.imagette import Imagette
from groundswell.products.source import Rejected

# Shards of six: item 11 repeats 10 in its shard, 14 and 25 repeat an item of an earlier one, 20 the rejected item 3.
SOURCE = FakeSource(count=30, bad={3: "unreadable", 5: "nan", 11: "twin"}, same={14: 2, 20: 3, 25: 2, 26: 3})
ROWS = 6


def options(rows: int = ROWS) -> Options:
    return Options(shard_rows=rows)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serial") / "archive"
    report = ingest(SOURCE, path, shard_rows=ROWS, batch=4)
    assert [(d.id[-2:], d.reason[-2:]) for d in report.duplicates] == [
        ("11", "10"),
        ("14", "02"),
        ("25", "02"),
        ("26", "20"),
    ]
    return path


@pytest.mark.parametrize(
    "executor", [Local(2, patience_s=0), Local(3, patience_s=0), Dask(workers=2)], ids=["two", "three", "dask"]
)
def test_executors_write_the_same_bytes(executor: Executor, serial: Path, tmp_path: Path) -> None:
    report = ingest(SOURCE, tmp_path / "a", shard_rows=ROWS, batch=4, executor=executor)
    assert crash.tree(tmp_path / "a") == crash.tree(serial)
    assert (report.written, report.resumed_shards) == (24, 0)
    again = ingest(SOURCE, tmp_path / "a", shard_rows=ROWS, batch=4, executor=executor)
    assert again.resumed_shards == again.shards == 5


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_tasks_of_an_array_write_the_same_bytes(order: Sequence[int], serial: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert plan_ingest(SOURCE, path, options()) == 5
    for index in order:
        ingest_share(SOURCE, path, Share(index, 3), options(), batch=4)
        assert len(open_archive(path)) == 0  # nothing counts before its duplicates are known
    assert ingest_share(SOURCE, path, Share(0, 3), options()) == []
    assert plan_ingest(SOURCE, path, options()) == 0
    report = ingest(SOURCE, path, shard_rows=ROWS, batch=4)
    assert report.resumed_shards == 5
    assert crash.tree(path) == crash.tree(serial)


@dataclass
class Losing:
    """Does tasks in this process, but for those whose turn (counted over all calls) is in ``losses``."""

    losses: set[int]
    turn: int = 0

    def map(
        self, function: Callable[[Any, Any], Any], context: Any, tasks: Iterable[Any]
    ) -> Generator[Any, None, None]:
        for task in tasks:
            self.turn += 1
            yield (
                Lost("worker 1 (process 1) was ended by SIGKILL")
                if self.turn in self.losses
                else function(context, task)
            )


def expected(source: FakeSource) -> list[tuple[str, str]]:
    """(id, its fate) by the rule alone: rejected on its own account, else the first of its content is stored."""
    first: dict[int, str] = {}
    fates = []
    for index, id_ in enumerate(source.ids()):
        content = source.same.get(index, index)
        if index in source.bad:
            fates.append((id_, "rejected"))
        elif content in first:
            fates.append((id_, f"same content as {first[content]}"))
        else:
            first[content] = id_
            fates.append((id_, "stored"))
    return fates


@settings(max_examples=12)
@given(st.data())
def test_any_history_ends_in_the_same_bytes(data: st.DataObject) -> None:
    """Tasks in any order, runs that lose workers anywhere, then a plain run: as if none of it had happened."""
    count, rows = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 4))
    source = FakeSource(
        count=count,
        size=(3, 3),
        mask_names=(),
        bad=data.draw(st.dictionaries(st.integers(0, count - 1), st.just("nan"), max_size=4)),
        same=data.draw(st.dictionaries(st.integers(0, count - 1), st.integers(0, min(3, count - 1)), max_size=8)),
    )
    with tempfile.TemporaryDirectory() as folder:
        calm, wild = Path(folder) / "calm", Path(folder) / "wild"
        ingest(source, calm, size=(3, 3), shard_rows=rows, batch=2)
        plan_ingest(source, wild, Options((3, 3), shard_rows=rows))
        shares = data.draw(st.integers(1, 4))
        steps = st.one_of(st.integers(0, shares - 1), st.none())
        for step in data.draw(st.lists(steps, max_size=5)):
            executor = Losing(data.draw(st.sets(st.integers(1, 8), max_size=3)))
            try:
                if step is None:
                    ingest(source, wild, size=(3, 3), shard_rows=rows, batch=2, executor=executor)
                else:
                    wanted = Options((3, 3), shard_rows=rows)
                    ingest_share(source, wild, Share(step, shares), wanted, batch=2, executor=executor)
            except GroundswellError as error:
                if "could not be written" not in error.what or "SIGKILL" not in str(error.why):
                    raise
            kept = set(open_archive(wild).catalogue["id"])
            assert kept <= {id_ for id_, fate in expected(source) if fate == "stored"}
        ingest(source, wild, size=(3, 3), shard_rows=rows, batch=2)
        assert crash.tree(wild) == crash.tree(calm)
        report = ingest(source, wild, size=(3, 3), shard_rows=rows, batch=2)
        found = {r.id: "rejected" for r in report.rejected} | {d.id: d.reason for d in report.duplicates}
        found |= dict.fromkeys(open_archive(wild).catalogue["id"], "stored")
        assert sorted(found.items()) == expected(source)


def test_a_lost_worker_is_named_its_shard_unwritten_and_the_others_kept(
    serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    monkeypatch.setenv("FAKE_SOURCE_DIES", f"8:{tmp_path / 'died'}")
    with pytest.raises(GroundswellError, match="1 of 5 shards could not be written") as error:
        ingest(SOURCE, path, shard_rows=ROWS, batch=4, executor=Local(2, patience_s=0))
    why = str(error.value.why)
    assert why.startswith("shard 1: worker ")
    assert why.endswith("was ended by SIGKILL, while it had item-00006 ... item-00009")
    assert not (path / shard_file(1)).exists()
    assert not list(path.rglob("*.tmp"))
    archive = open_archive(path)
    assert (len(archive), archive.complete, archive.verify()) == (4, False, [])
    assert [(path / pending_file(shard)).is_file() for shard in range(5)] == [False, False, True, True, True]
    report = ingest(SOURCE, path, shard_rows=ROWS, batch=4)
    assert report.resumed_shards == 4
    assert crash.tree(path) == crash.tree(serial)


def test_a_pending_shard_with_damage_is_written_anew(serial: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    plan_ingest(SOURCE, path, options())
    for index in range(2):
        ingest_share(SOURCE, path, Share(index, 2), options())
    (path / shard_file(1)).write_bytes(b"")
    (path / pending_file(2)).write_bytes(b"PAR1")
    assert plan_ingest(SOURCE, path, options()) == 2
    ingest(SOURCE, path, shard_rows=ROWS)
    assert crash.tree(path) == crash.tree(serial)


def test_shares_need_a_plan_and_keep_out_of_each_others_way(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(UsageError, match="no plan") as error:
        ingest_share(SOURCE, path, Share(0, 2), options())
    assert "--executor slurm" in str(error.value.fix)
    assert not path.exists()

    class Meanwhile(FakeSource):
        """While a share is being written, others may be, but neither the same shards nor the whole."""

        def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
            if not done and len(ids) > 1:  # one alone is looked at for its spacing, before anything is held
                done.extend(ingest_share(SOURCE, path, Share(1, 2), options()))
                with pytest.raises(UsageError, match="another process is writing shard 0"):
                    ingest_share(SOURCE, path, Share(0, 4), options())
                with pytest.raises(UsageError, match="another process is writing this archive"):
                    ingest(SOURCE, path, shard_rows=ROWS)
            return super().read(ids)

    done: list[int] = []
    plan_ingest(SOURCE, path, options())
    source = Meanwhile(**{name: getattr(SOURCE, name) for name in ("count", "bad", "same")})
    assert ingest_share(source, path, Share(0, 2), options()) == [0, 2, 4]
    assert done == [1, 3]
    with held(path / LOCK_FILE, "busy"), pytest.raises(UsageError, match="another process is writing this archive"):
        ingest_share(SOURCE, path, Share(0, 2), options())


def test_another_source_is_appended_by_an_array(serial: Path, tmp_path: Path) -> None:
    more = FakeSource(count=14, prefix="more", seed=1, same={3: 1, 9: 1})
    one, other = tmp_path / "one", tmp_path / "other"
    for path in (one, other):
        ingest(SOURCE, path, shard_rows=ROWS)
    ingest(more, one, shard_rows=ROWS)
    assert plan_ingest(more, other, options()) == 3
    for index in (2, 0, 1):
        ingest_share(more, other, Share(index, 3), options())
    ingest(more, other, shard_rows=ROWS)
    assert crash.tree(one) == crash.tree(other)


def test_an_error_in_a_worker_ends_the_run_in_order(tmp_path: Path) -> None:
    """Every shard before the one that failed is committed, whoever was faster."""
    report = None
    with pytest.raises(DataError, match="the disk of the source is gone"):
        report = ingest(_Failing(count=30), tmp_path / "a", shard_rows=6, batch=3, executor=Local(2, patience_s=0))
    assert report is None
    assert len(open_archive(tmp_path / "a")) == 12
    assert not list((tmp_path / "a").rglob("*.tmp"))


class _Failing(FakeSource):
    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        if self.id(16) in ids:
            raise DataError("the disk of the source is gone")
        return super().read(ids)


class _Stopping(FakeSource):
    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        if self.id(16) in ids:
            os.kill(os.getpid(), self.seed)
        return super().read(ids)


@pytest.mark.parametrize("number", [2, 15], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_between_two_items_and_keeps_what_is_whole(number: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    # A shell that runs the tests in the background has SIGINT ignored, and Python leaves it so.
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(StoppedBySignal, match=f"stopped by SIG{'INT' if number == 2 else 'TERM'}") as stop:
            ingest(_Stopping(count=30, seed=number), path, shard_rows=6)
    finally:
        signal.signal(number, before)
    assert stop.value.exit_code == 75
    assert stop.value.why == "2 shards are written"
    assert not list(path.rglob("*.tmp"))
    ingest(FakeSource(count=30, seed=number), path, shard_rows=6)
    ingest(FakeSource(count=30, seed=number), tmp_path / "b", shard_rows=6)
    assert crash.tree(path) == crash.tree(tmp_path / "b")


def test_serial_is_the_default(tmp_path: Path, serial: Path) -> None:
    ingest(SOURCE, tmp_path / "a", shard_rows=ROWS, executor=Serial(), batch=3)
    assert crash.tree(tmp_path / "a") == crash.tree(serial)
