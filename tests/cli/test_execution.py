"""`--executor`, `--task` and `--workers` on the command line."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import crash
from groundswell import progress
from groundswell.archive.reader import open_archive
from groundswell.cli import app, verbs  # noqa: F401 - importing the verbs registers them
from groundswell.cli.app import application
from groundswell.cli.execution import Execution
from groundswell.executors.local import Local


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(application, list(words))
    return result.exit_code, result.output


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """24 images in a folder with a space in its name, by a relative path; the last of them are the first again."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "some images"
    folder.mkdir()
    for index in range(24):
        pixels = np.random.default_rng(index % 20).gamma(4.0, 0.01, (8, 8)).astype(np.float32)
        np.save(folder / f"{index:02d}.npy", pixels)
    return "some images"


OPTIONS = ("--quantity", "sigma0", "--shard-mb", "0.001", "--bands", "VV", "--bands", "VH,VV")


def scripted(script: str) -> list[str]:
    """The command at the end of a script, as a task of it would give it."""
    line = Path(script).read_text().splitlines()[-1]
    return shlex.split(line.replace("${SLURM_CPUS_PER_TASK:-1}", "1"))[4:]


def test_the_scripts_of_an_array_end_in_the_same_bytes(images: str, tmp_path: Path) -> None:
    assert invoke("ingest", images, "-o", "serial", *OPTIONS, "--workers", "1")[0] == 0
    code, output = invoke("ingest", images, "-o", "array", *OPTIONS, "--executor", "slurm", "--workers", "3", "--json")
    assert code == 0
    plan = json.loads(output)
    assert (plan["tasks"], plan["shards"]) == (3, 4)
    assert Path(plan["array"]).parent == tmp_path / "array.slurm"
    for index in (2, 0, 1):
        words = [word.replace("$SLURM_ARRAY_TASK_ID", str(index)) for word in scripted(plan["array"])]
        assert words[-1] == f"--task={index}/3"
        code, output = invoke(*words, "--json")
        assert code == 0
        assert json.loads(output)["shards"] == [shard for shard in range(4) if shard % 3 == index]
    assert len(open_archive("array")) == 0
    code, output = invoke(*scripted(plan["finish"]), "--json")
    assert code == 0
    report = json.loads(output)
    assert (report["written"], report["resumed_shards"], len(report["duplicates"])) == (20, 4, 4)
    assert crash.tree(Path("array")) == crash.tree(Path("serial"))
    again = invoke("ingest", images, "-o", "array", *OPTIONS, "--executor", "slurm", "--json")
    assert json.loads(again[1])["resumed_shards"] == 4  # nothing left for an array


def test_a_dry_run_says_how_long_it_would_take(images: str) -> None:
    code, output = invoke("ingest", images, "-o", "archive", *OPTIONS, "--dry-run", "--workers", "5", "--json")
    assert code == 0
    told = json.loads(output)["time"]
    assert (told["workers"], told["measured"]) == (5, 16)
    assert told["seconds"] == pytest.approx(told["seconds_per_image"] * 24 / 5)
    assert not Path("archive").exists()
    assert "s each to read and convert" in invoke("ingest", images, "-o", "archive", *OPTIONS, "--dry-run")[1]


def test_a_simulation_by_workers_is_the_same_and_says_simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the threads of this process: every image is made on one."""
    bars: list[str] = []

    class Listening(progress.SilentReporter):
        def bar(self, description: str, total: float | None, unit: str) -> AbstractContextManager[progress.Bar]:
            bars.append(description)
            return super().bar(description, total, unit)

    monkeypatch.setattr(app.progress, "LineReporter", Listening)
    monkeypatch.setattr(Execution, "chosen", lambda self: Local(self.workers, patience_s=0.0))
    before = torch.get_num_threads()
    for threads, workers in ((1, 1), (2, 1), (1, 2)):
        torch.set_num_threads(threads)
        name = str(tmp_path / f"{threads}-{workers}")
        words = ("simulate", "-o", name, "-n", "20", "--size", "32", "--workers", str(workers))
        assert invoke(*words)[0] == 0
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert crash.tree(tmp_path / "1-1") == crash.tree(tmp_path / "2-1") == crash.tree(tmp_path / "1-2")
    assert set(bars) == {"simulate"}


def test_sigterm_ends_a_run_and_its_workers(tmp_path: Path) -> None:
    words = ["simulate", "-o", str(tmp_path / "a"), "-n", "20000", "--size", "64", "--workers", "2"]
    run = subprocess.Popen([sys.executable, "-m", "groundswell", *words], stderr=subprocess.PIPE, text=True)
    shard = tmp_path / "a" / "shards" / "000000.npy.tmp"
    end = time.monotonic() + 120
    # Past the first seconds, in which it works alone: then there are workers.
    while time.monotonic() < end and not (shard.exists() and len(crash.workers(run.pid)) == 2):
        time.sleep(0.05)
    assert len(crash.workers(run.pid)) == 2
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)  # which waits for the workers too: they hold the other end of the pipe
    assert run.returncode == 75
    assert "stopped by SIGTERM" in errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "a").rglob("*.tmp"))


def test_options_that_do_not_go_together(images: str) -> None:
    for words, message in (
        (["--executor", "slrm"], "slurm"),
        (["--scheduler", "tcp://x:1"], "--executor dask"),
        (["--submit"], "--executor slurm"),
        (["--sbatch=--time=1"], "--executor slurm"),
        (["--executor", "slurm", "--task", "0/2"], "leave out one"),
        (["--task", "2/2"], "is no task"),
        (["--task", "0/2"], "no plan"),
    ):
        code, output = invoke("ingest", images, "-o", "archive", *OPTIONS, *words)
        assert code == 2, output
        assert message in output
    assert not Path("archive").exists()
