"""What a run directory does where the disk refuses, a file is damaged, or a run begins again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from groundswell import files
from groundswell.archive.reader import Archive
from groundswell.errors import DataError, GroundswellError
from groundswell.locks import LOCK_FILE, held
from groundswell.training import loop
from groundswell.training.loop import pretrain
from groundswell.training.run_directory import RunDirectory, read_metrics
from training.tiny import tiny_recipe


def lock(path: Path) -> None:
    with held(path / LOCK_FILE, "busy"):
        pass


@pytest.mark.parametrize("make", [lock, lambda path: RunDirectory(path).prepare(resume=False, overwrite=False)])
@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EROFS])
def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], number: int
) -> None:
    (tmp_path / "file").write_text("mine")
    if number == errno.EROFS:
        monkeypatch.setattr(Path, "mkdir", refusing(number))
    with pytest.raises(GroundswellError, match="could not make") as caught:
        make(tmp_path / ("new" if number == errno.EROFS else "file/new"))
    assert caught.value.why == os.strerror(number)
    assert caught.value.fix


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_folder_that_no_lock_can_be_made_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "open", refusing(errno.EROFS))
    with pytest.raises(GroundswellError, match="could not make a lock file") as caught:
        lock(tmp_path)
    assert (caught.value.where, caught.value.why) == (str(tmp_path / LOCK_FILE), os.strerror(errno.EROFS))


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.log").mkdir()
    with pytest.raises(GroundswellError, match="could not write the log"), RunDirectory(tmp_path).logging():
        pass


class Killed(BaseException):
    """Stands for SIGKILL inside one process."""


@pytest.mark.parametrize("every", [100, 1])
def test_tensorboard_shows_each_step_once_after_a_kill(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """Killed before the first checkpoint it begins again; later it goes on."""
    recipe, step = tiny_recipe(length={"steps": 4}, checkpoint={"steps": every}), loop.step

    def killed(session: Any, *arguments: Any) -> Any:
        if session.at.step == 3:
            raise Killed
        return step(session, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", killed)
        with pytest.raises(Killed):
            pretrain([archive], recipe, tmp_path / "run")
    (tmp_path / "run" / "events.csv").write_text("mine")
    before = events(tmp_path / "run")
    assert before == [1, 2, 3]
    assert pretrain([archive], recipe, tmp_path / "run", resume=True).resumed_at == (3 if every == 1 else None)
    assert events(tmp_path / "run") == [1, 2, 3, 4]
    assert (tmp_path / "run" / "events.csv").exists()


def events(run: Path) -> list[int]:
    shown = EventAccumulator(str(run))
    shown.Reload()
    return [event.step for event in shown.Scalars("loss")]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda text: bytes(50) + b"\n" + text, 1),
        (lambda text: text.replace(b"\n", b"\n\xff\r\xfe\n", 1), 2),
        (lambda text: text + b"[1]\n", 3),
        (lambda text: text + b"{}\n", 3),
    ],
)
def test_a_damaged_line_of_the_metrics_is_named(
    archive: Archive, tmp_path: Path, damage: Callable[[bytes], bytes], line: int
) -> None:
    run, recipe = tmp_path / "run", tiny_recipe(length={"steps": 2})
    pretrain([archive], recipe, run)
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(damage(whole))
    with pytest.raises(DataError, match="the metrics of a run are damaged") as caught:
        pretrain([archive], recipe, run, resume=True)
    assert caught.value.where == f"{run / 'metrics.jsonl'}, line {line}"
    lines = (run / "metrics.jsonl").read_bytes().split(b"\n")
    del lines[line - 1]  # as the error says
    (run / "metrics.jsonl").write_bytes(b"\n".join(lines))
    pretrain([archive], recipe, run, resume=True)
    assert (run / "metrics.jsonl").read_bytes() == whole
    (run / "metrics.jsonl").write_bytes(whole + b'{"step": 3')  # torn by a kill
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("damage", [bytes(50), b"", b'{"a": 1}'])
def test_a_damaged_record_of_the_machines_stops_no_run(archive: Archive, tmp_path: Path, damage: bytes) -> None:
    run, recipe = tmp_path / "run", tiny_recipe(length={"steps": 2})
    pretrain([archive], recipe, run)
    (run / "environment.json").write_bytes(damage)
    assert pretrain([archive], recipe, run, resume=True).resumed_at == 2
    assert [entry["resumed_at"] for entry in files.read_json(run / "environment.json")] == [2]
    assert (run / "environment.json.damaged").read_bytes() == damage
    assert "environment.json is damaged" in (run / "run.log").read_text()
    pretrain([archive], recipe, run, overwrite=True)
    assert not (run / "environment.json.damaged").exists()
