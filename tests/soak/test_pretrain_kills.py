"""Kills at random moments of one pretraining run after another, by method: each ends in the undisturbed bytes."""

import json
import os
import random
import signal
import time
import traceback
from pathlib import Path

import pytest

from groundswell import backbones, files
from groundswell.archive.reader import open_archive
from groundswell.encoder.directory import load
from groundswell.training.loop import pretrain
from groundswell.training.run_directory import read_metrics
from training.tiny import METHODS, make_archive, tiny_recipe

KILLS = {"simclr": 100, "dino": 25, "dino-resnet": 25, "dinov2": 25, "mae": 25, "pruned": 25}
PRUNED = {"pruning": {"rule": "balanced", "keep": 0.5, "resamples": 1, "warmup": 0.1, "every": 0.15}}
IMAGETTES = 600


def result(run: Path) -> tuple[str, str]:
    """The model's bytes, and the metrics without timings."""
    rows = [{k: v for k, v in row.items() if k != "timing"} for row in read_metrics(run / "metrics.jsonl")]
    return files.sha256_file(run / "model" / "model.safetensors"), json.dumps(rows)


@pytest.mark.soak
@pytest.mark.parametrize("name", KILLS)
def test_kills_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(backbones.VIT_SIZES, "ti", (48, 2, 3))  # the same code, a fraction of the time
    make_archive(tmp_path / "archive", IMAGETTES)
    settings = {"length": {"steps": 60}, "batch_size": 32, "log_steps": 2, "checkpoint": {"steps": 3}}
    recipe = tiny_recipe(**settings, health={"grace": 1.0}, **{**METHODS, "pruned": PRUNED}.get(name, {}))
    start = time.monotonic()
    pretrain([open_archive(tmp_path / "archive")], recipe, tmp_path / "whole")
    whole_s = time.monotonic() - start
    expected = result(tmp_path / "whole")

    chosen = random.Random(0)
    kills = runs = 0
    while kills < KILLS[name]:
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
            deadline = time.monotonic() + chosen.uniform(0.0, whole_s / 3) if kills < KILLS[name] else float("inf")
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
        f"{name}: {kills} kills over {runs} runs of {whole_s:.1f} s, {IMAGETTES} imagettes: all ended in the same bytes"
    )
    assert kills >= KILLS[name]
