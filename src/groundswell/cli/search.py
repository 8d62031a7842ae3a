"""``groundswell search``: the nearest neighbours of an imagette, an image file or a crop of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundswell.cli.app import Outcome, verb

if TYPE_CHECKING:
    import pandas as pd

    from groundswell.encoder.images import Crop
    from groundswell.search.query import Hits

SHOWN = ("time", "lon", "lat")
LABELS = 3
"""How many labels are shown of each neighbour, those in words first."""


@verb
def search(
    table: Annotated[Path, typer.Argument(help="An embedding table.")],
    query: Annotated[str, typer.Option(help="The id of an imagette in the table, or an image file.")],
    model: Annotated[Path | None, typer.Option(help="The model that made the table; needed for an image file.")] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="The part of the image file to look for, px.")
    ] = None,
    quantity: Annotated[
        str | None, typer.Option(help="What the pixels of the image file are, where it cannot say.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="How many neighbours.")] = 12,
    exclude_group: Annotated[
        bool, typer.Option("--exclude-group", help="Leave out neighbours of the query's own group (datatake, product).")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A contact sheet to write (.png, .jpg).")
    ] = None,
    archive: Annotated[
        list[Path] | None, typer.Option(help="Where an archive of the table is now, if it has moved; in their order.")
    ] = None,
) -> Outcome:
    """Search an embedding table for look-alikes, by exact cosine.

    The query is a row of the table (it is left out of the answer) or an image file, whole or a crop of it, which the
    model embeds first. The contact sheet shows the query, framed, and what was found.

    Example: `groundswell search table.parquet --query sim-0-000000012 -k 12 -o sheet.png`
    """
    from rich.markup import escape

    from groundswell.encoder.images import open_image
    from groundswell.encoder.provenance import in_words
    from groundswell.encoder.table import EmbeddingTable
    from groundswell.errors import UsageError
    from groundswell.search.query import search_image, search_row, thumbnails

    if archive and output is None:
        raise UsageError("--archive is for the contact sheet", fix="add -o SHEET.png, or leave --archive out")
    header = EmbeddingTable.read_header(table)
    image = None
    if not Path(query).is_file():
        for name, value in (("--model", model), ("--crop", crop), ("--quantity", quantity)):
            if value is not None:
                raise UsageError(
                    f"{name} is for an image file, and there is no file {query!r}", fix="check the path of the image"
                )
        hits: Hits = search_row(table, query, count, exclude_group=exclude_group)
    else:
        if exclude_group:
            raise UsageError("an image file has no group in the table", fix="leave out --exclude-group")
        if model is None:
            raise UsageError(
                "an image must be embedded by the model that made the table",
                where=query,
                why=f"the table was made by {header.model}",
                fix="add --model MODEL",
            )
        from groundswell.encoder.directory import load

        image = open_image(query, quantity=quantity, crop=_crop(crop))
        hits = search_image(table, load(model), image, count)

    if output is not None:
        from groundswell.report.sheets import contact_sheet

        pictures = thumbnails(header, table, hits.frame, archive)
        if image is not None:
            pictures = [image.pixels[0], *pictures]
        elif hits.query is not None:
            pictures = thumbnails(header, table, hits.query, archive) + pictures
        titles = [f"query\n{Path(query).name if image is not None else query}", *_titles(hits)]
        contact_sheet(pictures, titles, output, marked=[0], heading=f"{header.model}   {in_words(header.data)}")
    rows = [
        {"rank": i + 1, "score": float(s), **r} for i, (s, r) in enumerate(zip(hits.scores, _rows(hits), strict=True))
    ]
    data = {"query": query, "table": str(table), "model": header.model, "sheet": output and str(output), "hits": rows}
    text = "\n".join(f"{r['rank']:3d}  {r['score']:.4f}  " + "  ".join(_texts(r)) for r in rows)
    return Outcome(data, escape(text + (f"\nContact sheet: {output}" if output else "")))


def _crop(text: str | None) -> Crop | None:
    from groundswell.errors import UsageError

    if text is None:
        return None
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{text!r} is not a crop", fix="write --crop x,y,width,height in px") from error
    return x, y, width, height


def _labels(frame: pd.DataFrame) -> list[str]:
    names = [c for c in map(str, frame.columns) if c.startswith("label_") and not c.startswith("label_tag_")]
    names = [c for c in names if frame[c].notna().any()]
    return sorted(names, key=lambda c: frame[c].dtype.kind in "biuf")[:LABELS]


def _rows(hits: Hits) -> list[dict[str, Any]]:
    frame: pd.DataFrame = hits.frame[["id", *(c for c in SHOWN if c in hits.frame), *_labels(hits.frame)]]
    return [{str(k): v for k, v in row.items() if v == v} for row in frame.astype(object).to_dict("records")]  # no NaN


def _texts(row: dict[str, Any]) -> list[str]:
    return [f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items() if k not in ("rank", "score")]


def _titles(hits: Hits) -> list[str]:
    label = next(iter(_labels(hits.frame)), None)
    shown = [""] * len(hits.frame) if label is None else hits.frame[label].astype(str)
    return [f"{s:.3f} {lab}\n{i}" for s, lab, i in zip(hits.scores, shown, hits.frame["id"], strict=True)]
