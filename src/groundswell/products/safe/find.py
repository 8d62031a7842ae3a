"""What SAFE products lie among files and folders: level-1 products to read, level-2 files for their labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundswell.errors import DataError, ProductError
from groundswell.products.folder.files import EXTENSIONS
from groundswell.products.safe.container import open_container
from groundswell.products.safe.level2 import Level2, is_level2
from groundswell.products.source import reason_of

PACKED = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class Found:
    """What was found.

    Attributes
    ----------
    products : tuple of Path
        SAFE folders, and packed products.
    level2 : tuple of Level2
    unreadable : dict
        Packed level-2 products that cannot be listed, with the reason.
    images : tuple of Path
        Image files outside of products.
    ignored : dict
        Number of other files by extension.
    """

    products: tuple[Path, ...]
    level2: tuple[Level2, ...]
    unreadable: dict[str, str]
    images: tuple[Path, ...]
    ignored: dict[str, int]


def find_products(sources: Sequence[str | Path]) -> Found:
    """Search files, products and folders (links followed once, hidden ones passed over).

    In a folder a packed file counts as a product by its name (``S1A_...zip``), named outright whatever it is called.

    Raises
    ------
    DataError
        When a source does not exist.
    """
    products: dict[Path, Path] = {}
    level2: dict[Path, Level2] = {}
    unreadable: dict[str, str] = {}
    images: list[Path] = []
    ignored: Counter[str] = Counter()
    for source in map(Path, sources):
        if not source.exists():
            raise DataError("there is no such file or folder", where=source)
        source = source.parent if source.name == "manifest.safe" else source
        for path in _walk(source) if source.is_dir() else [source]:
            packed = path.name.lower().endswith(PACKED)
            if path.is_dir() or (packed and (path == source or path.name[:2].upper() == "S1")):
                labelling = "_OCN_" in path.name
                inside: list[Level2] = []
                try:
                    # Only one of an unusual name is opened to see what it is: a gzipped tar is slow to list.
                    inside = _inside(path) if labelling or not path.name.upper().startswith("S1") else []
                except ProductError as error:
                    if labelling:
                        unreadable[path.name] = reason_of(error)
                level2.update({one.place.resolve(): one for one in inside})
                if not labelling and not inside:
                    products.setdefault(path.resolve(), path)
            elif is_level2(path.name):
                level2.setdefault(path.resolve(), Level2(path))
            elif path.suffix.lower() in EXTENSIONS:
                images.append(path)
            else:
                ignored[path.suffix.lower() or "no extension"] += 1
    return Found(
        tuple(sorted(products.values())),
        tuple(level2.values()),
        unreadable,
        tuple(images),
        dict(sorted(ignored.items())),
    )


def _inside(path: Path) -> list[Level2]:
    """The level-2 wave-mode files of a product, or of a folder that has kept nothing else of one."""
    try:
        members = open_container(path).names
    except ProductError:
        files = [file for file in path.rglob("*.nc") if file.resolve().is_relative_to(path.resolve())]
        members = tuple(file.relative_to(path).as_posix() for file in sorted(files) if is_level2(file.name))
        if not members:
            raise
    found = [member for member in members if is_level2(member)]
    return [Level2(path / member) if path.is_dir() else Level2(path, member) for member in found]


def _walk(folder: Path) -> Iterable[Path]:
    """SAFE folders, not entered, and all files outside of them, sorted."""
    if _is_safe(folder):
        yield folder
        return
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        below = [Path(place) / name for name in sorted(folders) if not name.startswith((".", "__MACOSX"))]
        safe = [path for path in below if _is_safe(path)]
        folders[:] = [path.name for path in below if path not in safe]
        yield from safe
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _is_safe(folder: Path) -> bool:
    return folder.name.upper().endswith(".SAFE") or (folder / "manifest.safe").is_file()
