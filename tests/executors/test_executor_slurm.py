"""The scripts of a Slurm array: what bash makes of them, and what is handed to sbatch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from groundswell.errors import GroundswellError, UsageError
from groundswell.executors.slurm import submit, write_scripts

COMMAND = ["ingest", "a folder/with 'quotes' $HOME", "--output=x y", "--quantity=sigma0"]


def words(script: Path, **environment: str) -> list[str]:
    """The command line that a script ends in, as bash splits it."""
    text = script.read_text().replace(f"exec {sys.executable} -m groundswell", "printf '%s\\n' ")
    done = subprocess.run(
        ["bash", "-c", text],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], **environment},
    )
    return done.stdout.splitlines()


def test_bash_runs_the_command_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scripts = write_scripts(tmp_path / "made here", COMMAND, 3, ["--partition=cpu", "--time=10:00"])
    found = words(scripts.array, SLURM_ARRAY_TASK_ID="2", SLURM_CPUS_PER_TASK="4")
    assert found == [*COMMAND, "--workers=4", "--task=2/3"]
    assert words(scripts.finish) == [*COMMAND, "--workers=1"]
    with pytest.raises(subprocess.CalledProcessError):
        words(scripts.array)  # outside an array nothing must run
    directives = [line for line in scripts.array.read_text().splitlines() if line.startswith("#SBATCH")]
    assert directives == [
        "#SBATCH --job-name=groundswell",
        "#SBATCH --array=0-2",
        "#SBATCH --partition=cpu",
        "#SBATCH --time=10:00",
        f'#SBATCH --output="{tmp_path}/made here/task-%a.log"',
    ]
    assert "--array" not in scripts.finish.read_text()


@pytest.mark.parametrize("option", ["partition=cpu", "--x\nrm -rf /", ""])
def test_what_is_no_option_of_sbatch(option: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no option of sbatch"):
        write_scripts(tmp_path / "s", COMMAND, 3, [option])
    assert not (tmp_path / "s").exists()


def test_a_folder_that_slurm_would_read_otherwise(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of this name"):
        write_scripts(tmp_path / "100%a", COMMAND, 3)


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A program called sbatch, and nothing else but the system's own."""
    folder.mkdir()
    (folder / "sbatch").write_text(f"#!/bin/bash\n{body}\n")
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_finish_waits_for_the_whole_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = write_scripts(tmp_path / "s", COMMAND, 3)
    stand_in(tmp_path / "bin", monkeypatch, f'echo "$@" >> {tmp_path}/calls; echo "$(wc -l < {tmp_path}/calls)7;one"')
    assert submit(scripts) == ("17", "27")
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"--parsable {scripts.array}",
        f"--parsable --dependency=afterany:17 {scripts.finish}",
    ]


def test_a_refusal_of_slurm_is_told_and_a_missing_one_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = write_scripts(tmp_path / "s", COMMAND, 3)
    stand_in(tmp_path / "bin", monkeypatch, "echo 'invalid partition specified: cpu' >&2; exit 1")
    with pytest.raises(GroundswellError, match="did not take") as error:
        submit(scripts)
    assert error.value.why == "invalid partition specified: cpu"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no sbatch here") as error:
        submit(scripts)
    assert str(scripts.array) in str(error.value.fix)
