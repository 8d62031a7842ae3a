"""``groundswell collocate``: buoys, altimeters, models and level-2 products onto imagettes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundswell.cli.app import Outcome, verb

if TYPE_CHECKING:
    import pandas as pd


class Match(StrEnum):
    """What becomes of several references near one imagette."""

    NEAREST = "nearest"
    MEAN = "mean"


@verb
def collocate(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The imagettes.")],
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]TABLE...",
            help="References: Parquet, CSV or NetCDF with times and places, or level-2 (OCN) products, packed or not.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The label table to write (Parquet).")],
    hours: Annotated[float, typer.Option(help="Longest time between imagette and reference.")] = 3.0,
    km: Annotated[float, typer.Option(help="Longest great-circle distance.")] = 100.0,
    match: Annotated[
        Match, typer.Option(help="The nearest in time and space, or the mean weighted by distance.")
    ] = Match.NEAREST,
    variable: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="What to keep; may be repeated. By default every number.")
    ] = None,
    time_column: Annotated[str | None, typer.Option(help="Found by its name where not given.")] = None,
    lon_column: Annotated[str | None, typer.Option(help="Found by its name where not given.")] = None,
    lat_column: Annotated[str | None, typer.Option(help="Found by its name where not given.")] = None,
    source_column: Annotated[str | None, typer.Option(help="What tells buoys or satellites of a table apart.")] = None,
    where: Annotated[str | None, typer.Option(help="Imagettes to look for: \"beam == 'WV1'\".")] = None,
) -> Outcome:
    """Join reference tables to imagettes within a time window and a great-circle radius.

    Writes one row an imagette: its id and, for each variable, the value with `_dt_min` (reference less imagette,
    minutes), `_km` and `_src`; for means also their number `_n` and spread `_std`. A variable of a table given as
    NAME=TABLE is called NAME_variable; variables of one name are taken together over all tables. Level-2 products are
    joined by mission, orbit, datatake and image number instead. `groundswell probe --labels` takes the result.

    Example: `groundswell collocate archive buoys.parquet ww3=ww3.nc -o labels.parquet`
    """
    from rich.markup import escape

    from groundswell.archive.reader import open_archive
    from groundswell.errors import DataError, UsageError
    from groundswell.products.names import parse_measurement
    from groundswell.products.references import collocate as run
    from groundswell.products.references.files import Columns, open_reference
    from groundswell.products.safe.find import PACKED, find_products
    from groundswell.products.safe.level2 import read_ocn_labels
    from groundswell.products.source import Rejected

    criteria = run.Criteria(hours, km, match.value)
    catalogue = open_archive(archive).where(where).catalogue
    columns = Columns(time_column, lon_column, lat_column, source_column, tuple(variable or ()))
    references, products = [], []
    for text in tables:
        prefix, separator, path = text.partition("=")
        if not separator or Path(text).exists():
            prefix, path = "", text
        name = parse_measurement(Path(path).name)
        if Path(path).is_dir() or path.lower().endswith(PACKED) or (name is not None and name.kind == "OCN"):
            products.append(path)
        else:
            references.append((prefix, open_reference(path, columns)))
    labels = catalogue[["id"]]
    rejected: list[Rejected] = []
    if references:
        labels = run.collocate(catalogue, references, criteria)
    if products:
        found = find_products(products)
        levels, rejected = read_ocn_labels(found.level2)
        rejected += [Rejected(file, reason) for file, reason in found.unreadable.items()]
        if levels.empty:
            raise DataError(
                "no level-2 file could be read",
                where=", ".join(products),
                why=rejected[0].reason if rejected else "there is none in these folders and products",
            )
        joined = run.join_ocn(catalogue, levels)
        both = [name for name in joined if name != "id" and name in labels]
        if both:
            raise UsageError(f"two labels would be called {both[0]}", fix="give the table a name: NAME=TABLE")
        labels = labels.merge(joined, on="id", validate="one_to_one")
    run.write_labels(output, labels, run.record_of(criteria, references) | {"products": products})
    data: dict[str, Any] = {
        "labels": str(output),
        "imagettes": len(labels),
        "variables": _described(labels),
        "rejected": {one.id: one.reason for one in rejected},
    }
    lines = [f"{output}: labels of {len(labels):,} imagettes"]
    for label, facts in data["variables"].items():
        near = "" if "km" not in facts else f", half of them within {facts['km']:.0f} km and {facts['minutes']:.0f} min"
        lines.append(f"  {label}: {facts['known']:,} known{near}")
    lines += [f"  not read: {name} ({reason})" for name, reason in data["rejected"].items()]
    lines.append(f"Next: groundswell probe TABLE --labels {output} --target COLUMN -o results")
    return Outcome(data, escape("\n".join(lines)), exit_code=4 if rejected else 0)


def _described(labels: pd.DataFrame) -> dict[str, dict[str, float]]:
    """How many imagettes have each variable, and how near (medians)."""
    described: dict[str, dict[str, float]] = {}
    for name in labels.columns:
        if name == "id" or any(
            name == f"{other}_{end}" for other in labels for end in ("dt_min", "km", "src", "n", "std")
        ):
            continue
        known = int(labels[name].notna().sum())
        described[name] = {"known": known}
        if known and f"{name}_km" in labels:
            described[name] |= {
                "km": float(labels[f"{name}_km"].median()),
                "minutes": float(labels[f"{name}_dt_min"].abs().median()),
            }
    return described
