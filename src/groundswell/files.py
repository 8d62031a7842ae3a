"""Files and folders that are whole or absent: write beside, flush, fsync, rename, fsync the folder.

A killed process leaves at most a ``*.tmp`` file or a ``.*.new`` folder behind, which readers ignore and the next
writer replaces.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from groundswell.errors import DataError, GroundswellError

TEMPORARY = ".tmp"

_FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space or choose another folder"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a folder that can be written to"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "choose another place (a file stands where a folder is needed)"),
    errno.EISDIR: "choose another name: a folder has this one",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable (a no-op where folders cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` only when the block ends without an error.

    Raises
    ------
    GroundswellError
        When the disk refuses (no space, no permission, an I/O error). What stood at ``path`` before still stands.
    """
    target = Path(path)
    temporary = target.with_name(target.name + TEMPORARY)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, target)  # noqa: PTH105 - the one call whose atomicity all else rests on
        sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):  # what refused to be written may refuse this, too
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise _refused("could not write a file", target, error) from error


def try_place(path: str | Path) -> None:
    """Refuse now what `replacing` would refuse after the work; all that is left is the folder.

    Raises
    ------
    GroundswellError
        When no file can be written there.
    """
    target = Path(path)
    temporary = target.with_name(target.name + TEMPORARY)
    with refusing("could not write a file", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


@contextmanager
def refusing(what: str, where: Path) -> Iterator[None]:
    """Say of a disk that refuses what could not be done and where, why, and what to do about it."""
    try:
        yield
    except OSError as error:
        raise _refused(what, where, error) from error


def _refused(what: str, where: Path, error: OSError) -> GroundswellError:
    again = "then run the command again (`pretrain` with --resume)"
    fix = f"{_fix(error)}, {again}: what was written before is whole and is kept"
    return GroundswellError(what, where=where, why=error.strerror or str(error), fix=fix)


def _fix(error: OSError) -> str:
    """What the reader can do where a disk refuses."""
    return _FIXES.get(error.errno or 0, "see that the disk is well, or choose another folder")


def move(source: Path, target: Path) -> None:
    """Give a whole file another name, durably, in place of what stood there.

    Raises
    ------
    GroundswellError
        When the disk refuses; the file then still has its old name.
    """
    with refusing("could not write a file", target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)  # noqa: PTH105 - as in `replacing`
        sync_folder(target.parent)
        if source.parent != target.parent:
            sync_folder(source.parent)


def remove(path: Path) -> None:
    """Delete a file, if it is there, for good.

    Raises
    ------
    GroundswellError
        When the disk refuses.
    """
    with refusing("could not delete a file", path):
        if path.exists():
            path.unlink()
            sync_folder(path.parent)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of ``path`` only when the block ends without an error.

    No rename replaces a folder that is not empty, so there are two, and a kill in between leaves the old one as
    `previous_folder`; the next call puts it back first.

    Raises
    ------
    GroundswellError
        When the disk refuses (no space, no permission, an I/O error). What stood at ``path`` before still stands.
    """
    target, previous = _absolute(path), previous_folder(path)
    fresh = target.with_name(f".{target.name}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _recover(target, previous)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        yield fresh
        sync_folder(fresh)
        if target.exists():
            target.replace(previous)
        fresh.replace(target)
        sync_folder(target.parent)
        shutil.rmtree(previous, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        with suppress(OSError):
            _recover(target, previous)
        if not isinstance(error, OSError):
            raise
        raise GroundswellError(
            "could not write a folder",
            where=target,
            why=error.strerror or str(error),
            fix=f"{_fix(error)}; what stood there before still stands",
        ) from error


def previous_folder(path: str | Path) -> Path:
    """Where a kill between the renames of `replacing_folder` leaves the folder that stood at ``path``."""
    target = _absolute(path)
    return target.with_name(f".{target.name}.previous")


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link to the old folder


def _recover(target: Path, previous: Path) -> None:
    """Put right what a kill or an error between the two renames left behind."""
    if previous.exists():
        if target.exists():
            shutil.rmtree(previous)
        else:
            previous.replace(target)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with replacing(path) as handle:
        handle.write(content)


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file (sorted keys, two-space indent, NaN refused), whole or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False, default=str)
    write_bytes(path, (text + "\n").encode())


def write_with(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let ``write(handle)`` fill a file that replaces ``path`` whole or not at all."""
    with replacing(path) as handle:
        write(handle)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    DataError
        When the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise DataError("a file is missing", where=path) from error
    except (ValueError, OSError) as error:
        raise DataError("a file could not be read as JSON", where=path, why=str(error)) from error


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, independent of key order: names settings, not files."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
