"""``groundswell pretrain``: from archives to a model, without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from groundswell.cli.app import Outcome, verb
from groundswell.cli.execution import Sbatch, Submit, given
from groundswell.errors import CollapsedError, ConfigError, DivergedError, StoppedBySignal, UsageError


@verb
def pretrain(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="ARCHIVE... [a.b=c ...]", help="Archives to train on, then settings to change."),
    ],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="A shipped recipe (see `list recipes`) or a YAML file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run directory to write.")],
    init: Annotated[Path | None, typer.Option(help="Start from the backbone of this model directory.")] = None,
    where: Annotated[str | None, typer.Option(help="Rows to train on: \"split == 'train'\".")] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="YAML settings on top of the recipe; may be repeated, later wins.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in the output.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run in the output and start again.")
    ] = False,
    monitor: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL_COLUMN",
            help="Watch kNN accuracy on this label while training: keep the best model, warn where it falls to half.",
        ),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every setting with its origin, and do nothing.")
    ] = False,
    launcher: Annotated[
        str | None,
        typer.Option(metavar="slurm", help="Write a Slurm script that does this, and goes on when it is requeued."),
    ] = None,
    submit: Submit = False,
    sbatch: Sbatch = None,
) -> Outcome:
    """Pretrain a backbone on archives, without labels.

    Writes a run directory: settings, metrics (JSON lines and TensorBoard), checkpoints, and `model/`, which `embed`
    takes. Ctrl-C or SIGTERM stops between two steps with a checkpoint and exit code 75 (a second Ctrl-C at once);
    the same command with `--resume` goes on, on a CPU to the same bits as if nothing had happened (unless the length
    is in minutes).

    Several processes, one for each GPU: `torchrun --nproc-per-node 4 -m groundswell pretrain ...`, each with its part
    of the batch. `--launcher slurm --sbatch=--ntasks=4` writes a script for as many tasks of Slurm.

    Example: `groundswell pretrain archive --recipe demo -o run optimiser.lr=0.001 length.minutes=10`
    """
    if launcher not in (None, "slurm"):
        raise UsageError(f"--launcher {launcher}: there is only slurm", fix="torchrun needs no option: see --help")
    if (submit or sbatch) and launcher is None:
        raise UsageError("--submit and --sbatch are for Slurm", fix="add --launcher slurm")
    from groundswell.config import parse_yaml, read_recipe, read_text
    from groundswell.training.recipe import resolve_recipe

    paths, overrides = split_inputs(inputs)
    values, text = read_recipe(recipe)
    layers = [(f"recipe {recipe}", values)]
    for path in config or []:
        if not path.is_file():
            raise ConfigError("no such settings file", where=path)
        layers.append((str(path), parse_yaml(read_text(path), where=str(path))))
    if where is not None:
        layers.append(("--where", {"where": where}))
        overrides = without(overrides, "where")
    settings, origins = resolve_recipe(layers, overrides)

    if print_config:
        from groundswell.training.run_directory import annotated_yaml

        dumped = settings.model_dump(mode="json")
        return Outcome({"settings": dumped, "origins": origins}, _escaped(annotated_yaml(dumped, origins)))
    if not paths:
        raise UsageError("no archive to train on", fix="groundswell pretrain ARCHIVE ... --recipe demo -o run")

    from groundswell.archive.reader import open_archive

    archives = [open_archive(path) for path in paths]
    watch = None
    if monitor is not None:
        from groundswell.evaluation.monitor import knn_monitor

        watch = knn_monitor(archives, monitor, settings.where, settings.seed)
    if launcher is not None:
        from groundswell.executors.slurm_job import tasks
        from groundswell.training.building import check_fits, check_parts, read_parent, warn_of_doubts
        from groundswell.training.checkpoint import Checkpoints
        from groundswell.training.run_directory import RunDirectory

        chosen = check_fits(settings, archives)  # and not after the wait in the queue
        warn_of_doubts(settings, chosen)
        check_parts(settings, tasks(sbatch or ()))
        if init is not None and not Checkpoints(RunDirectory(output).checkpoints).steps():  # a run has its own weights
            read_parent(settings, chosen[0], init)
        return _slurm(context, output, resume, overwrite, submit, sbatch or ())

    from groundswell.training.loop import pretrain as run

    with speaking_once():
        report = run(
            archives,
            settings,
            output,
            init=init,
            resume=resume,
            overwrite=overwrite,
            origins=origins,
            given=text,
            monitor=watch,
        )
    data = {
        "run": str(report.path),
        "model": str(report.model),
        "steps": report.steps,
        "images": report.images,
        "seconds": round(report.seconds, 1),
        "precision": report.precision,
        "device": report.device,
        "resumed_at": report.resumed_at,
        "metrics": report.metrics,
    }
    figures = ", ".join(f"{k} {v:.3g}" for k, v in report.metrics.items() if k in SHOWN and v is not None)
    return Outcome(
        data,
        f"Pretrained on {report.images:,} images in {report.steps:,} steps and {report.seconds / 60:.1f} minutes "
        f"({report.device}, {report.precision}): {figures}.\n"
        f"Model: {report.model}\nNext: groundswell embed {report.model} {' '.join(map(str, paths))} -o table.parquet",
    )


@contextmanager
def speaking_once() -> Iterator[None]:
    """Of the processes that a launcher started, the first shows progress, result and what all of them end with."""
    from groundswell import distributed, progress

    rank, _ = distributed.launched()
    if rank == 0:
        yield
        return
    progress.use(progress.SilentReporter())
    try:
        yield
    except (StoppedBySignal, CollapsedError, DivergedError) as error:
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit


def _slurm(
    context: typer.Context, output: Path, resume: bool, overwrite: bool, submit: bool, options: Sequence[str]
) -> Outcome:
    """Write the script of a Slurm job, and submit it where asked to."""
    from groundswell.executors.slurm import sbatch
    from groundswell.executors.slurm_job import write_job
    from groundswell.training.run_directory import RunDirectory

    if overwrite:
        raise UsageError(
            "--overwrite with --launcher slurm", why="a job that is requeued must go on", fix="choose another --output"
        )
    run = RunDirectory(output)
    run.prepare(resume=resume, overwrite=False)
    command = [word for word in given(context) if word != "--resume" and not word.startswith("--launcher=")]
    folder = output.absolute().with_name(f"{output.absolute().name}.slurm")
    script = write_job(folder, "pretrain", [*command, "--resume"], run.checkpoints, options)
    data = {"run": str(output), "script": str(script)}
    if not submit:
        return Outcome(data, f"Written, not submitted: sbatch {script}")
    data["job"] = sbatch(script)
    return Outcome(data, f"Slurm job {data['job']}; its log: {script.with_suffix('.log')}")


SHOWN = ("loss", "top1", "teacher_entropy", "kl", "explained", "feature_spread", "effective_rank", "monitor")


def split_inputs(inputs: list[str]) -> tuple[list[Path], list[str]]:
    """Archives and ``a.b=c`` settings among the positional arguments; an existing path is an archive."""
    paths = [Path(text) for text in inputs if "=" not in text or Path(text).exists()]
    return paths, [text for text in inputs if "=" in text and not Path(text).exists()]


def without(overrides: Sequence[str], key: str) -> list[str]:
    """The overrides but those of ``key``, which a flag wins over."""
    from groundswell.config import parse_override

    return [text for text in overrides if parse_override(text)[0] != [key]]


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
