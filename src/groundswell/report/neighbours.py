"""What a search found, for people and for programs: rows, lines of text, and contact sheets."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundswell.errors import UsageError
from groundswell.report.labels import class_column, tag_columns
from groundswell.report.sheets import contact_sheet
from groundswell.search.query import Hits

PLACE = ("time", "lon", "lat")
OTHERS_SHOWN = 3
MOST_QUERIES = 200
"""Rows of a contact sheet: beyond, a picture is taller than the formats allow, and nobody looks at it."""
_WIDTH = 110

Row = dict[str, Any]
Picture = NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """Which columns of a table say what its images show, told from all of its rows.

    Attributes
    ----------
    main : str or None
        The column of classes.
    tags : tuple of str
        The 0/1 columns.
    others : tuple of str
        Every other label that any row has, those in words first.
    """

    main: str | None
    tags: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, table: pd.DataFrame) -> Labels:
        """The labels of a table, from all of its rows."""
        main, tags = class_column(table), tag_columns(table)
        rest = [c for c in map(str, table.columns) if c.startswith("label_") and c not in (main, *tags)]
        rest = [c for c in rest if table[c].notna().any()]
        return cls(main, tuple(tags), tuple(sorted(rest, key=lambda c: table[c].dtype.kind in "biuf")))

    def rows(self, frame: pd.DataFrame) -> list[Row]:
        """Rows of the table as JSON-able mappings: id, place, labels, and under ``tags`` the tags that are set.

        What is unknown is left out, ``tags`` too where all of them are unknown.
        """
        columns = ["id", *(c for c in PLACE if c in frame), *([self.main] if self.main else []), *self.others]
        records = frame[columns].astype(object).to_dict("records")
        rows = [{str(k): v for k, v in record.items() if pd.notna(v)} for record in records]
        if self.tags:
            known = frame[list(self.tags)]
            for row, (_, tags) in zip(rows, known.iterrows(), strict=True):
                if tags.notna().any():
                    row["tags"] = [tag_name(str(c)) for c, value in tags.items() if pd.notna(value) and value == 1]
        return rows

    def words(self, row: Row) -> list[str]:
        """The class of a row and its tags, each once; where it has neither, its first other labels."""
        words = [str(row[self.main])] if self.main in row else []
        words += [tag for tag in row.get("tags", ()) if tag not in words]
        if not words and "tags" in row:
            return ["no tag"]
        return words or self.first_others(row)

    def first_others(self, row: Row) -> list[str]:
        """The first other labels of a row, as text."""
        return [_text(row[c]) for c in self.others if c in row][:OTHERS_SHOWN]


def tag_name(column: str) -> str:
    """A 0/1 label column without its prefix."""
    return column.removeprefix("label_tag_").removeprefix("label_")


def hit_rows(hits: Hits, labels: Labels) -> list[Row]:
    """What was found as JSON-able mappings, nearest first, each with its rank (from 1) and cosine."""
    rows = labels.rows(hits.frame)
    return [{"rank": i + 1, "score": float(s), **row} for i, (s, row) in enumerate(zip(hits.scores, rows, strict=True))]


def hit_lines(rows: Sequence[Row], labels: Labels) -> list[str]:
    """One line a neighbour: rank, cosine, id, place and labels."""
    lines = []
    for row in rows:
        words, others = labels.words(row), labels.first_others(row)
        parts = [row["id"], *(_text(row[c]) for c in PLACE if c in row), *words, *(others if words != others else ())]
        lines.append(f"{row['rank']:3d}  {row['score']:.4f}  " + "  ".join(parts))
    return lines


def query_lines(query: Row, words: Sequence[str], rows: Sequence[Row], labels: Labels) -> list[str]:
    """A query with its labels, and under it its neighbours, each with cosine and class (id where it has none)."""
    found = [f"{row['score']:.3f} {' '.join(labels.words(row)[:1]) or row['id']}".replace(" ", "\0") for row in rows]
    lines = textwrap.wrap("  ".join(found), _WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return [f"{query['id']}   {', '.join(words)}".rstrip(), *("    " + line.replace("\0", " ") for line in lines)]


def one_query_sheet(
    query: tuple[Picture, str],
    pictures: Sequence[Picture],
    rows: Sequence[Row],
    labels: Labels,
    path: Path,
    heading: str,
) -> None:
    """The contact sheet of one query, framed, and what it found."""
    titles = [f"query\n{query[1]}", *(_title(row, labels) for row in rows)]
    contact_sheet([query[0], *pictures], titles, path, marked=[0], heading=heading)


def many_queries_sheet(
    queries: Sequence[tuple[Picture, str]],
    pictures: Sequence[Sequence[Picture]],
    rows: Sequence[Sequence[Row]],
    labels: Labels,
    path: Path,
    heading: str,
) -> None:
    """A contact sheet of one row a query: the query first, framed, with its title, then what it found."""
    across = 1 + max((len(found) for found in rows), default=0)
    images: list[Picture | None] = []
    titles: list[str] = []
    for (picture, title), near, found in zip(queries, pictures, rows, strict=True):
        empty = across - 1 - len(found)
        images += [picture, *near, *[None] * empty]
        titles += [title, *(_title(row, labels) for row in found), *[""] * empty]
    marked = range(0, len(images), across)
    contact_sheet(images, titles, path, columns=across, marked=marked, heading=heading)


def require_few(count: int) -> None:
    """Raise `UsageError` where a contact sheet would have more rows than anybody looks at."""
    if count > MOST_QUERIES:
        raise UsageError(
            f"a contact sheet of {count:,} queries is too long",
            why=f"it has one row a query, and {MOST_QUERIES} at most",
            fix="leave out -o (--json has everything), or embed fewer queries with embed --where",
        )


def class_counts(table: pd.DataFrame, labels: Labels) -> Mapping[str, int]:
    """How many rows of a table each class has; empty where it has no classes."""
    if labels.main is None:
        return {}
    return {str(k): int(v) for k, v in table[labels.main].value_counts().sort_index().items()}


def _title(row: Row, labels: Labels) -> str:
    return f"{row['score']:.3f} {' '.join(labels.words(row)[:1])}".rstrip() + f"\n{row['id']}"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
