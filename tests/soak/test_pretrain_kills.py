"""A hundred kills at random moments of one pretraining run after another: each ends in the bytes of the undisturbed."""

import json
import os
import random
import signal
import time
import traceback
from pathlib import Path

import pytest

from groundswell import files
from groundswell.archive.reader import open_archive
from groundswell.encoder.directory import load
from groundswell.training.loop import pretrain
from groundswell.training.run_directory import read_metrics
from training.tiny import make_archive, tiny_recipe

KILLS = 100
IMAGETTES = 600


def result(run: Path) -> tuple[str, str]:
    """The model's bytes, and the metrics without timings."""
    rows = [{k: v for k, v in row.items() if k != "timing"} for row in read_metrics(run / "metrics.jsonl")]
    return files.sha256_file(run / "model" / "model.safetensors"), json.dumps(rows)


@pytest.mark.soak
def test_a_hundred_kills_at_random_moments(tmp_path: Path) -> None:
    make_archive(tmp_path / "archive", IMAGETTES)
    recipe = tiny_recipe(length={"steps": 60}, batch_size=32, log_steps=2, checkpoint={"steps": 3})
    start = time.monotonic()
    pretrain([open_archive(tmp_path / "archive")], recipe, tmp_path / "whole")
    whole_s = time.monotonic() - start
    expected = result(tmp_path / "whole")

    chosen = random.Random(0)
    kills = runs = 0
    while kills < KILLS:
        run = tmp_path / f"run{runs}"
        finished = False
        while not finished:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    pretrain([open_archive(tmp_path / "archive")], recipe, run, resume=True)
                    code = 0
                except BaseException:
                    traceback.print_exc()  # the parent learns no more than an exit code
                finally:
                    os._exit(code)
            # Up to a third of the whole run: several kills to a run, some before its first checkpoint.
            deadline = time.monotonic() + chosen.uniform(0.0, whole_s / 3) if kills < KILLS else float("inf")
            ended = 0
            while not ended and time.monotonic() < deadline:
                ended, status = os.waitpid(child, os.WNOHANG)
                time.sleep(0.001)
            if ended:
                assert os.waitstatus_to_exitcode(status) == 0
                finished = True
            else:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
                if (run / "model").exists():
                    load(run / "model")
        assert result(run) == expected
        runs += 1
    print(
        f"{kills} kills over {runs} runs of {whole_s:.1f} s, {IMAGETTES} imagettes: every run ended in the same bytes"
    )
    assert kills >= KILLS
