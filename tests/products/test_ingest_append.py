"""More products for an archive that is there: with its settings they are appended, with others refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safe_products import wave_mode
from typer.testing import CliRunner

import crash
import groundswell.cli.verbs  # noqa: F401 - registers the verbs
from groundswell.archive.reader import open_archive
from groundswell.cli.app import application
from groundswell.products.safe_writer.model import Settings


def ingest(*arguments: object, exit_code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(application, ["ingest", *map(str, arguments), "--json", "--workers", "1"])
    assert result.exit_code == exit_code, result.output
    return dict(json.loads(result.stdout)) if result.stdout else {"error": result.stderr}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of 50 m, and beside it another product (``more``)."""
    place = tmp_path_factory.mktemp("append")
    wave_mode(place / "first", 2)
    wave_mode(place / "more", 2, Settings(datatake=0xABC))
    ingest(place / "first", "-o", place / "archive", "--size", 12)
    return place / "archive"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--spacing", 100), "spacing_m: the archive has 50.0, asked for 100.0"),
        (("--spacing", 49), "spacing_m: the archive has 50.0, asked for 49.0"),
        (("--quantity", "amplitude"), "asked for VV (amplitude"),
        (("--convert-to", "roughness_db"), "asked for VV (roughness_db"),
        (("--dtype", "float32"), "asked for VV (sigma0, "),
        (("--size", 16), "height: the archive has 12, asked for 16"),
        (("--fit", "crop"), "fit: the archive has pad, asked for crop"),
        (("--shard-mb", 1), "shard_rows: the archive has"),
        (("--no-denoise",), "denoise: the archive has True, asked for False"),
        (("--filter", "kaiser"), "filter: the archive has box, asked for kaiser"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_another_product_with_other_settings_is_refused(archive: Path, options: tuple[object, ...], what: str) -> None:
    before = crash.tree(archive)
    words = [archive.parent / "more", "-o", archive, "--size", 12, *options]
    error = ingest(*words, exit_code=2)["error"]
    assert "the archive was made with other settings" in error
    assert what in " ".join(error.split())
    assert crash.tree(archive) == before
    assert ingest(*words, "--executor", "slurm", exit_code=2)["error"] == error
    assert not archive.with_name("archive.slurm").exists()


def test_another_product_with_the_same_settings_is_appended(archive: Path, tmp_path: Path) -> None:
    source = archive.parent
    ingest(source / "first", "-o", tmp_path / "out", "--size", 12)
    ingest(source / "more", "-o", tmp_path / "out", "--size", 12, "--spacing", 50)
    assert open_archive(tmp_path / "out").catalogue["datatake"].tolist() == ["032390"] * 2 + ["000ABC"] * 2


def test_images_that_know_another_spacing_are_refused_unless_they_are_resized(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, spacing in (("ten", 10.0), ("near", 10.05), ("twenty", 20.0)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / f"{folder}.npy", rng.gamma(4.0, 0.01, (8, 8)).astype(np.float32))
        (tmp_path / f"{folder}.csv").write_text(
            f"file,range_spacing_m,azimuth_spacing_m\n{folder}.npy,{spacing},{spacing}\n"
        )

    def add(folder: str, archive: str, *options: object, exit_code: int = 0) -> dict[str, Any]:
        words = (tmp_path / folder, "-o", tmp_path / archive, "--labels", tmp_path / f"{folder}.csv")
        return ingest(*words, "--quantity", "sigma0", "--size", 8, *options, exit_code=exit_code)

    add("ten", "cropped")
    assert "spacing_m: the archive has 10.0, asked for 20.0" in add("twenty", "cropped", exit_code=2)["error"]
    add("near", "cropped")  # half a percent: what images say for themselves varies
    assert open_archive(tmp_path / "cropped").catalogue["range_spacing_m"].tolist() == [10.0, 10.05]
    add("ten", "resized", "--fit", "resize")
    add("twenty", "resized", "--fit", "resize")
    assert len(open_archive(tmp_path / "resized")) == 2
