"""``groundswell search``: the nearest neighbours of an imagette, of every row of a table, of an image or a crop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundswell.cli.app import Outcome, verb

if TYPE_CHECKING:
    from groundswell.encoder.images import Crop
    from groundswell.search.query import Hits


@verb
def search(
    table: Annotated[Path, typer.Argument(help="An embedding table.")],
    query: Annotated[str | None, typer.Option(help="The id of an imagette in the table, or an image file.")] = None,
    queries: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="Ask with every row of this table, made by the same model.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="The model that made the table; needed for an image file.")] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="The part of the image file to look for, px.")
    ] = None,
    quantity: Annotated[
        str | None, typer.Option(help="What the pixels of the image file are, where it cannot say.")
    ] = None,
    far_range: Annotated[
        str | None,
        typer.Option(metavar="SIDE", help="Turn the image file as `ingest --far-range` turned those of the archive."),
    ] = None,
    incidence: Annotated[
        str | None,
        typer.Option(
            metavar="DEG|FIRST,LAST",
            help="Incidence of the image file, degrees: one for all of it, or of its first and last column. A model "
            "that takes roughness_db needs it for sigma0.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="How many neighbours.")] = 12,
    exclude_group: Annotated[
        bool, typer.Option("--exclude-group", help="Leave out neighbours of the query's own group (datatake, product).")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A contact sheet to write (.png, .jpg).")
    ] = None,
    archive: Annotated[
        list[Path] | None,
        typer.Option(
            help="Where an archive of the table is now, if it has moved; all in their order, then those of --queries."
        ),
    ] = None,
) -> Outcome:
    """Search an embedding table for look-alikes, by exact cosine.

    The query is a row of the table (it is left out of the answer) or an image file, whole or a crop of it, which the
    model embeds first. The contact sheet shows the query, framed, and what was found. With --queries every row of
    another table asks: real images among simulated ones, new ones among labelled ones; the sheet has one row a query.
    Labels that are 0 or 1 are shown as the list of tags that are set.

    Examples: `groundswell search table.parquet --query sim-0-000000012 -k 12 -o sheet.png`

    `groundswell search simulated.parquet --queries real.parquet -k 10 -o sheet.png`
    """
    from groundswell.errors import UsageError

    if archive and output is None:
        raise UsageError("--archive is for the contact sheet", fix="add -o SHEET.png, or leave --archive out")
    if (query is None) == (queries is None):
        raise UsageError(
            "search needs one kind of query", fix="add --query ID, --query IMAGE or --queries TABLE, and only one"
        )
    image_only = {"--model": model, "--crop": crop, "--quantity": quantity, "--far-range": far_range}
    image_only |= {"--incidence": incidence}
    if queries is not None:
        _refuse(image_only, "--queries takes a table of embeddings", "leave it out")
        return _many(table, queries, count, exclude_group, output, archive)
    assert query is not None
    if not Path(query).is_file():
        _refuse(image_only, f"there is no file {query!r}", "check the path of the image")
    return _one(table, query, model, crop, quantity, far_range, incidence, count, exclude_group, output, archive)


def _refuse(image_only: Mapping[str, object], why: str, fix: str) -> None:
    from groundswell.errors import UsageError

    for name, value in image_only.items():
        if value is not None:
            raise UsageError(f"{name} is for an image file, and {why}", fix=fix)


def _one(
    table: Path,
    query: str,
    model: Path | None,
    crop: str | None,
    quantity: str | None,
    far_range: str | None,
    incidence: str | None,
    count: int,
    exclude_group: bool,
    output: Path | None,
    archive: list[Path] | None,
) -> Outcome:
    from rich.markup import escape

    from groundswell.cli.ingest import parse_far_range
    from groundswell.encoder.images import open_image
    from groundswell.encoder.provenance import in_words
    from groundswell.encoder.table import EmbeddingTable
    from groundswell.errors import UsageError
    from groundswell.report.neighbours import Labels, hit_lines, hit_rows, one_query_sheet
    from groundswell.search.query import search_image, search_row, thumbnails

    header = EmbeddingTable.read_header(table)
    image = None
    if not Path(query).is_file():
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

        image = open_image(
            query,
            quantity=quantity,
            crop=_crop(crop),
            far_range=parse_far_range(far_range),
            incidence=_angles(incidence),
        )
        hits = search_image(table, load(model), image, count)

    labels = Labels.of(hits.table)
    rows = hit_rows(hits, labels)
    if output is not None:
        if image is not None:
            asked = image.pixels[0], Path(query).name
        else:
            assert hits.query is not None
            asked = thumbnails(header, table, hits.query, archive)[0], query
        pictures = thumbnails(header, table, hits.frame, archive)
        one_query_sheet(asked, pictures, rows, labels, output, f"{header.model}   {in_words(header.data)}")
    data = {"query": query, "table": str(table), "model": header.model, "sheet": output and str(output), "hits": rows}
    return Outcome(data, escape("\n".join([*hit_lines(rows, labels), *_written(output)])))


def _many(
    table: Path, queries: Path, count: int, exclude_group: bool, output: Path | None, archive: list[Path] | None
) -> Outcome:
    from rich.markup import escape

    from groundswell.encoder.provenance import in_words
    from groundswell.encoder.table import EmbeddingTable
    from groundswell.report.neighbours import (
        Labels,
        class_counts,
        hit_rows,
        many_queries_sheet,
        query_lines,
        require_few,
    )
    from groundswell.search.query import search_table, thumbnails

    header, asking = EmbeddingTable.read_header(table), EmbeddingTable.read_header(queries)
    found = search_table(table, queries, count, exclude_group=exclude_group)
    labels = Labels.of(found[0].table)
    asked = EmbeddingTable.read_frame(queries)
    asking_labels = Labels.of(asked)
    asked_rows = asking_labels.rows(asked)
    words = [asking_labels.words(row) for row in asked_rows]
    rows = [hit_rows(hits, labels) for hits in found]
    if output is not None:
        require_few(len(found))
        ours, theirs = _archives(archive, len(header.archives), len(asking.archives))
        shown = thumbnails(asking, queries, asked, theirs)
        titles = [f"{', '.join(w) or 'query'}\n{row['id']}" for w, row in zip(words, asked_rows, strict=True)]
        pictures = [thumbnails(header, table, hits.frame, ours) for hits in found]
        heading = (
            f"{header.model}   framed: {in_words(asking.data)} Beside each, its nearest of: {in_words(header.data)}"
        )
        many_queries_sheet(list(zip(shown, titles, strict=True)), pictures, rows, labels, output, heading)
    data: dict[str, Any] = {
        "table": str(table),
        "queries": str(queries),
        "model": header.model,
        "data": {"table": in_words(header.data), "queries": in_words(asking.data)},
        "count": count,
        "class_column": labels.main,
        "classes": class_counts(found[0].table, labels),
        "sheet": output and str(output),
        "results": [{"query": row, "hits": hits} for row, hits in zip(asked_rows, rows, strict=True)],
    }
    lines = [
        line
        for row, described, hits in zip(asked_rows, words, rows, strict=True)
        for line in query_lines(row, described, hits, labels)
    ]
    return Outcome(data, escape("\n".join([*lines, *_written(output)])))


def _archives(given: list[Path] | None, ours: int, theirs: int) -> tuple[list[Path] | None, list[Path] | None]:
    """The archives given, divided into those of the table and those of the queries; None where they have not moved."""
    from groundswell.errors import UsageError

    if not given:
        return None, None
    if len(given) != ours + theirs:
        raise UsageError(
            f"the two tables were made from {ours} and {theirs} archives, and {len(given)} are given",
            fix="give --archive once for each: those of the table in its order, then those of --queries",
        )
    return given[:ours], given[ours:]


def _written(output: Path | None) -> list[str]:
    return [f"Contact sheet: {output}"] if output else []


def _crop(text: str | None) -> Crop | None:
    from groundswell.errors import UsageError

    if text is None:
        return None
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{text!r} is not a crop", fix="write --crop x,y,width,height in px") from error
    return x, y, width, height


def _angles(text: str | None) -> tuple[float, float] | None:
    from groundswell.errors import UsageError

    if text is None:
        return None
    try:
        angles = [float(part) for part in text.split(",")]
        first, last = angles * 2 if len(angles) == 1 else angles
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no incidence", fix="write --incidence 23.5, or 22.9,24.3 for the first and last column"
        ) from error
    return first, last
