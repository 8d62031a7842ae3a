"""Files are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crash
from groundswell import files
from groundswell.errors import DataError, GroundswellError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder" / "a.bin"
    with files.replacing(path) as handle:
        handle.write(b"new")
        handle.flush()
        assert not path.exists()
        assert [p.name for p in path.parent.iterdir()] == ["a.bin.tmp"]
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), MemoryError()])
def test_an_error_in_the_block_keeps_the_old_file_and_passes_on(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with files.replacing(path) as handle:
            handle.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("point", ["replace:eio:1", "fsync:eio:1", "write:enospc:1", "write:eio:1"])
def test_a_failing_disk_keeps_the_old_file_and_is_named(tmp_path: Path, point: str) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with crash.trapped(point), pytest.raises(GroundswellError) as error:
        files.write_bytes(path, b"new")
    assert error.value.where == str(path)
    code = errno.ENOSPC if "enospc" in point else errno.EIO
    assert error.value.why == os.strerror(code)
    assert ("space" in (error.value.fix or "")) == (code == errno.ENOSPC)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("write", [files.try_place, lambda path: files.write_bytes(path, b"new")])
@pytest.mark.parametrize(
    ("name", "why", "fix"),
    [
        ("file/a.bin", errno.EEXIST, "another place"),
        ("file/deep/a.bin", errno.ENOTDIR, "another place"),
        ("folder", errno.EISDIR, "another name"),
        ("a" * 300, errno.ENAMETOOLONG, "shorter"),
    ],
)
def test_a_place_for_no_file_is_named(
    tmp_path: Path, write: Callable[[Path], None], name: str, why: int, fix: str
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(GroundswellError, match="could not write a file") as error:
        write(tmp_path / name)
    assert (error.value.where, error.value.why) == (str(tmp_path / name), os.strerror(why))
    assert fix in (error.value.fix or "")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_file_system_that_only_reads_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("open", "touch", "unlink"):  # it refuses to delete, too, also what is not there
        monkeypatch.setattr(Path, name, refuse)
    for write in (files.try_place, lambda path: files.write_bytes(path, b"new")):
        with pytest.raises(GroundswellError, match="could not write a file") as error:
            write(tmp_path / "a.bin")
        assert error.value.why == os.strerror(errno.EROFS)
        assert "can be written to" in (error.value.fix or "")


def test_trying_a_place_leaves_nothing_but_its_folder(tmp_path: Path) -> None:
    files.try_place(tmp_path / "deep" / "a.bin")
    assert [p.name for p in tmp_path.rglob("*")] == ["deep"]
    files.write_bytes(tmp_path / "a.bin", b"old")
    files.try_place(tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_a_leftover_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.bin.tmp").write_bytes(b"torn" * 100)
    files.write_bytes(tmp_path / "a.bin", b"new")
    assert crash.tree(tmp_path) == {"a.bin": hashlib.sha256(b"new").hexdigest()}


def test_bytes_are_synced_before_the_name_and_the_folder_after(tmp_path: Path) -> None:
    with crash.trapped() as trap:
        files.write_bytes(tmp_path / "a", b"x")
    temporary = str(tmp_path / "a.tmp")
    assert trap.log == [("write", temporary), ("fsync", temporary), ("replace", temporary), ("fsync", str(tmp_path))]


def save(path: Path, text: str) -> None:
    with files.replacing_folder(path) as folder:
        assert list(folder.iterdir()) == []
        (folder / text).write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for text in ("old", "new"):  # the second holds nothing of the first
        save(tmp_path / "deep" / "a", text)
        assert names(tmp_path) == [f"deep/a/{text}"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_error_in_the_block_keeps_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    save(tmp_path / "a", "old")

    def fail() -> None:
        with files.replacing_folder(tmp_path / "a") as folder:
            (folder / "new").write_text("half")
            raise error

    expected = GroundswellError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        fail()
    assert names(tmp_path) == ["a/old"]
    if isinstance(caught.value, GroundswellError):
        assert caught.value.where == str(tmp_path / "a")


@pytest.mark.parametrize(
    ("point", "left"),
    [("replace:eio:1", "old"), ("replace:eio:2", "old"), ("fsync:eio:1", "old"), ("fsync:eio:2", "new")],
)
def test_a_failing_disk_leaves_one_whole_folder(tmp_path: Path, point: str, left: str) -> None:
    save(tmp_path / "a", "old")
    with crash.trapped(point), pytest.raises(GroundswellError):
        save(tmp_path / "a", "new")
    assert names(tmp_path) == [f"a/{left}"]  # the last fsync comes after the swap


def test_a_folder_left_between_two_names_comes_back(tmp_path: Path) -> None:
    save(tmp_path / "a", "old")
    (tmp_path / "a").rename(files.previous_folder(tmp_path / "a"))
    (tmp_path / ".a.new").mkdir()
    (tmp_path / ".a.new" / "torn").write_text("")
    with files.replacing_folder(tmp_path / "a") as folder:
        assert names(tmp_path) == ["a/old"]
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["a/new"]


@given(value=JSON)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    files.write_json(path, value)
    assert files.read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


def test_nan_is_refused_in_json_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    assert files.read_json(path) == {"a": 1}


def test_missing_and_broken_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match="missing") as error:
        files.read_json(path)
    assert error.value.where == str(path)
    path.write_text('{"a": ')
    with pytest.raises(DataError, match="could not be read as JSON"):
        files.read_json(path)


def test_hashes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    # SHA-256 of "abc": FIPS 180-4, appendix B.1.
    assert files.sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.digest({"a": 1, "b": [1.5, None]}) == files.digest({"b": [1.5, None], "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})
    assert files.digest({}) == hashlib.sha256(b"{}").hexdigest()
