"""The files of one SAFE product: a folder, or a zip or tar file read in place, with nothing unpacked to disk.

Product files come from the wild. What lies outside the product, is there twice, is a link or would inflate to far
more than its size is refused: such a file is left out with its reason, and the rest of the product is read.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from groundswell.errors import ProductError
from groundswell.products.safe.inflate import Deflated, DeflatedStream
from groundswell.products.safe.packed import (
    DAMAGE,
    MEMBER_LIMIT,
    RATIO_LIMIT,
    Extent,
    Member,
    list_tar,
    list_zip,
    open_deflated,
    open_packed,
)

METADATA_LIMIT = 32 * 2**20
"""Largest XML document that is read, bytes; the largest of a real product has about 2 MB."""
DEFLATED_LIMIT = 16 * 2**20
"""Deflated members larger than this, bytes, are inflated once for all that is read of them, see `inflate`."""
_KEPT = 4  # such members known at a time: the polarisations of a scene
_ELSEWHERE = "do not use this file: get the product again from its publisher"


@dataclass(frozen=True)
class Container:
    """The files below the root of one SAFE product, by their POSIX path from there (``annotation/...xml``).

    Attributes
    ----------
    path : Path
        The folder or the archive file.
    product : str
        Name of the product's folder, without ``.SAFE``.
    refused : dict
        Files that are there and must not be read, with the reason.
    checksums : dict
        MD5 of files, as the manifest gives them; a document that differs is not read.
    """

    path: Path
    product: str
    kind: str
    members: dict[str, Member]
    refused: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    _deflated: dict[str, Deflated] = field(default_factory=dict, repr=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The files that can be read, sorted."""
        return tuple(sorted(self.members))

    def where(self, name: str) -> str:
        """The full address of a file, for messages."""
        return f"{self.path}/{name}" if self.kind == "folder" else f"{self.path}:{name}"

    def _member(self, name: str) -> Member:
        member = self.members.get(name)
        if member is None:
            refused = self.refused.get(name)
            raise ProductError(
                f"{PurePosixPath(name).name} cannot be read" if refused else f"{PurePosixPath(name).name} is missing",
                where=self.where(name),
                why=refused or "the product does not hold this file",
                fix="download the product again",
            )
        return member

    def size(self, name: str) -> int:
        """Bytes of a file, as the folder or the archive declares them; `ProductError` when it is not there."""
        return self._member(name).size

    def extent(self, name: str) -> Extent | None:
        """Where the bytes of a file lie on disk, or None where they are compressed."""
        return self._member(name).extent

    def read(self, name: str, limit: int = METADATA_LIMIT) -> bytes:
        """All bytes of a metadata file.

        Raises
        ------
        ProductError
            When it is missing, refused or damaged, larger than ``limit`` or inflates more than `RATIO_LIMIT` times.
        """
        member = self._member(name)
        excess = f"more than the limit of {limit} bytes for metadata"
        if member.size > limit:
            why = f"{member.size} bytes, {excess}"
            raise ProductError(f"{name} is too large", where=self.where(name), why=why, fix=_ELSEWHERE)
        if member.size > 2**20 and member.size > RATIO_LIMIT * max(member.packed, 1):
            raise ProductError(
                f"{name} is packed like a bomb",
                where=self.where(name),
                why=f"{member.packed} bytes inflate to {member.size}, more than {RATIO_LIMIT} times",
                fix=_ELSEWHERE,
            )
        with self.open(name) as raw:
            stream = Stream(raw, self.where(name), None, True)
            data = stream.read(member.size + 1)  # the declared size may be a lie
        if len(data) != member.size:
            raise ProductError(
                f"{name} is damaged",
                where=self.where(name),
                why=f"it holds {'more' if len(data) > member.size else 'less'} than its {member.size} bytes",
                fix="download the product again",
            )
        known = self.checksums.get(name)
        if known is not None and hashlib.md5(data, usedforsecurity=False).hexdigest() != known:
            raise _altered(self.where(name))
        return data

    @contextmanager
    def stream(self, name: str) -> Iterator[Stream]:
        """A file to be read from beginning to end, closed at the end of the block."""
        with self.open(name) as raw:
            leaps = self.extent(name) is not None or name in self._deflated
            yield Stream(raw, self.where(name), self.checksums.get(name), leaps, self._deflated.get(name))

    def open(self, name: str) -> BinaryIO:
        """A seekable stream of the bytes of a file; it can be read beside any other."""
        member = self._member(name)
        try:
            deflated = self._deflated.pop(name, None)
            if deflated is None and self.kind == "zip" and member.size > DEFLATED_LIMIT:
                deflated = open_deflated(self.path, member)
            if deflated is None:
                return open_packed(self.kind, self.path, member)
        except DAMAGE as error:
            raise _damaged(self.where(name), error) from error
        self._deflated[name] = deflated  # the last used is the last to go
        for old in list(self._deflated)[:-_KEPT]:
            del self._deflated[old]
        return io.BufferedReader(DeflatedStream(deflated), 2**18)


class Stream:
    """The bytes of a file from beginning to end; its failures (compression, checksums, the disk) are `ProductError`.

    A packed file is read without leaping, so that its checksums can be compared at the end; of a `Deflated` one,
    which is given with it, every byte was met once, wherever the stream leapt.
    """

    def __init__(
        self, raw: BinaryIO, where: str, checksum: str | None, leaps: bool, deflated: Deflated | None = None
    ) -> None:
        self._raw, self._where, self._leaps, self._at, self._deflated = raw, where, leaps, 0, deflated
        self._checksum = checksum
        self._digest = hashlib.md5(usedforsecurity=False)

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes; fewer only at the end."""
        try:
            data = self._raw.read(count)
        except DAMAGE as error:
            raise _damaged(self._where, error) from error
        self._digest.update(data)
        self._at += len(data)
        return data

    def readinto(self, view: memoryview) -> int:
        """Fill ``view`` as far as the file and the stream below go; the number of bytes, 0 at the end."""
        try:
            count = int(self._raw.readinto(view))  # type: ignore[attr-defined]
        except DAMAGE as error:
            raise _damaged(self._where, error) from error
        if not self._leaps:
            self._digest.update(view[:count])
        self._at += count
        return count

    def seek(self, offset: int) -> None:
        """Go on at ``offset``."""
        if self._leaps:
            self._raw.seek(offset)
            return
        while self._at < offset and self.read(min(offset - self._at, 2**20)):
            pass
        if self._at != offset:
            raise _damaged(self._where, EOFError(f"byte {offset} cannot be reached from byte {self._at}"))

    def finish(self) -> None:
        """Read on to the end, and compare the checksum of all there was with that of the manifest."""
        if self._leaps and self._deflated is None:
            return
        if self._deflated is None:
            while self.read(2**20):
                pass
        try:
            found = self._digest.hexdigest() if self._deflated is None else self._deflated.md5()
        except DAMAGE as error:
            raise _damaged(self._where, error) from error
        if self._checksum is not None and found != self._checksum:
            raise _altered(self._where)


def _altered(where: str) -> ProductError:
    return ProductError(
        "a file of the product is not what the manifest says",
        where=where,
        why="its MD5 checksum differs: it was damaged or edited",
        fix="download the product again (a product edited on purpose needs its checksum in manifest.safe renewed)",
    )


def _damaged(where: object, error: BaseException) -> ProductError:
    return ProductError(
        "a file of the product cannot be read",
        where=where,
        why=f"{type(error).__name__}: {error}".strip(": "),
        fix="check the file, or download the product again",
    )


def open_container(path: str | os.PathLike[str]) -> Container:
    """The product at ``path``: a SAFE folder (or its ``manifest.safe``), or a zip or tar file with one inside.

    Raises
    ------
    ProductError
        When there is nothing, no SAFE or more than one SAFE there; it says what was found and what was expected.
    """
    path = Path(path)
    if path.name == "manifest.safe":
        path = path.parent
    if not path.exists():
        raise ProductError("there is no product", where=path, why="no such file or folder")
    refused: dict[str, str] = {}
    try:
        if path.is_dir():
            kind, members = "folder", _folder(path, refused)
        elif not path.is_file():
            raise _no_safe(path, "neither a folder nor a file")
        elif zipfile.is_zipfile(path):
            kind, members = "zip", list_zip(path, refused)
        elif path.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
            kind, members = "tar", list_tar(path, refused)
        else:
            raise _no_safe(path, f"a file of {path.stat().st_size} bytes that is no zip or tar archive")
    except DAMAGE as error:
        raise _damaged(path, error) from error
    if kind == "folder":
        if not _is_safe(members, ""):
            raise _no_safe(path, _inventory(members))
        return Container(path, path.resolve().name.removesuffix(".SAFE"), kind, members, refused)
    roots = sorted({prefix for name in members if _is_safe(members, prefix := _root(name))})
    if len(roots) != 1:
        found = _inventory(members) if not roots else f"{len(roots)} products: {', '.join(roots[:3])} ..."
        raise _no_safe(path, found)
    root = roots[0]
    product = root.rstrip("/").rpartition("/")[2] or path.name.split(".")[0]
    inside = {name.removeprefix(root): member for name, member in members.items() if name.startswith(root)}
    kept = {name.removeprefix(root): reason for name, reason in refused.items()}
    return Container(path, product.removesuffix(".SAFE"), kind, inside, kept)


def _root(name: str) -> str:
    """The folder (with its slash) that would be the product's if ``name`` is its manifest or in its annotation."""
    parts = PurePosixPath(name).parts
    depth = parts.index("annotation") if "annotation" in parts else len(parts) - 1
    return "".join(f"{part}/" for part in parts[:depth])


def _is_safe(members: dict[str, Member], root: str) -> bool:
    return f"{root}manifest.safe" in members or any(
        name.startswith(f"{root}annotation/") and name.lower().endswith(".xml") for name in members
    )


def _inventory(members: dict[str, Member]) -> str:
    names = sorted(members)
    return f"{len(names)} files" + (f": {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else "")


def _no_safe(path: Path, found: str) -> ProductError:
    return ProductError(
        "this is no SAFE product",
        where=path,
        why=f"found {found}; expected one product folder, with manifest.safe, annotation/*.xml and measurement/*.tiff",
        fix="give the folder whose name ends in .SAFE, or a .zip, .tar or .tar.gz file with one such folder inside",
    )


def _folder(path: Path, refused: dict[str, str]) -> dict[str, Member]:
    root = path.resolve()
    members: dict[str, Member] = {}
    for name, entry in _walk(path, ""):
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            refused[name] = f"it is a link out of the product, to {Path(entry.path).resolve()}"
            continue
        try:
            status = entry.stat()
        except OSError as error:
            refused[name] = f"it cannot be read ({error.strerror})"
            continue
        if stat.S_ISREG(status.st_mode):
            members[name] = Member(status.st_size, status.st_size, Extent(Path(entry.path), 0, status.st_size))
        else:
            refused[name] = "it is neither a file nor a folder"
        if len(members) + len(refused) > MEMBER_LIMIT:
            raise _no_safe(path, f"more than {MEMBER_LIMIT} files")
    return members


def _walk(path: Path, below: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files at most six folders deep, with their POSIX paths; links to folders are entries, not followed."""
    with os.scandir(path / below) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if not entry.is_dir(follow_symlinks=False):
                yield below + entry.name, entry
            elif below.count("/") < 6:
                yield from _walk(path, f"{below}{entry.name}/")
