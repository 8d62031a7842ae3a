"""``groundswell ablate``: what each change of a recipe does, over seeds, in one table and one plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundswell import progress
from groundswell.cli.app import PARTIAL, Outcome, verb

if TYPE_CHECKING:
    from groundswell.ablation.grid import Grid
    from groundswell.archive.reader import Archive


@verb
def ablate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="ARCHIVE... [a.b=c ...]",
            help="Archives, then settings of every cell, of the probe, or seeds=[0,1].",
        ),
    ],
    grid: Annotated[str, typer.Option("--grid", "-g", help="A shipped grid (see `list grids`) or a YAML file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the study.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs and about how long they take, and do nothing.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed before.")] = False,
) -> Outcome:
    """Run a grid of changes to a recipe, each with several seeds: pretrain, embed, probe; one table and one plot.

    A grid names a base recipe, changes to it (one cell each), seeds, and what to probe. The table gives the mean of
    each cell over seeds and its difference to the base, paired by seed, with intervals; random weights and image
    statistics stand beside. Finished runs are reused, stopped ones go on: run the same command again. A run that
    collapses or diverges is recorded with its reason, the others go on, and the exit code is 4. An archive with other
    labels needs another probe: `probe.targets=[label_kind]`.

    Example: `groundswell ablate archive --grid wvnet-augmentations-small -o study --dry-run`
    """
    from rich.markup import escape

    from groundswell.ablation.grid import read_grid
    from groundswell.ablation.study import check_place, run_study
    from groundswell.ablation.table import markdown
    from groundswell.archive.reader import open_archive
    from groundswell.cli.pretrain import split_inputs
    from groundswell.errors import UsageError
    from groundswell.evaluation.results import for_json
    from groundswell.signals import stoppable

    def say(line: str) -> None:
        if progress.is_shown():
            typer.echo(line, err=True)

    paths, overrides = split_inputs(inputs)
    chosen = read_grid(grid, overrides)
    if not paths:
        raise UsageError("no archive to train on", fix=f"groundswell ablate ARCHIVE --grid {grid} -o {output}")
    archives = [open_archive(path) for path in paths]
    if dry_run:
        check_place(output)
        with stoppable(output, fix="run the same command again"):
            return _plan(chosen, archives, output, retry_failed)
    study = run_study(chosen, archives, output, say, retry_failed=retry_failed)
    failed = [
        f"failed: {r['cell']}, seed {r['seed']}: {r['error']['what']}"
        + (f" ({r['error']['why']})" * bool(r["error"]["why"]))
        for r in study.failed
    ]
    shown = study.table[study.table["headline"]]
    data: dict[str, Any] = {
        "study": str(study.folder),
        "runs": len(study.runs),
        "failed": [{k: r[k] for k in ("cell", "seed", "error")} for r in study.failed],
        "files": [str(path) for path in study.files],
        "table": [{str(k): v for k, v in row.items()} for row in shown.astype(object).to_dict("records")],
    }
    lines = [markdown(study.table), *failed, *(["--retry-failed runs these again."] if failed else [])]
    lines.append(f"Written: {', '.join(str(path) for path in study.files)}")
    return Outcome(for_json(data), escape("\n".join(lines)), PARTIAL if failed else 0)


def _plan(grid: Grid, archives: list[Archive], output: Path, retry_failed: bool) -> Outcome:
    """The runs that are left to do, and about how long they take."""
    from rich.markup import escape

    from groundswell.ablation.runs import DONE, FAILED, estimate, plan

    planned = plan(grid, archives, output)
    left = [one for one in planned if one.status != DONE and (retry_failed or one.status != FAILED)]
    untrained = [one for one in left if not one.trained]
    minutes = estimate(untrained, archives)
    total = sum(minutes[one.cell.name] for one in untrained)
    lines = []
    for cell in grid.cells:
        own = [one for one in planned if one.cell is cell]
        states = ", ".join(f"seed {one.seed} {one.status}" for one in own)
        about = f", about {minutes[cell.name]:.1f} min each" if cell.name in minutes else ""
        changes = ", ".join(f"{k}={v}" for k, v in cell.overrides.items()) or grid.settings.base
        lines.append(f"{cell.name}: {changes}\n    {states}{about}")
    lines.append(
        f"{len(left)} of {len(planned)} runs to do, about {total:.0f} minutes of pretraining on this machine as it is "
        "now; draws of pruning, embedding and probing come on top. Nothing was written."
    )
    data = {
        "grid": grid.settings.model_dump(mode="json"),
        "runs": [{"cell": o.cell.name, "seed": o.seed, "status": o.status, "folder": str(o.folder)} for o in planned],
        "to_do": len(left),
        "minutes": {name: float(f"{value:.3g}") for name, value in minutes.items()},
        "total_minutes": float(f"{total:.3g}"),
    }
    return Outcome(data, escape("\n".join(lines)))
