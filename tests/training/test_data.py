"""Batches: the same from memory and from disk, in whatever order they are asked for, and read ahead."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from groundswell.archive.reader import Archive
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.errors import ArchiveError
from groundswell.training.data import Feed
from training.tiny import make_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return make_archive(tmp_path_factory.mktemp("data") / "a", count=24)


def feed(archive: Archive, free: int | None = 0) -> Feed:
    preprocessing = PreprocessingSettings().resolve(archive.channels, archive.height, archive.width)
    return Feed([archive], preprocessing, 7, 0, torch.device("cpu"), free)


def test_a_batch_is_the_same_from_disk_in_any_order(archive: Archive) -> None:
    memory, disk = feed(archive, None), feed(archive)
    assert memory.preloaded is not None
    assert disk.preloaded is None
    kept = np.arange(0, 24, 2)
    for at in [(0, 0), (0, 1), (0, 2), (1, 0), (0, 1), (5, 2), (5, 2), None, (5, 0), (6, 0)]:
        if at is None:  # a draw: what was read ahead is of the old set
            memory.keep(kept)
            disk.keep(kept)
            continue
        (expected, rows), (images, same) = memory.batch(*at), disk.batch(*at)
        assert torch.equal(rows, same)
        assert torch.equal(images, expected), at
        assert memory.kept is None or set(rows.tolist()) <= set(kept.tolist())
    assert torch.equal(disk.images(np.array([3, 1])), memory.images(np.array([3, 1])))


def test_the_next_batch_is_read_while_this_one_is_used(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = feed(archive)
    read, finished = disk._read, [threading.Event() for _ in range(3)]
    seen: list[list[int]] = []

    def told(rows: np.ndarray) -> torch.Tensor:
        assert threading.current_thread() is not threading.main_thread()
        out = read(rows)
        seen.append(rows.tolist())
        finished[len(seen) - 1].set()
        return out

    monkeypatch.setattr(disk, "_read", told)
    disk.batch(0, 0)
    assert finished[1].wait(30)  # without being asked for
    _, rows = disk.batch(0, 1)
    assert seen[1] == rows.tolist()
    assert finished[2].wait(30)
    assert len(seen) == 3  # each once


def test_what_cannot_be_read_ahead_is_told_when_its_turn_comes(archive: Archive, tmp_path: Path) -> None:
    disk = feed(archive)
    read, count = disk._read, 0

    def second_fails(rows: np.ndarray) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 2:
            raise ArchiveError("a file of an archive is missing or damaged")
        return read(rows)

    disk._read = second_fails  # type: ignore[method-assign]
    disk.batch(0, 0)
    with pytest.raises(ArchiveError, match="missing or damaged"):
        disk.batch(0, 1)
