"""``groundswell demo``: the whole path, offline, to one HTML report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundswell import progress
from groundswell.cli.app import Outcome, verb


@verb
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")] = Path("demo"),
    count: Annotated[
        int | None, typer.Option("--count", "-n", help="Images to simulate: 4000, from SAFE products 1200.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of pretraining; by default the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Of simulation, pretraining and probes.")] = 0,
    from_safe: Annotated[
        bool, typer.Option("--from-safe", help="Write what is simulated as SAFE products, and ingest those.")
    ] = False,
) -> Outcome:
    """Run the whole path on simulated images, offline: simulate, pretrain, embed, probe, search, report.

    Takes under ten minutes on two cores and 4 GiB, and ends in `report.html`. Run again, a stage is reused unless its
    settings, or a stage before it, have changed; stopped half-way, the same command goes on. The images are
    simulated: the demo shows that the machinery works, not how well it works on the ocean.

    Example: `groundswell demo -o demo`
    """
    from rich.markup import escape

    from groundswell.config import validate
    from groundswell.demo import DemoSettings, run_demo

    def say(line: str) -> None:
        if progress.is_shown():
            typer.echo(line, err=True)

    asked = {"minutes": minutes, "seed": seed, "from_safe": from_safe}
    asked["count"] = count if count is not None else 1200 if from_safe else 4000
    settings = validate(DemoSettings, asked)
    done = run_demo(output, settings, say)
    memory = "" if done.peak_memory_bytes is None else f", {done.peak_memory_bytes / 2**30:.2f} GiB at its peak"
    data = {
        "report": str(done.report),
        "reused": list(done.reused),
        "ran": list(done.ran),
        "seconds": round(done.seconds, 1),
        "peak_memory_bytes": done.peak_memory_bytes,
        "verdict": list(done.verdict),
    }
    lines = [*done.verdict, "", f"{done.seconds / 60:.1f} minutes{memory}. Every image is simulated."]
    return Outcome(data, escape("\n".join(lines)) + f"\nReport: {escape(str(done.report))}")
