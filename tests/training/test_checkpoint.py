"""Checkpoints: whole or absent, and a bent byte is seen."""

import math
import os
from pathlib import Path

import pytest
import torch

from groundswell import files
from groundswell.errors import GroundswellError, ModelError
from groundswell.training.checkpoint import Checkpoints, Score, read_checkpoint


def state(value: float) -> dict[str, object]:
    return {"weights": torch.full((300,), value), "position": [3, 4], "note": {"a": 1.5, "b": None}}


@pytest.fixture
def store(tmp_path: Path) -> Checkpoints:
    store = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (10, 20):
        store.save(step, state(step))
    return store


def test_what_is_saved_comes_back(store: Checkpoints) -> None:
    found = store.newest()
    assert found is not None
    path, back = found
    assert path.name == "step-00000020.pt"
    assert torch.equal(back["weights"], torch.full((300,), 20.0))
    assert back["position"] == [3, 4]
    assert back["note"] == {"a": 1.5, "b": None}
    assert Checkpoints(store.folder / "elsewhere").newest() is None


@pytest.mark.parametrize("where", [0.0, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("how", ["truncate", "flip"])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(
    store: Checkpoints, where: float, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.folder / "step-00000020.pt"
    content = bytearray(path.read_bytes())
    offset = int(where * len(content))
    if how == "truncate":
        del content[offset:]
    else:
        content[offset] ^= 0x10
    path.write_bytes(content)
    found = store.newest()
    assert found is not None
    assert found[0].name == "step-00000010.pt"
    assert float(found[1]["weights"][0]) == 10.0
    assert "damaged" in caplog.text
    assert str(path) in caplog.text
    # Set aside for good: the run that goes on from 10 must not meet it again.
    assert store.steps() == [10]


def test_a_damaged_record_is_as_bad_as_a_damaged_checkpoint(store: Checkpoints) -> None:
    (store.folder / "step-00000020.json").write_text('{"step": 20')
    found = store.newest()
    assert found is not None
    assert found[0].name == "step-00000010.pt"


def test_when_all_are_damaged_the_reader_is_told(store: Checkpoints) -> None:
    for path in store.folder.glob("*.pt"):
        path.write_bytes(b"")
    for _ in range(2):  # told again, and not begun anew without a word
        with pytest.raises(ModelError, match="every checkpoint") as caught:
            store.newest()
        assert "--overwrite" in (caught.value.fix or "")


@pytest.mark.parametrize("suffix", [".pt", ".json"])
def test_what_the_disk_does_not_give_is_no_damage(
    store: Checkpoints, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Path.read_bytes

    def stale(path: Path) -> bytes:
        if path.suffix == suffix:
            raise OSError(116, "Stale file handle")
        return plain(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", stale)
        with pytest.raises(GroundswellError, match="could not be read") as caught:
            store.newest()
    assert "--resume" in (caught.value.fix or "")
    assert store.steps() == [10, 20]
    found = store.newest()
    assert found is not None
    assert found[0].name == "step-00000020.pt"


def test_a_file_without_its_record_does_not_exist(store: Checkpoints) -> None:
    (store.folder / "step-00000020.json").unlink()  # as left by a kill between the two writes
    assert store.steps() == [10]


def test_a_full_disk_keeps_the_previous_checkpoint(store: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GroundswellError, match="could not write") as caught:
        store.save(30, state(30))
    assert "No space left" in (caught.value.why or "")
    monkeypatch.undo()
    assert store.steps() == [10, 20]
    found = store.newest()
    assert found is not None
    assert float(found[1]["weights"][0]) == 20.0


def test_the_newest_and_the_best_are_kept(store: Checkpoints) -> None:
    store.save(20, state(20), best=Score("kNN", 0.75))
    for step in (30, 40, 50):
        store.save(step, state(step))
    assert store.steps() == [20, 40, 50]
    assert store.best() == (20, ("kNN", 0.75))
    assert len(list(store.folder.glob("*.pt"))) == 3


def test_the_best_is_the_last_that_was_so(store: Checkpoints) -> None:
    store.save(20, state(20), best=Score("kNN", 0.75))
    store.save(30, state(30), best=Score("kNN", 0.9))
    store.save(40, state(40))
    assert store.best() == (30, ("kNN", 0.9))
    for step in (50, 60):
        store.save(step, state(step))
    assert store.steps() == [30, 50, 60]


def test_a_torn_record_of_the_best_leaves_the_best_before_it(store: Checkpoints) -> None:
    store.save(20, state(20), best=Score("kNN", 0.75))
    store.save(30, state(30), best=Score("kNN", 0.9))
    store.path(30).with_suffix(".json").write_text("{")
    assert store.best() == (20, ("kNN", 0.75))


def test_the_old_best_stands_until_the_new_one_is_whole(store: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(20, state(20), best=Score("kNN", 0.75))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GroundswellError, match="could not write"):
        store.save(30, state(30), best=Score("kNN", 0.9))
    monkeypatch.undo()
    for step in (40, 50, 60):
        store.save(step, state(step))
    assert store.best() == (20, ("kNN", 0.75))
    assert store.steps() == [20, 50, 60]


def test_what_a_kill_left_without_a_record_goes_with_the_next_save(store: Checkpoints) -> None:
    store.path(25).write_bytes(b"killed before its record")
    assert store.steps() == [10, 20]
    store.save(24, state(24))
    assert store.steps() == [20, 24]
    assert sorted(store.folder.glob("*.pt")) == [store.path(20), store.path(24)]


def test_code_in_a_checkpoint_is_not_run(store: Checkpoints) -> None:
    class Gadget:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(store.folder / "pwned"),)

    path = store.folder / "step-00000020.pt"
    torch.save(Gadget(), path)
    files.write_json(
        path.with_suffix(".json"), {"step": 20, "sha256": files.sha256_file(path), "bytes": path.stat().st_size}
    )
    with pytest.raises(Exception, match=r"(?i)weights"):
        read_checkpoint(path)
    assert not (store.folder / "pwned").exists()


def test_the_last_good_one_is_kept_until_a_newer_one_is(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, keep=1)
    store.save(10, state(10))
    assert store.good() is None
    store.vouch(10)
    store.save(20, state(20))
    store.save(30, state(30))
    assert (store.steps(), store.good()) == ([10, 30], 10)
    store.vouch(30)
    store.save(40, state(40))
    assert (store.steps(), store.good()) == ([30, 40], 30)
    assert all(read_checkpoint(store.path(step)) for step in (30, 40))


def test_a_score_beats_the_best_of_its_own_monitor() -> None:
    best = Score("kNN", 0.75)
    assert best.beats(None)
    assert best.beats(Score("kNN", 0.75))  # a tie goes to the later
    assert not Score("kNN", 0.5).beats(best)
    assert Score("another", 0.5).beats(best)  # which the first says nothing of
    for nothing in (math.nan, math.inf):
        assert not Score("kNN", nothing).beats(None)
