"""``groundswell embed``: archives into an embedding table."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from groundswell.cli.app import Outcome, verb


class Dtype(StrEnum):
    """How an embedding is stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


@verb
def embed(
    model: Annotated[str, typer.Argument(help="A model directory, random:MODEL[:SEED], statistics or cmod5n.")],
    archives: Annotated[list[Path], typer.Argument(metavar="ARCHIVE...", help="Archives to embed into one table.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write (GeoParquet).")],
    where: Annotated[str | None, typer.Option(help="Rows to embed: \"split == 'test'\".")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes no vector by more than 1e-4.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    dtype: Annotated[Dtype, typer.Option(help="float16 halves the table, at three digits.")] = Dtype.FLOAT32,
    spacing_tolerance: Annotated[
        float | None, typer.Option(min=0, help="Let through this relative departure from the model's pixel spacing.")
    ] = None,
) -> Outcome:
    """Embed archives: one vector an imagette, with its catalogue row and labels, in one table.

    The controls write the same table, so that every probe sees them alike: `random:MODEL` is the architecture with
    fresh weights, `statistics` measures moments, percentiles and spectral bands, `cmod5n` inverts the wind from the
    mean backscatter. Stopped half-way, the same command goes on from the last whole shard.

    Example: `groundswell embed run/model archive -o table.parquet`
    """
    from rich.markup import escape

    from groundswell.archive.reader import open_archive
    from groundswell.encoder.embedding import embed as run
    from groundswell.encoder.provenance import in_words
    from groundswell.evaluation.controls import open_embedder

    opened = [open_archive(path) for path in archives]
    embedder = open_embedder(model, device=device, spacing_tolerance=spacing_tolerance)
    header = run(embedder, opened, output, batch_size=batch_size, where=where, dtype=dtype.value)
    rows = sum(d.imagettes for d in header.data)
    data = {"table": str(output), "rows": rows, **header.to_json()}
    text = (
        f"{rows:,} embeddings of {header.dimension} numbers by {header.model}: {output}\n{in_words(header.data)}\n"
        f"Next: groundswell probe {output} --target COLUMN -o results, or groundswell search {output} --query ID"
    )
    return Outcome(data, escape(text))
