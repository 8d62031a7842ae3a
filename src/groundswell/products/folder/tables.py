"""Label tables as people have them: CSV from any program, Parquet; every fault named by its line."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from groundswell.errors import DataError, UsageError, did_you_mean
from groundswell.physics.imagette import Label

_MISSING = {"", "na", "n/a", "nan", "null"}
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})", re.ASCII)
_REAL = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)
_INFINITE = {"inf", "+inf", "-inf", "infinity", "-infinity"}
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Table:
    """A label table: for each column its cells (texts from CSV, plain values from Parquet; None where empty).

    ``lines`` holds the line of each row in the file (the row number for Parquet); ``notes`` what was left out.
    """

    path: Path
    columns: dict[str, list[Any]]
    lines: list[int]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.lines)

    def texts(self, name: str) -> list[str | None]:
        """A column as written, None where empty."""
        return [None if cell is None else str(cell) for cell in self.column(name)]

    def values(self, name: str) -> list[Label]:
        """A column as one type: whole numbers, else real numbers, else true and false, else text; None where empty.

        A number with leading zeros is a name, so ``007`` stays text. Infinite values count as empty.
        """
        return _typed(self.column(name))

    def column(self, name: str) -> list[Any]:
        """The cells of a column; `UsageError` with a suggestion for a name that the table does not have."""
        if name not in self.columns:
            raise UsageError(
                f"the label table has no column {name!r}", where=self.path, fix=did_you_mean(name, self.columns)
            )
        return self.columns[name]


def read_table(path: str | Path) -> Table:
    """Read a CSV (comma, semicolon or tab; UTF-8 or UTF-16) or a Parquet label table.

    Raises
    ------
    DataError
        With the line, for a table that is damaged, has rows of unequal length, or two columns of one name.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError("the label table could not be read", where=path, why=error.strerror) from error
    if content.startswith(b"PAR1") or path.suffix.lower() in (".parquet", ".pq"):
        table = _parquet(path, content)
    else:
        table = _csv(path, _decode(path, content))
    if not table.lines:
        raise DataError("the label table has no rows", where=path)
    return table


def _decode(path: Path, content: bytes) -> str:
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            "the label table is not UTF-8 text",
            where=f"{path}, line {line}",
            why=f"byte {content[error.start]:#04x} at {error.start}",
            fix="save it again as CSV UTF-8",
        ) from error
    if "\x00" in text:
        raise DataError("the label table holds zero bytes: it is no text", where=path, fix="save it as CSV UTF-8")
    return text


def _csv(path: Path, text: str) -> Table:
    first = text.lstrip("\r\n").splitlines()[:1]
    if not first:
        raise DataError("the label table is empty", where=path)
    delimiter = max(",;\t", key=first[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(
            "the label table is damaged", where=f"{path}, line {reader.line_num}", why=str(error)
        ) from error
    header, *body = rows
    for line, row in zip(lines[1:], body, strict=True):
        if len(row) != len(header):
            raise DataError(
                f"a row of the label table has {len(row)} cells where the header has {len(header)}",
                where=f"{path}, line {line}",
                why=f"columns are separated by {delimiter!r} here",
                fix="put cells that hold the separator in double quotes",
            )
    columns: dict[str, list[Any]] = {}
    notes = []
    for index, name in enumerate(header):
        cells = [row[index] for row in body]
        if not name:  # pandas writes its row numbers under an empty name
            notes.append(f"column {index + 1} has no name and was left out")
            continue
        _add(path, columns, name, [None if cell.lower() in _MISSING else cell for cell in cells])
    return Table(path, columns, lines[1:], notes)


def _parquet(path: Path, content: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
        columns: dict[str, list[Any]] = {}
        notes = []
        for name, column in zip(table.column_names, table.columns, strict=True):
            if pa.types.is_nested(column.type) or pa.types.is_binary(column.type) or pa.types.is_null(column.type):
                notes.append(f"column {name!r} holds {column.type}, no plain values, and was left out")
                continue
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
            _add(path, columns, name, [_plain(cell) for cell in column.to_pylist()])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "the label table is no readable Parquet file", where=path, why=str(error).splitlines()[0]
        ) from error
    return Table(path, columns, list(range(1, table.num_rows + 1)), notes)


def _add(path: Path, columns: dict[str, list[Any]], name: str, cells: list[Any]) -> None:
    if name in columns:
        raise DataError(f"the label table has two columns called {name!r}", where=path, fix="rename one of them")
    columns[name] = cells


def _plain(cell: Any) -> Any:
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    if isinstance(cell, str):
        return None if cell.strip().lower() in _MISSING else cell.strip()
    return cell if isinstance(cell, bool | int | float | None) else str(cell)


def _typed(cells: list[Any]) -> list[Label]:
    known = [cell for cell in cells if cell is not None]
    if not all(isinstance(cell, str) for cell in known):
        return list(cells)  # Parquet knows its types
    finite = [cell for cell in known if cell.lower() not in _INFINITE]
    if all(_INTEGER.fullmatch(cell) for cell in finite):
        return [_number(cell, int) for cell in cells]
    if all(_REAL.fullmatch(cell) for cell in finite):
        return [_number(cell, float) for cell in cells]
    if all(cell.lower() in _TRUTH for cell in known):
        return [None if cell is None else _TRUTH[cell.lower()] for cell in cells]
    return list(cells)


def _number(cell: str | None, kind: type[int] | type[float]) -> Label:
    if cell is None or cell.lower() in _INFINITE:
        return None
    value = kind(cell)
    return value if math.isfinite(value) else None
