"""``groundswell simulate``: an archive of simulated wave-mode imagettes with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundswell.cli.app import Outcome, verb
from groundswell.cli.execution import Execution, ExecutorName, Sbatch, Scheduler, Submit, Task, Workers, carry_out


@verb
def simulate(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The archive to write.")],
    count: Annotated[int, typer.Option("--count", "-n", help="Number of imagettes.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same imagettes.")] = 0,
    size: Annotated[int, typer.Option(help="Rows and columns, in pixels.")] = 256,
    spacing: Annotated[float, typer.Option(help="Ground spacing of the pixels, 20 to 100 m.")] = 50.0,
    mix: Annotated[
        str,
        typer.Option(
            metavar="balanced|ocean", help="Class frequencies: all ten equal, or the imbalance of the open ocean."
        ),
    ] = "balanced",
    quantity: Annotated[
        str, typer.Option(metavar="sigma0|sigma0_db|roughness_db|quicklook", help="What the pixels are.")
    ] = "sigma0_db",
    oversampling: Annotated[int, typer.Option(metavar="1|2", help="Wave grid points per pixel; 1 is faster.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, or a GPU such as cuda:0.")] = "auto",
    executor: ExecutorName = "local",
    workers: Workers = None,
    scheduler: Scheduler = None,
    task: Task = None,
    submit: Submit = False,
    sbatch: Sbatch = None,
) -> Outcome:
    """Simulate Sentinel-1 wave-mode imagettes of the ocean, with their truth.

    Every imagette is VV sigma0 of a random sea under a random wind, seen by WV1 or WV2, with one of ten phenomena
    (pure ocean waves, wind streaks, convective cells, rain, slicks, sea ice, icebergs, low wind, atmospheric and
    oceanic fronts), some with a second. The archive holds wind, wave height, periods, directions, masks and iceberg
    boxes as labels, and a split of about 70 % train, 30 % test. Interrupted, the same command continues. `sigma0`
    is stored as float32 with its negatives, decibels in steps of 0.002 dB.

    Simulated data is for tests, demonstrations and pretraining studies: skill measured on it is not real skill.

    Example: `groundswell simulate -o archive --count 1000 --seed 1`
    """
    from groundswell.config import validate
    from groundswell.simulator.source import SimulatorSettings

    settings = validate(
        SimulatorSettings,
        {
            "count": count,
            "seed": seed,
            "size": size,
            "spacing_m": spacing,
            "mix": mix,
            "quantity": quantity,
            "oversampling": oversampling,
        },
    )
    from groundswell.archive.planning import Options
    from groundswell.device import choose_device
    from groundswell.physics.imagette import Quantity
    from groundswell.simulator.source import BATCH, SimulatedSource

    source = SimulatedSource(settings, choose_device(device))
    on_cpu = source.device.type == "cpu"
    if not on_cpu and executor == "local":
        workers = workers or 1  # one process feeds a GPU
    execution = Execution(executor, workers, scheduler, task, submit, sbatch)
    execution.check()
    linear = settings.quantity is Quantity.SIGMA0
    options = Options(quantity=settings.quantity, dtype="float32" if linear else None)
    report = carry_out(context, source, output, options, execution, batch=BATCH[on_cpu], label="simulate")
    if isinstance(report, Outcome):
        return report
    data = {
        "archive": str(report.path),
        "written": report.written,
        "rejected": len(report.rejected),
        "resumed_shards": report.resumed_shards,
        "settings": settings.model_dump(mode="json"),
    }
    return Outcome(data, f"{report.path}: {report.written} simulated imagettes, {settings.quantity}, seed {seed}.")
