"""The script of a job of many processes, run by bash with stand-ins for Slurm's programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from groundswell.errors import UsageError
from groundswell.executors.slurm_job import AHEAD_S, tasks, write_job

COMMAND = ["pretrain", "an archive/with 'quotes' $HOME", "--output=x y", "--resume"]

# As srun does: the program once for each task, each with its numbers; then the highest exit code. It starts as many as
# sbatch was told of, which only then says so itself, else one a node; before Slurm 22 sbatch did not multiply.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
[[ -z "$SAVES" ]] || touch "../x y/saves/$SAVES"
nodes=$SLURM_JOB_NUM_NODES
each=$(( ${SLURM_NTASKS:-${SLURM_NTASKS_PER_NODE:-1} * nodes} / nodes ))
export SLURM_STEP_NUM_TASKS=$(( each * nodes )) SLURM_STEP_TASKS_PER_NODE="$each(x$nodes)"
for (( i = 0; i < SLURM_STEP_NUM_TASKS; i++ )); do
    SLURM_PROCID=$i SLURM_LOCALID=$(( i % each )) "$@"
done
exit "$CODE"
"""
SCONTROL = """#!/bin/bash
case "$1 $2" in
    "show hostnames") echo "first"; echo "second" ;;
    "show job") echo "   PreemptEligibleTime=2026-11-30T21:59:06 PreemptTime=$PREEMPTED" ;;
    *) echo "$@" >> "$CALLS" ;;
esac
"""
PYTHON = """#!/bin/bash
echo "$RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT $OMP_NUM_THREADS"
printf '%s\\n' "$@"
"""


def stand_ins(folder: Path, state: str) -> Path:
    folder.mkdir()
    for name, body in {
        "srun": SRUN,
        "scontrol": SCONTROL,
        "squeue": f"#!/bin/bash\necho {'RUNNING' if state == 'PREEMPTED' else state}\n",
        "python": PYTHON,
    }.items():
        (folder / name).write_text(body)
        (folder / name).chmod(0o755)
    return folder


def run_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, environment: dict[str, str]
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Write the script and run it in an environment; how it ended, and what it asked of scontrol."""
    (tmp_path / "a place").mkdir()
    monkeypatch.chdir(tmp_path / "a place")
    monkeypatch.setattr(sys, "executable", "python")
    folder = tmp_path / "x y" / "saves"
    folder.mkdir(parents=True)
    for left in ("step-2.json", "step-9.pt", "step-9.json.damaged"):
        (folder / left).touch()
    script = write_job(tmp_path / "made here", "pretrain", COMMAND, folder, ["--nodes=2"])
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    calls = tmp_path / "calls"
    calls.touch()
    always = {
        "PATH": f"{stand_ins(tmp_path / 'bin', state)}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "41",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "CALLS": str(calls),
        "PREEMPTED": "2026-11-30T21:59:37" if state == "PREEMPTED" else "None",  # as of a job that runs in its grace
    }
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, env=always | environment)
    return done, calls.read_text().splitlines()


@pytest.mark.parametrize(
    ("code", "state", "saves", "requeued"),
    [
        (75, "RUNNING", "step-3.json", True),
        (143, "RUNNING", "step-3.json", False),
        (143, "PREEMPTED", "step-3.json", True),  # a second signal, on the way out
        (143, "PREEMPTED", "", True),  # before it listened
        (75, "PREEMPTED", "step-2.json", True),
        (1, "PREEMPTED", "step-3.json", False),
        (143, "CANCELLED", "step-3.json", False),
        (75, "RUNNING", "step-2.json", False),  # the save that was there before
        (75, "RUNNING", "", False),
        (75, "RUNNING", "step-4.pt", False),  # killed before it was whole
        (75, "CANCELLED", "step-3.json", False),
        (75, "COMPLETING", "step-3.json", False),
        (1, "RUNNING", "step-3.json", False),
        (0, "", "step-3.json", False),
    ],
)
def test_bash_starts_every_process_and_requeues_what_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, state: str, saves: str, requeued: bool
) -> None:
    told = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "4", "SLURM_CPUS_PER_TASK": "3"}
    done, calls = run_job(tmp_path, monkeypatch, state, told | {"CODE": str(code), "SAVES": saves})
    assert done.returncode == code, done.stderr
    said = done.stdout.splitlines()
    each = ["-m", "groundswell", *COMMAND]
    assert [said[i : i + 1 + len(each)] for i in range(0, len(said), 1 + len(each))] == [
        [f"{rank}/4 {rank % 2}/2 first:20041 3", *each] for rank in range(4)
    ]
    assert calls == (["requeue 41"] if requeued else [])
    too_short = code == 75 and state == "RUNNING" and not requeued
    assert ("no step was done in this time" in done.stderr) == too_short


@pytest.mark.parametrize(
    ("told", "processes"),
    [
        ({"SLURM_JOB_NUM_NODES": "1"}, ["0/1 0/1"]),
        ({"SLURM_JOB_NUM_NODES": "2"}, ["0/2 0/1", "1/2 0/1"]),
        (
            {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "2"},
            ["0/4 0/2", "1/4 1/2", "2/4 0/2", "3/4 1/2"],
        ),
    ],
    ids=["nothing", "nodes", "tasks a node"],
)
def test_the_processes_know_how_many_they_are_where_sbatch_was_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], processes: list[str]
) -> None:
    done, _ = run_job(tmp_path, monkeypatch, "", told | {"CODE": "0", "SAVES": ""})
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if "first" in line] == [
        f"{process} first:20041 1" for process in processes
    ]


def test_what_slurm_reads(tmp_path: Path) -> None:
    script = write_job(tmp_path / "s", "pretrain", COMMAND, tmp_path, ["--nodes=2", "--signal=TERM@60"])
    assert [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=groundswell-pretrain",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"#SBATCH --signal=TERM@{AHEAD_S}",
        "#SBATCH --nodes=2",
        "#SBATCH --signal=TERM@60",
        f'#SBATCH --output="{tmp_path}/s/pretrain.log"',
    ]
    with pytest.raises(UsageError, match="no option of sbatch"):
        write_job(tmp_path / "t", "pretrain", COMMAND, tmp_path, ["nodes=2"])


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 1),
        (["--partition=gpu", "--ntasks=6"], 6),
        (["-n 6", "-N2"], 6),
        (["--nodes=2", "--ntasks-per-node=3"], 6),
        (["--nodes=2"], 2),
        (["--nodes=2-4", "--ntasks-per-node=3"], 3),
        (["--ntasks-per-node=3", "--ntasks=5"], 5),
    ],
)
def test_options_of_sbatch_tell_how_many_tasks_there_will_be(options: list[str], count: int) -> None:
    assert tasks(options) == count
