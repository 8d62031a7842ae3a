"""Options of the verbs that fill an archive: who does the work, and what is left to do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundswell.cli.app import Outcome
from groundswell.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from groundswell.archive.ingest import IngestReport
    from groundswell.archive.planning import Options
    from groundswell.executors.tasks import Executor
    from groundswell.products.source import Source

EXECUTORS = ("local", "slurm", "dask")
ARRAY_TASKS = 100
_OWN = ("executor", "workers", "scheduler", "task", "submit", "sbatch", "json", "quiet", "dry_run")

ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|slurm|dask",
        help="Who does the work: processes of this machine, a Slurm array (written, and submitted with --submit), or "
        "a Dask cluster. The archive is the same.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, help="Worker processes (all cores by default); with --executor slurm, tasks of the array."
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Of Dask, such as tcp://host:8786; without it a cluster on this machine."),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="I/N", help="Write only every N-th shard from the I-th (from 0) of a planned archive."
    ),
]
Submit = Annotated[bool, typer.Option("--submit", help="Submit the Slurm scripts by sbatch.")]
Sbatch = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OPTION", help="An option of sbatch for the scripts, such as --sbatch=--partition=cpu (repeat)."
    ),
]


@dataclass(frozen=True, slots=True)
class Execution:
    """The options above, as given."""

    executor: str
    workers: int | None
    scheduler: str | None
    task: str | None
    submit: bool
    sbatch: list[str] | None

    def check(self) -> None:
        """`UsageError` for options that do not go together."""
        if self.executor not in EXECUTORS:
            raise UsageError(
                f"--executor {self.executor}: not one of {', '.join(EXECUTORS)}",
                fix=did_you_mean(self.executor, EXECUTORS),
            )
        given = (("--scheduler", self.scheduler, "dask"), ("--submit", self.submit, "slurm"))
        for option, value, executor in (*given, ("--sbatch", self.sbatch, "slurm")):
            if value and self.executor != executor:
                raise UsageError(f"{option} is for --executor {executor}", fix=f"add --executor {executor}")
        if self.task is not None and self.executor == "slurm":
            raise UsageError("--task is what the tasks of the Slurm array do", fix="leave out one of both")

    def chosen(self) -> Executor:
        """The executor of this process."""
        from groundswell.executors.dask import Dask
        from groundswell.executors.local import Local
        from groundswell.executors.tasks import cores

        if self.executor == "dask":
            return Dask(self.scheduler, self.workers)
        return Local(self.workers or cores())


def carry_out(
    context: typer.Context,
    source: Source,
    output: Path,
    options: Options,
    execution: Execution,
    *,
    batch: int = 8,
    label: str = "ingest",
) -> IngestReport | Outcome:
    """Fill an archive, or what of it was asked for: the report of a whole archive, else what was done instead."""
    from groundswell.archive.ingest import ingest, ingest_share, plan_ingest
    from groundswell.executors.tasks import Share

    if execution.task is not None:
        share = Share.parse(execution.task)
        done = ingest_share(source, output, share, options, batch=batch, executor=execution.chosen())
        return Outcome(
            {"archive": str(output), "task": str(share), "shards": done},
            f"{output}: task {share} wrote {len(done)} shards; the same command without --task joins them.",
        )
    if execution.executor == "slurm":
        shards = plan_ingest(source, output, options)
        if shards:
            return _array(context, output, shards, execution)
    asked = {field.name: getattr(options, field.name) for field in fields(options)}
    return ingest(source, output, **asked, batch=batch, executor=execution.chosen(), label=label)


def _array(context: typer.Context, output: Path, shards: int, execution: Execution) -> Outcome:
    from groundswell.executors.slurm import submit, write_scripts

    folder = output.absolute().with_name(f"{output.absolute().name}.slurm")
    count = min(shards, execution.workers or ARRAY_TASKS)
    scripts = write_scripts(folder, given(context), count, execution.sbatch or ())
    data = {"archive": str(output), "shards": shards, "tasks": count}
    data |= {"array": str(scripts.array), "finish": str(scripts.finish)}
    lines = [f"{output}: planned, {shards} shards to write by {count} tasks."]
    if execution.submit:
        data["jobs"] = jobs = list(submit(scripts))
        lines += [f"Slurm jobs {jobs[0]} (the array) and {jobs[1]} (which joins its shards); logs in {folder}."]
    else:
        lines += [f"sbatch {scripts.array}", f"sbatch --dependency=afterany:JOB {scripts.finish}"]
    return Outcome(data, "\n".join(lines))


def given(context: typer.Context) -> list[str]:
    """The verb and its arguments as they were given, without those that say who does the work."""
    words = [str(context.info_name)]
    options: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        value = context.params.get(name)
        source = context.get_parameter_source(name)
        if name in _OWN or value is None or source is None or source.name == "DEFAULT":
            continue
        values = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            words += [f"./{word}" if word.startswith("-") else word for word in map(str, values)]
        elif isinstance(value, bool):
            options.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            long = max(parameter.opts, key=len)
            options += [f"{long}={word}" for word in values]
    return words + options
