"""The few kinds of content a report is made of. The template knows how each looks; sections only fill them in.

Every text here is plain: the template escapes it. Only `Figure.svg` is markup, and only `figures` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Tone = Literal["win", "tie", "loss", "none"]


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval drawn in a table cell: positions in percent of the cell's axis, and where zero stands (or None)."""

    low: float
    value: float
    high: float
    zero: float | None = None
    tone: Tone = "none"


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell with something drawn beside its text."""

    text: str
    bar: Bar | None = None
    tone: Tone = "none"


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    note: bool = False


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Sentences, each with its tone."""

    kind: ClassVar[str] = "verdicts"
    items: Sequence[tuple[Tone, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first column is text, the others are numbers unless named in ``text_columns``."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    text_columns: Sequence[int] = (0,)


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing as inline SVG, with what it shows in words."""

    kind: ClassVar[str] = "figure"
    svg: str
    alt: str
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """A small picture (data URI) with one line under it; ``tone`` colours that line."""

    source: str
    alt: str
    caption: str = ""
    tone: Tone = "none"


@dataclass(frozen=True, slots=True)
class Gallery:
    """Rows of tiles, each row with a label; ``lead`` tiles stand apart at the left of a row."""

    kind: ClassVar[str] = "gallery"
    rows: Sequence[tuple[str, Sequence[Tile]]]
    lead: int = 0
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A confusion matrix: counts, rows observed, columns predicted."""

    kind: ClassVar[str] = "matrix"
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    caption: str = ""

    @property
    def shares(self) -> list[list[float]]:
        """Each count over the sum of its row (0 where the row is empty)."""
        return [[count / max(sum(row), 1) for count in row] for row in self.counts]


@dataclass(frozen=True, slots=True)
class Details:
    """Something to unfold: names with values, then verbatim text."""

    kind: ClassVar[str] = "details"
    summary: str
    pairs: Sequence[tuple[str, str]] = ()
    code: str = ""
    open: bool = False


Block = Text | Verdicts | Table | Figure | Gallery | Matrix | Details


@dataclass(frozen=True, slots=True)
class Section:
    """A chapter of the report."""

    id: str
    title: str
    blocks: list[Block] = field(default_factory=list)
    lead: str = ""


def cells(*texts: str | Cell) -> list[Cell]:
    """A row of a table from texts and cells."""
    return [text if isinstance(text, Cell) else Cell(text) for text in texts]
