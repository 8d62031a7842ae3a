"""What lies in image folders: the files, and what their headers say, before a pixel is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundswell import progress
from groundswell.errors import DataError
from groundswell.physics.imagette import Label
from groundswell.products.folder.files import EXTENSIONS, Facts, inspect_image
from groundswell.products.source import Rejected

_RARE = 10


@dataclass(frozen=True, slots=True)
class Listing:
    """Image files by id (the path below the common folder, forward slashes), and what was passed over.

    ``ignored`` counts other files by extension.
    """

    root: Path
    files: dict[str, Path]
    ignored: dict[str, int]


@dataclass(frozen=True, slots=True)
class Survey:
    """What the headers of image files say.

    Attributes
    ----------
    facts : dict
        Id to header, of every file whose header could be read.
    unreadable : list of Rejected
    bytes : int
        Size of all files on disk.
    """

    facts: dict[str, Facts]
    unreadable: list[Rejected]
    bytes: int

    def counts(self) -> dict[str, Any]:
        """Formats, sample types, bands and sizes, each with its number of files; JSON-able."""
        every = self.facts.values()
        heights, widths = sorted(f.height for f in every), sorted(f.width for f in every)
        middle = len(self.facts) // 2

        def count(values: Iterable[object]) -> dict[str, int]:
            return {str(value): number for value, number in Counter(values).most_common()}

        return {
            "formats": count(f.format for f in every),
            "types": count(f.dtype for f in every),
            "bands": count(f.bands for f in every),
            "height": [heights[0], heights[middle], heights[-1]] if heights else [],
            "width": [widths[0], widths[middle], widths[-1]] if widths else [],
            "sizes": len({(f.height, f.width) for f in every}),
        }


def list_images(sources: Sequence[str | Path]) -> Listing:
    """Every image file in folders (searched through, links followed once) and among single files, sorted by id.

    Hidden files and folders are passed over.

    Raises
    ------
    DataError
        When a source does not exist, or nothing in them is an image.
    """
    found: dict[Path, Path] = {}
    ignored: Counter[str] = Counter()
    folders: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            folders.append(path.absolute())
            for file in _walk(path):
                if file.suffix.lower() in EXTENSIONS:
                    _keep(found, file)
                else:
                    ignored[file.suffix.lower() or "no extension"] += 1
        elif path.is_file():  # a file named outright is tried whatever its extension
            folders.append(path.absolute().parent)
            _keep(found, path)
        else:
            raise DataError("there is no such file or folder", where=path)
    if not found:
        raise DataError(
            "no image file was found",
            where=", ".join(str(source) for source in sources),
            why="looked for " + ", ".join(EXTENSIONS) + (f"; found {dict(ignored)}" if ignored else "; found nothing"),
        )
    root = Path(os.path.commonpath([os.path.normpath(folder) for folder in folders]))
    named = {Path(os.path.relpath(path, root)).as_posix(): path for path in found.values()}
    return Listing(root, dict(sorted(named.items())), dict(ignored))


def _keep(found: dict[Path, Path], path: Path) -> None:
    """Remember a file once, by its own place rather than by a link to it."""
    real = path.resolve()
    if real not in found or path.absolute() == real:
        found[real] = path.absolute()


def _walk(folder: Path) -> Iterable[Path]:
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        if real in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def survey(files: dict[str, Path]) -> Survey:
    """Read the header of every file."""
    facts: dict[str, Facts] = {}
    unreadable: list[Rejected] = []
    total = 0
    with progress.bar("look at files", total=len(files), unit="files") as bar:
        for id_, path in files.items():
            try:
                facts[id_] = inspect_image(path)
                total += path.stat().st_size
            except DataError as error:
                unreadable.append(Rejected(id_, error.why or error.what))
            bar.advance()
    return Survey(facts, unreadable, total)


def size_leak(facts: dict[str, Facts], labels: dict[str, Label]) -> tuple[float, str] | None:
    """How much the size of an image alone tells of its label: a strength from 0 to 1, and the same in words.

    For classes, the share of images whose class is the commonest of their size, above the share of the
    commonest class; for numbers of many values, the rank correlation (Spearman) with the number of pixels. None
    where all sizes are equal, or the label is one value, or a name of each image.
    """
    known = {id_: value for id_, value in labels.items() if id_ in facts and value is not None}
    values = Counter(known.values())
    sizes = {id_: (facts[id_].height, facts[id_].width) for id_ in known}
    if len(set(sizes.values())) < 2 or len(values) < 2:
        return None
    if len(values) > 20 and not any(isinstance(value, str) for value in values):
        from scipy.stats import spearmanr

        pixels = [height * width for height, width in sizes.values()]
        rank = float(spearmanr(pixels, [float(v) for v in known.values() if v is not None]).statistic)
        return abs(rank), f"has a rank correlation of {rank:.2f} with image size"
    if len(values) > len(known) / 4:
        return None
    images = Counter(sizes.values())
    by_size: dict[tuple[int, int] | None, Counter[Label]] = {}
    for id_, value in known.items():
        # Rare sizes are taken together: a size of its own would seem to tell the label of its only image.
        size = sizes[id_] if images[sizes[id_]] >= _RARE else None
        by_size.setdefault(size, Counter())[value] += 1
    told = sum(counter.most_common(1)[0][1] for counter in by_size.values()) / len(known)
    base = values.most_common(1)[0][1] / len(known)
    words = f"is told by size alone in {100 * told:.0f} % of images (the commonest value: {100 * base:.0f} %)"
    return told - base, words
