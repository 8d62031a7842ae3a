"""``groundswell predict``: a fitted probe on new images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundswell.cli.app import Outcome, verb

if TYPE_CHECKING:
    from groundswell.encoder.table import EmbeddingTable
    from groundswell.evaluation.fitted import FittedProbe


@verb
def predict(
    probe: Annotated[Path, typer.Argument(metavar="PROBE", help="A fitted probe: RESULTS/probes/NAME.")],
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="TABLE|ARCHIVE...", help="Images: an embedding table or an archive. Two tables for a `+` probe."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write, with pred_ columns.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="For an archive: the encoder (two for a `+` probe).")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Rows to predict for: \"beam == 'WV1'\".")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> Outcome:
    """Apply a probe that `groundswell probe` fitted to new images.

    Writes the embedding table of the images with added columns: `pred_NAME` and the probability of each class, of each
    tag, or the predicted value in the unit of the target. The probe refuses vectors of any other encoder or
    preprocessing than those it was fitted on.

    Example: `groundswell predict results/probes/model--label_hs--linear new-archive --model run/model -o new.parquet`
    """
    from groundswell.encoder.table import join
    from groundswell.errors import UsageError
    from groundswell.evaluation.fitted import add_predictions, load_probe

    fitted = load_probe(probe)
    archives = [path for path in sources if path.is_dir()]
    if archives and len(sources) > 1:
        raise UsageError("predict takes one archive, or tables of the same images", where=", ".join(map(str, sources)))
    if archives:
        tables = _embed(fitted, archives[0], model or [], where, device, output)
    else:
        tables = [_read(path, output).where(where) for path in sources]
    result = add_predictions(fitted, tables[0] if len(tables) == 1 else join(tables))
    result.write(output)
    added = fitted.column_names()
    named = ", ".join(added[:4]) + (" ..." if len(added) > 4 else "")
    return Outcome(
        {"table": str(output), "rows": len(result), "columns": added, "target": fitted.target, "task": fitted.task},
        f"{len(result):,} predictions of {fitted.target} ({named}): {output}",
    )


def _read(path: Path, output: Path) -> EmbeddingTable:
    """A table whose header finds its archives from where the output will lie."""
    import os
    from dataclasses import replace

    from groundswell.encoder.table import EmbeddingTable

    table = EmbeddingTable.read(path)
    moved = [
        os.path.relpath(path.absolute().parent / archive, output.absolute().parent) for archive in table.header.archives
    ]
    return replace(table, header=replace(table.header, archives=tuple(Path(m).as_posix() for m in moved)))


def _embed(
    probe: FittedProbe, archive: Path, models: list[str], where: str | None, device: str, output: Path
) -> list[EmbeddingTable]:
    """The tables of an archive, one by each model, made beside the output and removed once they are read."""
    from groundswell.archive.reader import open_archive
    from groundswell.encoder.table import EmbeddingTable
    from groundswell.encoder.table import embed as run
    from groundswell.errors import UsageError
    from groundswell.evaluation.controls import open_embedder

    if not models:
        raise UsageError(
            "an archive must be embedded first", where=archive, fix="name the encoder with --model RUN/model"
        )
    tables = []
    for number, name in enumerate(models):
        temporary = output.with_name(f".{output.name}.embedding-{number}")
        embedder = open_embedder(name, device=device)
        if len(models) == 1:  # refused now, not after hours of embedding
            probe.require(embedder.id, embedder.preprocessing_hash, probe.dim)
        run(embedder, [open_archive(archive)], temporary, where=where)
        tables.append(EmbeddingTable.read(temporary))
        temporary.unlink()
    return tables
