"""One Slurm job of many processes that work together, stopped ahead of its end and put back into the queue."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from groundswell.executors.slurm import parts
from groundswell.files import write_bytes

AHEAD_S = 180
"""How long before the end of the job Slurm asks it to stop: a step, a look at the run and a checkpoint must fit."""

# srun starts the processes itself, without torchrun: that ends with 1 whatever its processes end with, and kills them
# 30 s after a signal. A trap keeps bash alive until srun has ended. A job that was cancelled is no longer RUNNING. One
# that is preempted Slurm puts back itself, but not where it ends within the time of grace; a process that does not
# listen yet, or no more, ends with 143 (SIGTERM) there. A job whose time is too short for a step would come back for
# ever.
# How many processes there are only srun knows for certain: sbatch sets SLURM_NTASKS only where it was told a number.
_JOB = """\
#!/usr/bin/env bash
# Written by groundswell. Every task is one process; stopped with a checkpoint, the job goes back into the queue.
#SBATCH --job-name=groundswell-{name}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{ahead}
{common}#SBATCH --output="{logs}/{name}.log"
set -uo pipefail
cd {place} || exit 1
trap : TERM
export MASTER_ADDR MASTER_PORT
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
MASTER_PORT="$((20000 + SLURM_JOB_ID % 20000))"
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}" SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-1}}"
one_process='export RANK="$SLURM_PROCID" WORLD_SIZE="$SLURM_STEP_NUM_TASKS" LOCAL_RANK="$SLURM_LOCALID"
export LOCAL_WORLD_SIZE="${{SLURM_STEP_TASKS_PER_NODE%%[!0-9]*}}"
exec "$@"'
newest() {{ ls {saves} 2> /dev/null | grep '[.]json$' | tail -n 1; }}
code=0 before="$(newest)"
srun --wait=120 bash -c "$one_process" groundswell {command} || code=$?
preempted() {{ [[ "$(scontrol show job "$SLURM_JOB_ID")" == *PreemptTime=[0-9]* ]]; }}
if (( code == 75 || code == 143 )) && [[ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" == RUNNING ]]; then
    if preempted || [[ "$code" == 75 && "$(newest)" != "$before" ]]; then
        scontrol requeue "$SLURM_JOB_ID"
    elif (( code == 75 )); then
        echo "no step was done in this time, so the job is not put back: give it more (--sbatch=--time=...)" >&2
    fi
fi
exit "$code"
"""


_COUNTS = {"-N": "nodes", "--nodes": "nodes", "-n": "all", "--ntasks": "all", "--ntasks-per-node": "each"}


def tasks(options: Sequence[str]) -> int:
    """How many tasks options of sbatch ask for, as far as they tell: 1 where they give no number."""
    told: dict[str, int] = {}
    for option in options:
        found = re.fullmatch(r"(-[Nn]|--[^= ]+)[= ]?(\d+)", option)
        if found and found[1] in _COUNTS:
            told[_COUNTS[found[1]]] = int(found[2])
    return told.get("all") or told.get("nodes", 1) * told.get("each", 1)


def write_job(folder: Path, name: str, command: Sequence[str], saves: Path, options: Sequence[str] = ()) -> Path:
    """Write ``<name>.sh`` into a folder, which also takes its log.

    Parameters
    ----------
    folder : Path
    name : str
    command : sequence of str
        Arguments of ``groundswell`` that begin the work or go on with it, ending with exit code 75 where a signal
        stopped it (with 143 where it came too early or too late to be heard). Relative paths are those of the working
        directory of this call.
    saves : Path
        The folder in which every save that is whole has a ``.json`` whose name comes after those of earlier ones; a
        file that a kill has left is none.
    options : sequence of str
        Options of sbatch, such as ``--nodes=2`` and ``--ntasks-per-node=4``; those above may be changed by them.

    Raises
    ------
    UsageError
        For an option that is none.
    """
    script = folder.absolute() / f"{name}.sh"
    saved = shlex.quote(str(saves.absolute()))
    text = _JOB.format(name=name, ahead=AHEAD_S, saves=saved, **parts(folder, command, options))
    write_bytes(script, text.encode())
    return script
