"""Killed at named points, as a whole or in part: what is committed is whole, a second run ends in the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_source import FakeSource

import crash
from groundswell.archive import filling
from groundswell.archive.ingest import ingest
from groundswell.archive.reader import open_archive
from groundswell.archive.schema import catalogue_file, is_archive
from groundswell.archive.writer import ShardWriter
from groundswell.errors import GroundswellError
from groundswell.executors.local import Local

SETTINGS: dict[str, Any] = {"count": 20, "bad": {3: "unreadable", 5: "nan", 11: "twin"}}
ROWS = 6
# Calls of one whole ingest of this source, as `test_the_calls_are_those_counted` finds them.
CALLS = {"replace": 21, "fsync": 42, "write": 29}


def points(count: int, seed: int) -> list[str]:
    """Distinct kill points spread over every kind, chosen by a seed."""
    kills = [
        f"{kind}:{what}:{number}"
        for kind, calls in CALLS.items()
        for what in crash.KINDS[kind]
        if what in ("before", "middle", "after")
        for number in range(1, calls + 1)
    ]
    chosen = np.random.default_rng(seed).choice(len(kills), count, replace=False)
    return [kills[i] for i in sorted(chosen)]


def whole(path: Path) -> None:
    ingest(FakeSource(**SETTINGS), path, shard_rows=ROWS, batch=4)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "archive"
    whole(path)
    return path


def check(path: Path, reference: Path) -> None:
    """What an interrupted ingest left is part of the reference, and a second run makes it the reference."""
    if is_archive(path):
        left, full = open_archive(path), open_archive(reference)
        for record in left.records:
            ours, theirs = left.where(f"shard == {record.shard}"), full.where(f"shard == {record.shard}")
            assert ours.catalogue.equals(theirs.catalogue)
            np.testing.assert_array_equal(ours.read(slice(None)), theirs.read(slice(None)))
            np.testing.assert_array_equal(ours.masks(slice(None))["slick"], theirs.masks(slice(None))["slick"])
        assert left.verify() == []
    whole(path)
    assert crash.tree(path) == crash.tree(reference)


def test_the_calls_are_those_counted(tmp_path: Path, reference: Path) -> None:
    with crash.trapped() as trap:
        whole(tmp_path / "archive")
    assert trap.counts == CALLS
    assert crash.tree(tmp_path / "archive") == crash.tree(reference)


@pytest.mark.parametrize(
    ("point", "workers", "victim"),
    [
        (point, *(((0, "group"), (2, "group"), (2, "parent"))[i % 3]))
        for i, point in enumerate(points(12, seed=20261121))
    ],
)
def test_killed_ingest_resumes_to_the_same_bytes(
    point: str, workers: int, victim: str, tmp_path: Path, reference: Path
) -> None:
    path = tmp_path / "archive"
    arguments = {"output": str(path), "shard_rows": ROWS, "workers": workers, **SETTINGS}
    ended = crash.run(["fake_source:job", json.dumps(arguments)], point=point, victim=victim)
    assert ended.killed, ended.stderr
    check(path, reference)


@pytest.mark.parametrize("item", [2, 9, 19])
def test_a_worker_killed_at_an_item_costs_its_shard_alone(
    item: int, tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "archive"
    monkeypatch.setenv("FAKE_SOURCE_DIES", f"{item}:{tmp_path / 'died'}")
    with pytest.raises(GroundswellError, match="1 of 4 shards could not be written") as error:
        ingest(FakeSource(**SETTINGS), path, shard_rows=ROWS, batch=4, executor=Local(2, patience_s=0))
    assert str(error.value.why).startswith(f"shard {item // ROWS}: worker ")
    check(path, reference)


def test_failing_disk_during_append_keeps_the_old_archive(tmp_path: Path, reference: Path) -> None:
    path = tmp_path / "archive"
    shutil.copytree(reference, path)
    more = FakeSource(count=15, prefix="more", seed=1)
    with crash.trapped("write:enospc:4"), pytest.raises(GroundswellError, match="could not write a file"):
        ingest(more, path, shard_rows=ROWS)
    before, after = crash.tree(reference), crash.tree(path)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed <= {"archive.json"}  # which may plan the new source already
    old = open_archive(path).where("shard < 4")
    np.testing.assert_array_equal(old.read(slice(None)), open_archive(reference).read(slice(None)))
    ingest(more, path, shard_rows=ROWS)
    assert len(open_archive(path)) == len(open_archive(reference)) + 15
    assert open_archive(path).verify() == []


def test_every_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path: Path) -> None:
    # SIGKILL leaves the page cache, so no kill test can miss an fsync; the order of calls can.
    with crash.trapped() as trap:
        whole(tmp_path / "archive")
    log = trap.log
    renames = [i for i, (kind, _) in enumerate(log) if kind == "replace"]
    assert len(renames) == CALLS["replace"]
    for i in renames:
        name = log[i][1]
        syncs = [j for j in range(i) if log[j] == ("fsync", name)]
        writes = [j for j in range(i) if log[j] == ("write", name)]
        assert syncs, name
        assert syncs[-1] > writes[-1], name
        assert log[i + 1] == ("fsync", str(Path(name).parent)), name


def test_the_check_fails_where_the_commit_record_comes_first(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: with the order reversed, the same check must find the same kill harmful."""
    path = tmp_path / "archive"

    class RecordFirst(ShardWriter):
        def __enter__(self) -> ShardWriter:
            part = catalogue_file(self.number)
            (self.folder / part).parent.mkdir(exist_ok=True)
            shutil.copyfile(reference / part, self.folder / part)
            return super().__enter__()

    monkeypatch.setattr(filling, "ShardWriter", RecordFirst)
    # Renames: manifest, archive.json, five of shard 0, then the masks of shard 1. An error there leaves what a kill
    # leaves, but for the temporary file.
    with crash.trapped("replace:eio:8"), pytest.raises(GroundswellError):
        whole(path)
    monkeypatch.undo()
    with pytest.raises((AssertionError, GroundswellError)):
        check(path, reference)


def test_the_check_fails_where_a_file_is_written_in_place(tmp_path: Path, reference: Path) -> None:
    """Negative control: a catalogue part torn in the middle, as a writer without rename would leave it."""
    path = tmp_path / "archive"
    shutil.copytree(reference, path)
    part = path / catalogue_file(2)
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises((AssertionError, GroundswellError)):
        check(path, reference)


def test_the_command_line_killed_and_repeated_ends_in_the_same_bytes(tmp_path: Path) -> None:
    from PIL import Image
    from typer.testing import CliRunner

    from groundswell.cli import verbs  # noqa: F401 - importing the verbs registers them
    from groundswell.cli.app import application

    images = tmp_path / "images"
    images.mkdir()
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    # Shards of 1,000 bytes hold three images of 256: four shards.
    options = ["--quantity", "quicklook", "--shard-mb", "0.001", "--quiet"]

    def command(output: str) -> list[str]:
        return ["ingest", str(images), "-o", str(tmp_path / output), *options]

    with crash.trapped() as trap:
        assert CliRunner().invoke(application, command("whole")).exit_code == 0
    assert trap.counts["replace"] == 2 + 4 * 2 + 1  # manifest, archive.json, pixels and catalogue, statistics
    assert crash.run(["groundswell", *command("killed")], point="replace:before:6").killed
    assert len(open_archive(tmp_path / "killed")) == 3
    assert CliRunner().invoke(application, command("killed")).exit_code == 0
    assert crash.tree(tmp_path / "killed") == crash.tree(tmp_path / "whole")
