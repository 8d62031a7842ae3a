"""A Slurm array over ``--task i/n``, and a job after it that finishes: two scripts, submitted when asked."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from groundswell.errors import GroundswellError, UsageError
from groundswell.files import write_bytes

_ARRAY = """\
#!/usr/bin/env bash
# Written by groundswell. A task of this array writes one shard in {count}; finish.sh joins them.
#SBATCH --job-name=groundswell
#SBATCH --array=0-{last}
{common}#SBATCH --output="{logs}/task-%a.log"
set -euo pipefail
cd {place}
exec {command} --workers="${{SLURM_CPUS_PER_TASK:-1}}" --task="$SLURM_ARRAY_TASK_ID/{count}"
"""

_FINISH = """\
#!/usr/bin/env bash
# Written by groundswell. Writes what the array did not, if anything, and the statistics of the whole.
#SBATCH --job-name=groundswell-finish
{common}#SBATCH --output="{logs}/finish.log"
set -euo pipefail
cd {place}
exec {command} --workers="${{SLURM_CPUS_PER_TASK:-1}}"
"""


@dataclass(frozen=True, slots=True)
class Scripts:
    """The array and the job that finishes, as files."""

    array: Path
    finish: Path


def write_scripts(folder: Path, command: Sequence[str], count: int, options: Sequence[str] = ()) -> Scripts:
    """Write ``array.sh`` and ``finish.sh`` into a folder, which also takes their logs.

    Parameters
    ----------
    folder : Path
    command : sequence of str
        Arguments of ``groundswell`` that finish the work; with ``--task i/n`` they do one share of it, with
        ``--workers`` on the cores that Slurm gives. Relative paths are those of the working directory of this call.
    count : int
        Tasks of the array.
    options : sequence of str
        Options of sbatch for both jobs, such as ``--partition=cpu``.

    Raises
    ------
    UsageError
        For an option that is none.
    """
    values = {"count": count, "last": count - 1, **parts(folder, command, options)}
    scripts = Scripts(folder.absolute() / "array.sh", folder.absolute() / "finish.sh")
    write_bytes(scripts.array, _ARRAY.format(**values).encode())
    write_bytes(scripts.finish, _FINISH.format(**values).encode())
    return scripts


def parts(folder: Path, command: Sequence[str], options: Sequence[str]) -> dict[str, object]:
    """What every script of ours is filled with: ``common`` directives, ``logs``, ``place`` and ``command``.

    Raises
    ------
    UsageError
        For an option that is none, or a folder that Slurm would not take for logs.
    """
    for option in options:
        if not option.startswith("-") or "\n" in option:
            raise UsageError(f"{option!r} is no option of sbatch", fix="write it as --sbatch=--partition=cpu")
    if any(character in str(folder.absolute()) for character in "\n\"'%\\"):
        raise UsageError("Slurm cannot write logs into a folder of this name", where=folder.absolute())
    return {
        "common": "".join(f"#SBATCH {option}\n" for option in options),
        "logs": folder.absolute(),
        "place": shlex.quote(str(Path.cwd())),
        "command": shlex.join([sys.executable, "-m", "groundswell", *command]),
    }


def submit(scripts: Scripts) -> tuple[str, str]:
    """Submit the array, and the finishing job for when all its tasks have ended; the numbers of both jobs.

    Raises
    ------
    UsageError
        When there is no sbatch here.
    GroundswellError
        When Slurm refuses.
    """
    array = sbatch(scripts.array)
    return array, sbatch(scripts.finish, f"--dependency=afterany:{array}")


def sbatch(script: Path, *options: str) -> str:
    """Submit a script; the number of its job.

    Raises
    ------
    UsageError
        When there is no sbatch here.
    GroundswellError
        When Slurm refuses.
    """
    if shutil.which("sbatch") is None:
        raise UsageError("there is no sbatch here", fix=f"run `sbatch {script}` where Slurm is")
    done = subprocess.run(["sbatch", "--parsable", *options, str(script)], capture_output=True, text=True)
    if done.returncode != 0:
        raise GroundswellError(
            "Slurm did not take a job",
            where=script,
            why=done.stderr.strip() or f"sbatch left with exit code {done.returncode}",
            fix="--sbatch OPTION adds an option to the scripts, such as --sbatch=--partition=cpu",
        )
    return done.stdout.strip().split(";")[0]  # the job, then the name of the cluster where there are several
