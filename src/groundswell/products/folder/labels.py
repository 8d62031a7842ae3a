"""Labels for images: which column is what, which row belongs to which image, and what found no partner."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from groundswell.errors import DataError, UsageError
from groundswell.physics.imagette import Label
from groundswell.products.folder.matching import Matcher, find_key
from groundswell.products.folder.tables import Table

_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the columns of a label table are; None or empty where they are to be found out.

    Attributes
    ----------
    key : str
        Names the image file: a path, a file name or a stem.
    labels : sequence of str
        The columns to keep as labels; every one that has no other part by default.
    group, split, incidence : str
        Columns for the metadata of these names (``incidence`` in degrees, of the centre).
    masks : sequence of str
        Columns with the paths of mask images.
    """

    key: str | None = None
    labels: tuple[str, ...] | None = None
    group: str | None = None
    split: str | None = None
    incidence: str | None = None
    masks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one row tells of its image: metadata fields, labels, and paths of masks by mask name."""

    metadata: dict[str, Any]
    labels: dict[str, Label]
    masks: dict[str, str]


@dataclass(frozen=True, slots=True)
class Labels:
    """A label table joined to images.

    Attributes
    ----------
    rows : dict
        Image id to its annotation.
    key : str
        The column that names the image.
    label_names, metadata_names : tuple of str
        What the table brought.
    unmatched_rows : list of str
        One line for each row that means no image, or several, with near misses.
    notes : list of str
        What a reader of the table should know.
    """

    rows: dict[str, Annotation]
    key: str
    label_names: tuple[str, ...]
    metadata_names: tuple[str, ...]
    unmatched_rows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def mask_paths(table: Table, columns: Columns, folders: Sequence[Path]) -> dict[str, list[str | None]]:
    """For each mask column, the path of every row's mask: beside the table, or in one of the folders."""
    resolved: dict[str, list[str | None]] = {}
    for name in columns.masks:
        texts = table.texts(name)
        if not any(texts):
            raise DataError(f"the mask column {name!r} is empty", where=table.path)
        resolved[name] = [None if text is None else _resolve(text, [table.path.parent, *folders]) for text in texts]
    return resolved


def _resolve(text: str, folders: Sequence[Path]) -> str:
    places = [folder / text.replace("\\", "/") for folder in folders]
    return str(next((place for place in places if place.is_file()), places[0]))


def join(
    table: Table, columns: Columns, files: Iterable[tuple[str, str]], masks: dict[str, list[str | None]]
) -> Labels:
    """Join a table to images given as (id, absolute path).

    Raises
    ------
    UsageError
        For a column that the table does not have.
    DataError
        When no column names any image, or two rows tell different things of one image.
    """
    for name in (columns.group, columns.split, columns.incidence, *(columns.labels or ()), *columns.masks):
        if name is not None:
            table.column(name)
    matcher = Matcher(files)
    key = columns.key or _find_key(table, columns, matcher)
    metadata, taken, notes = _metadata(table, columns, key)
    labels = _labels(table, columns, {key, *taken, *columns.masks})
    rows: dict[str, Annotation] = {}
    lines: dict[str, int] = {}
    unmatched: list[str] = []
    repeated = 0
    for index, text in enumerate(table.texts(key)):
        found = None if text is None else matcher.find(text)
        if text is None or found is None or found.id is None:
            unmatched.append(
                _unmatched(table.lines[index], text, matcher, len(unmatched), found.candidates if found else 0)
            )
            continue
        row = Annotation(
            {name: cells[index] for name, cells in metadata.items() if cells[index] is not None},
            {name: cells[index] for name, cells in labels.items()},
            {name: path for name, paths in masks.items() if (path := paths[index]) is not None},
        )
        if found.id in rows:
            if rows[found.id] != row:
                raise DataError(
                    "two rows of the label table tell different things of one image",
                    where=f"{table.path}, lines {lines[found.id]} and {table.lines[index]}",
                    why=f"both name {found.id}",
                    fix="keep one of them, or choose the key column with --labels-key",
                )
            repeated += 1
        rows[found.id], lines[found.id] = row, table.lines[index]
    if not rows:
        raise _no_match(table, key, matcher)
    if repeated:
        notes.append(f"{repeated} rows repeat another one word for word")
    return Labels(rows, key, tuple(labels), tuple(metadata), unmatched, [*table.notes, *notes])


def _find_key(table: Table, columns: Columns, matcher: Matcher) -> str:
    candidates = {name: table.texts(name) for name in table.columns if name not in columns.masks}
    found = find_key(candidates, matcher)
    if found is None:
        raise _no_match(table, None, matcher)
    return found[0]


def _no_match(table: Table, key: str | None, matcher: Matcher) -> DataError:
    name = key or next(iter(table.columns))
    sample = next((text for text in table.texts(name) if text), "")
    return DataError(
        f"the column {key!r} names no image" if key else "no column of the label table names any image",
        where=table.path,
        why=f"for example {sample!r} in column {name!r}; a file is called {matcher.example(sample)!r}",
        fix="name the column that holds file names (or paths, or stems) with --labels-key; columns: "
        + ", ".join(table.columns),
    )


def _unmatched(line: int, text: str | None, matcher: Matcher, already: int, candidates: int) -> str:
    if text is None:
        return f"line {line}: the key is empty"
    if candidates > 1:
        return f"line {line}: {text!r} could mean {candidates} files"
    near = matcher.near(text) if already < _SHOWN else []
    return f"line {line}: no file for {text!r}" + (f" (like {', '.join(near)}?)" if near else "")


def _labels(table: Table, columns: Columns, taken: set[str]) -> dict[str, list[Label]]:
    chosen = columns.labels if columns.labels is not None else [name for name in table.columns if name not in taken]
    labels: dict[str, list[Label]] = {}
    for name in chosen:
        label = label_name(name)
        if label in labels:
            raise UsageError(
                f"two columns would both become label_{label}", where=table.path, fix="choose with --label"
            )
        labels[label] = table.values(name)
    return labels


def label_name(column: str) -> str:
    """A column's name as a label: without a ``label_`` of its own, and anything but letters and digits as ``_``."""
    name = re.sub(r"\W+", "_", column.strip()).strip("_")
    return name.removeprefix("label_") or "value"


# What the catalogue means by its columns: a column of that name that holds something else is a label.


def _text(cell: Any) -> str:
    return str(cell)


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def parse(cell: Any) -> str:
        found = {word.lower(): word for word in allowed}.get(str(cell).lower())
        if found is None:
            raise ValueError(f"not one of {', '.join(allowed)}")
        return found

    return parse


def _between(low: float, high: float) -> Callable[[Any], float]:
    def parse(cell: Any) -> float:
        value = float(cell)
        if not low <= value <= high:
            raise ValueError(f"not between {low:g} and {high:g}")
        return value

    return parse


def _count(cell: Any) -> int:
    value = int(cell)
    if value < 0:
        raise ValueError("negative")
    return value


def _moment(cell: Any) -> datetime:
    time = datetime.fromisoformat(str(cell))
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _truth(cell: Any) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[str(cell).lower()]


_MEANINGS: dict[str, Callable[[Any], Any]] = {
    "product_id": _text,
    "image_number": _count,
    "mission": _text,
    "beam": _text,
    "mode": _one_of("WV", "IW", "EW", "SM"),
    "polarisations": _text,
    "time": _moment,
    "lon": _between(-180.0, 360.0),
    "lat": _between(-90.0, 90.0),
    "heading_deg": _between(-360.0, 360.0),
    "orbit": _count,
    "orbit_pass": _one_of("ascending", "descending"),
    "look": _one_of("left", "right"),
    "incidence_deg": _between(0.01, 89.99),
    "incidence_near_deg": _between(0.01, 89.99),
    "incidence_far_deg": _between(0.01, 89.99),
    "range_spacing_m": _between(1e-3, 1e5),
    "azimuth_spacing_m": _between(1e-3, 1e5),
    "nesz_db": _between(-80.0, 20.0),
    "denoised": _truth,
    "ipf_version": _text,
    "datatake": _text,
    "group": _text,
    "split": _text,
}


def _metadata(table: Table, columns: Columns, key: str) -> tuple[dict[str, list[Any]], set[str], list[str]]:
    """Metadata field to its cells, the columns used for them, and notes on columns that only look like metadata."""
    chosen = {"group": columns.group, "split": columns.split, "incidence_deg": columns.incidence}
    metadata: dict[str, list[Any]] = {}
    taken: set[str] = set()
    notes: list[str] = []
    for name, parse in _MEANINGS.items():
        column = chosen.get(name)
        if column is None:  # a column of the catalogue's own name counts, unless it has been given another part
            if name not in table.columns or name in (key, *columns.masks, *(columns.labels or ())):
                continue
            column = name
        cells: list[Any] = []
        for line, text in zip(table.lines, table.texts(column), strict=True):
            try:
                cells.append(None if text is None else parse(text))
            except (ValueError, KeyError) as error:
                fault = f"line {line}: {text!r}" + (f" is {error}" if isinstance(error, ValueError) else "")
                if chosen.get(name):
                    raise DataError(f"the column {column!r} is no {name}", where=table.path, why=fault) from error
                if columns.labels is None:
                    notes.append(
                        f"column {column!r} is a label: it is not what the catalogue means by {name} ({fault})"
                    )
                break
        else:
            metadata[name] = cells
            taken.add(column)
    return metadata, taken, notes
