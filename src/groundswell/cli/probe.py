"""``groundswell probe``: how much a model's embeddings tell, beside its controls."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundswell.cli.app import Outcome, verb

if TYPE_CHECKING:
    from groundswell.encoder.table import EmbeddingTable


class Task(StrEnum):
    """What is predicted."""

    CLASSIFICATION = "classification"
    MULTI_LABEL = "multi-label"
    REGRESSION = "regression"


class CrossValidation(StrEnum):
    """How a split is made where none is given."""

    GROUP = "group"


@verb
def probe(
    tables: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]TABLE...", help="Embedding tables: the model's first, then its controls'."),
    ],
    target: Annotated[
        list[str],
        typer.Option("--target", "-t", metavar="COLUMN", help="A label, or a pattern of 0/1 tags; may be repeated."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The RESULTS folder to write.")],
    protocol: Annotated[str, typer.Option(help="knn, linear or both.")] = "knn,linear",
    task: Annotated[Task | None, typer.Option(help="Told by the values unless given.")] = None,
    split: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Train on its rows `train`, judge on every other value.")
    ] = None,
    train_value: Annotated[str, typer.Option(help="The value of the split column that marks training rows.")] = "train",
    validation_value: Annotated[str, typer.Option(help="The value that marks rows to choose settings on.")] = "val",
    cv: Annotated[CrossValidation | None, typer.Option(help="Cross-validate over whole groups instead.")] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Folds of --cv; by default one a group up to ten groups, else five.")
    ] = None,
    group: Annotated[
        str, typer.Option(metavar="COLUMN", help="What must never straddle a split; auto is `group`, none is each row.")
    ] = "auto",
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add the columns of this table (Parquet, CSV) by its column id.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Rows to use: \"label_type in ['Cargo', 'Tanker']\".")] = None,
    baseline_columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Add a control that sees only these columns, e.g. width,height.")
    ] = None,
    k: Annotated[str, typer.Option(help="Neighbours; of several (10,20,50) the training rows choose.")] = "20",
    both: Annotated[
        bool | None, typer.Option("--both/--no-both", help="Model and statistics side by side (for regressions: yes).")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="The metric to print; all are in results.json.")] = None,
    balance: Annotated[
        bool | None,
        typer.Option(
            "--balance/--no-balance", help="Weight classes alike in fitting (where their numbers differ: yes)."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(min=100, help="Resamples behind an interval.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of held-out rows, folds and resamples.")] = 0,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Go on where training and judged rows share groups; recorded.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results in the output.")] = False,
) -> Outcome:
    """Judge embeddings by probes fitted on frozen vectors, beside controls that have learned nothing.

    Every score comes with an interval that resamples groups, and every control with the interval of the paired
    difference: a claim rests on that one. Tables of `random:MODEL:SEED` are taken as seeds of one control; a table of
    `statistics` is also joined to the model's for regressions. The fitted probes are kept for `groundswell predict`.

    Example: `groundswell probe model.parquet random-0.parquet statistics.parquet --target label_phenomenon -o results`
    """
    from dataclasses import replace

    from rich.markup import escape

    from groundswell.config import validate
    from groundswell.evaluation.cases import ProbeSettings
    from groundswell.evaluation.probe import baseline, run_probe
    from groundswell.evaluation.results import for_json, refuse_existing
    from groundswell.evaluation.text import shown, verdicts
    from groundswell.files import sha256_file

    values: dict[str, Any] = {
        "targets": target,
        "protocols": _listed(protocol),
        "task": task.value if task else None,
        "split": split,
        "train_value": train_value,
        "validation_value": validation_value,
        "cv": cv.value if cv else None,
        "folds": folds,
        "group": group,
        "where": where,
        "k": _listed(k),
        "both": both,
        "metric": metric,
        "balance": balance,
        "draws": draws,
        "seed": seed,
        "allow_overlap": allow_overlap,
    }
    settings = validate(ProbeSettings, values)
    refuse_existing(output, overwrite)
    opened = read_tables(tables)
    if labels is not None:  # rows and labels are those of the first table
        first = next(iter(opened))
        opened[first] = opened[first].with_labels(labels)
    if baseline_columns:
        opened["baseline"] = baseline(next(iter(opened.values())), _listed(baseline_columns), where)
    results = run_probe(opened, settings)
    if labels is not None:
        used = {"labels": {"name": labels.name, "sha256": sha256_file(labels)}}
        results = replace(results, record={**results.record, **used})
    results.save(output, overwrite=overwrite)
    record = results.record
    data = {
        "results": str(output),
        "data": record["data"],
        "targets": record["targets"],
        "scores": [r for t in record["targets"] for r in shown(record, t, "scores")],
        "differences": [r for t in record["targets"] for r in shown(record, t, "differences")],
        "verdicts": {t["name"]: verdicts(record, t["name"]) for t in record["targets"]},
        "probes": record["probes"],
    }
    return Outcome(
        for_json(data),
        escape(results.text()) + f"\nResults: {output}\nNext: groundswell report {output} -o report.html, or "
        f"groundswell predict {output}/{record['probes'][0]['path']} TABLE -o predicted.parquet",
    )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def read_tables(arguments: list[str]) -> dict[str, EmbeddingTable]:
    """Tables by name, in order; the name is given before ``=``, or is the name of the file."""
    from groundswell.encoder.table import EmbeddingTable
    from groundswell.errors import UsageError

    opened: dict[str, EmbeddingTable] = {}
    for text in arguments:
        name, separator, path = text.partition("=")
        if not separator or Path(text).exists():
            name, path = Path(text).stem, text
        if name in opened:
            raise UsageError(f"two tables are called {name!r}", where=path, fix=f"name one of them: NAME={path}")
        opened[name] = EmbeddingTable.read(path)
    return opened
