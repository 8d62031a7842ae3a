"""``groundswell report``: one HTML file about what was made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundswell.cli.app import Outcome, verb


@verb
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Archives, run directories, RESULTS folders, embedding tables, or folders of them."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")],
    title: Annotated[str | None, typer.Option(help="The headline.")] = None,
) -> Outcome:
    """Write one self-contained HTML report.

    Takes any mix of archives, run directories, embedding tables and results, and recognises them by what they hold.
    The first lines say whether the data is simulated; then come the verdict with its intervals, the data, training
    curves, a map of the embeddings, confusion matrices, scatter plots, nearest neighbours and how it was all made.
    What was not given is left out. The file needs no network and runs no script: mail it, archive it, print it.

    Example: `groundswell report archive run encoder.parquet results -o report.html`
    """
    from groundswell.report.build import TITLE, write_report

    written = write_report(paths, output, title=title or TITLE)
    data = {
        "report": str(written.path),
        "bytes": written.bytes,
        "sections": list(written.sections),
        "data": written.data,
        "verdict": list(written.verdict),
    }
    return Outcome(
        data, f"{_escaped(str(written.path))} ({written.bytes / 1e6:.1f} MB): {', '.join(written.sections)}."
    )


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
