"""SAFE sources by `--executor slurm` and `--executor dask`: the catalogue and the bytes of a run in one process."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from ocn_files import contents, write_ocn_product
from safe_products import trapped, wave_mode
from typer.testing import CliRunner

import crash
import groundswell.cli.verbs  # noqa: F401 - registers the verbs
from groundswell.archive.reader import open_archive
from groundswell.cli.app import application
from groundswell.products.safe_writer.laws import AzimuthBlock
from groundswell.products.safe_writer.model import Image, Settings, Signal
from groundswell.products.safe_writer.writer import write_grd, write_wv

WAVES = ("in", "--size", "24", "--shard-mb", "0.0024")  # two imagettes a shard
CHIPS = ("scene", "--size", "12x16", "--overlap", "4", "--land", "1", "--shard-mb", "0.003")


def ingest(*words: str, exit_code: int = 4) -> dict[str, Any]:
    result = CliRunner().invoke(application, ["ingest", *words, "--json"])
    assert result.exit_code == exit_code, result.output
    return dict(json.loads(result.stdout))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wave mode of every kind below ``in``, a scene below ``scene``, and the archives of one process."""
    place = tmp_path_factory.mktemp("executors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        folder = wave_mode(Path("in"), 5)
        write_wv(Path("in/packed"), [trapped(n, "WV1") for n in (1, 2)], Settings(datatake=0xABC, container="zip"))
        write_wv(Path("in/copies"), [trapped(n, "WV1") for n in (1, 2)], Settings(datatake=0xABC, ipf="003.40"))
        victim = next((folder / "measurement").glob("*-003.tiff"))
        victim.write_bytes(victim.read_bytes()[:1000])
        stem = "s1b-wv{}-ocn-vv-20210403t083026-20210403t083029-026300-032390-00{}.nc"
        files = {stem.format(1, 1): contents(oswTotalHs=1.25), stem.format(2, 2): contents(owiMask=2)}
        write_ocn_product(Path("in/labels"), files, "zip")
        blocks = (AzimuthBlock("IW1", (0, 159), (0, 199)),)
        signals = (Signal(sigma0=0.05), Signal(polarisation="VH", sigma0=0.01, nesz_db=-26.0))
        write_grd("scene", Image(shape=(160, 200), beam="IW", signals=signals, grid=(9, 11), blocks=blocks))
        told = ingest(*WAVES, "-o", "serial", "--workers", "1")
        assert told["screened"]["counts"] == {"ice": 1}
        assert (told["written"], len(told["rejected"]), told["shards"]) == (5, 1, 4)
        assert told["found"]["copies"] != []
        assert ingest(*CHIPS, "-o", "chips", "--workers", "1", exit_code=0)["shards"] > 1
    frame = open_archive(place / "serial").catalogue
    assert frame["label_hs_total"].dropna().tolist() == [1.25]
    return place


@pytest.mark.parametrize(("words", "name", "code"), [(WAVES, "serial", 4), (CHIPS, "chips", 0)], ids=["waves", "chips"])
def test_a_slurm_array(
    place: Path, words: tuple[str, ...], name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    # A stand-in that takes the jobs; what it took is then run here, the array backwards.
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/bash\necho "${{@: -1}}" >> {tmp_path}/taken\nwc -l < {tmp_path}/taken\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:/usr/bin:/bin")
    out = str(tmp_path / "out")
    plan = ingest(*words, "-o", out, "--executor", "slurm", "--workers", "3", "--submit", exit_code=0)
    assert plan["jobs"] == ["1", "2"]
    array, finish = (Path(line) for line in (tmp_path / "taken").read_text().splitlines())
    shards: list[int] = []
    for index in (2, 1, 0):
        done = ingest(*command_of(array, SLURM_ARRAY_TASK_ID=str(index)), exit_code=0)
        assert done["task"] == f"{index}/3"
        shards += done["shards"]
    assert sorted(shards) == list(range(plan["shards"]))
    assert len(open_archive(out)) == 0  # nothing counts before it is joined
    joined = ingest(*command_of(finish), exit_code=code)
    assert joined["resumed_shards"] == plan["shards"]
    assert crash.tree(Path(out)) == crash.tree(place / name)


def command_of(script: Path, **variables: str) -> list[str]:
    """The arguments of ``ingest`` at the end of a script."""
    line = script.read_text().splitlines()[-1].replace("${SLURM_CPUS_PER_TASK:-1}", "1")
    for variable, value in variables.items():
        line = line.replace(f"${variable}", value)
    words = shlex.split(line)
    return words[words.index("ingest") + 1 :]


def test_a_dask_cluster(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One scheduler for both, as a user has one."""
    import distributed

    monkeypatch.chdir(place)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        by = ("--executor", "dask", "--scheduler", cluster.scheduler_address)
        for words, name, code in ((WAVES, "serial", 4), (CHIPS, "chips", 0)):
            ingest(*words, "-o", str(tmp_path / name), *by, exit_code=code)
            assert crash.tree(tmp_path / name) == crash.tree(place / name)
