"""``groundswell views``: what a recipe does to real images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundswell.cli.app import Outcome, verb


@verb
def views(
    inputs: Annotated[
        list[str], typer.Argument(metavar="ARCHIVE [a.b=c ...]", help="The archive, then settings to change.")
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A shipped recipe (see `list recipes`) or a YAML file.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The contact sheet to write (.png, .jpg, .jpeg, .webp).")
    ],
    count: Annotated[int, typer.Option(min=1, max=64, help="How many imagettes, evenly spaced in the archive.")] = 8,
    where: Annotated[str | None, typer.Option(help="Rows to choose from: \"split == 'train'\".")] = None,
    channel: Annotated[str | None, typer.Option(help="The channel to show; the first where it is left out.")] = None,
) -> Outcome:
    """Show what the views of a recipe look like on the images of an archive.

    Each row of the sheet is an imagette, as the encoder sees it, and the views that training makes of it, all in one
    grey scale. Printed beside it: which labels the views make unanswerable, since a model learns to ignore what they
    change.

    Example: `groundswell views archive --recipe demo -o views.png views.geometry.rotation=1`
    """
    from rich.markup import escape

    from groundswell.archive.reader import open_archive
    from groundswell.cli.pretrain import split_inputs, without
    from groundswell.config import read_recipe
    from groundswell.errors import UsageError
    from groundswell.report.views import show_views
    from groundswell.training.recipe import resolve_recipe

    paths, overrides = split_inputs(inputs)
    if len(paths) != 1:
        raise UsageError(
            f"views takes one archive, and {len(paths)} are given",
            fix="groundswell views ARCHIVE --recipe demo -o views.png",
        )
    layers = [(f"recipe {recipe}", read_recipe(recipe)[0])]
    if where is not None:
        layers.append(("--where", {"where": where}))
        overrides = without(overrides, "where")
    settings, _ = resolve_recipe(layers, overrides)
    archive = open_archive(paths[0])
    chosen = archive.where(settings.where)
    shown = show_views(chosen, settings, output, count=count, channel=channel)
    lines = [f"{output}: {len(shown.ids)} imagettes, each with {', '.join(shown.panels)}."]
    if shown.unphysical:
        lines.append("A model that learns to ignore these views should not be asked for:")
        lines += [f"  {name}: {'; '.join(labels)}" for name, labels in shown.unphysical.items()]
    lines += [f"  this archive's {column}: broken by {', '.join(by)}" for column, by in shown.broken.items()]
    data = {
        "sheet": str(output),
        "recipe": settings.name,
        "policy": settings.views.policy,
        "ids": shown.ids,
        "views": shown.panels,
        "unphysical_for": shown.unphysical,
        "broken_labels": shown.broken,
    }
    return Outcome(data, escape("\n".join(lines)))
