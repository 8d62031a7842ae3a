"""``groundswell attend``: the sheet of a transformer and of a ResNet, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive, open_archive
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.cli import verbs  # noqa: F401 - importing the verbs registers them
from groundswell.cli.app import application
from groundswell.encoder.directory import load, save_model
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.evaluation import attention
from groundswell.report.attention import attention_sheet, choose_rows
from groundswell.simulator.source import SimulatedSource, SimulatorSettings


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = tmp_path_factory.mktemp("attend") / "sea"
    ingest(SimulatedSource(SimulatorSettings(count=40, size=32, spacing_m=100.0)), path)
    return open_archive(path)


@pytest.fixture(scope="module")
def models(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    preprocessing = PreprocessingSettings().resolve(archive.channels, 32, 32, 100.0)
    for name, settings in (
        ("vit", BackboneSettings(name="vit-ti/8", image_size=32)),
        ("resnet", BackboneSettings(name="resnet18", width=4, stem="small")),
    ):
        save_model(Encoder(build_backbone(settings, 1, 0), preprocessing, name, settings), folder / name)
    return folder


def attend(*arguments: object) -> Any:
    return CliRunner().invoke(application, ["attend", *map(str, arguments)])


def test_a_transformer_has_maps_colours_and_scores_beside_controls(
    archive: Archive, models: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "s.png"
    result = attend(models / "vit", archive.path, "-o", sheet, "--count", 4, "--draws", 100, "--seeds", 1, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["heads"], data["grid"], len(data["ids"])) == (3, [4, 4], 4)
    assert {"slick", "front"} <= set(data["heads_chosen"])
    detectors = {row["detector"] for row in data["scores"]}
    assert {
        "attention, mean of heads",
        "random weights, best head",
        "pixel magnitude",
        "best of this grid",
    } <= detectors
    for row in data["scores"]:
        assert 0 <= row["value"] <= 1
        ceiling = [r for r in data["scores"] if (r["truth"], r["metric"]) == (row["truth"], row["metric"])]
        assert row["value"] <= next(r["value"] for r in ceiling if r["detector"] == "best of this grid") + 1e-12
    # the model has the weights of the control's only seed, so nothing tells them apart
    same = [r for r in data["differences"] if r["control"].startswith("random")]
    assert {r["value"] for r in same} == {0.0}
    assert {r["favours"] for r in same} == {None}
    assert Image.open(sheet).width > 900


def test_a_resnet_shows_its_vectors_and_says_that_it_has_no_attention(
    archive: Archive, models: Path, tmp_path: Path
) -> None:
    result = attend(models / "resnet", archive.path, "-o", tmp_path / "s.png", "--rows", "3,7", "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["heads"] == 0
    assert data["ids"] == archive.catalogue["id"].iloc[[3, 7]].tolist()
    assert any("has no attention" in notice for notice in data["notices"])
    assert data["scores"] == []


def test_rows_are_spread_over_the_classes_or_as_given(archive: Archive) -> None:
    rows = choose_rows(archive, 10)
    assert archive.catalogue["label_phenomenon"].iloc[rows].nunique() == 10
    name = archive.catalogue["id"].iloc[5]
    assert choose_rows(archive, 10, [name, "0"]).tolist() == [5, 0]
    assert len(np.unique(choose_rows(archive, 99))) == 40


def test_long_names_of_classes_have_room(archive: Archive, models: Path, tmp_path: Path) -> None:
    names = np.where(np.arange(len(archive)) % 2, "wind", "interferometricallymeasuredwaves")
    named = Archive(archive.path, archive.schema, archive.catalogue.assign(label_phenomenon=names), archive.records)
    attention_sheet(load(models / "vit"), named, choose_rows(named, 4), tmp_path / "s.png")
    pixels = np.asarray(Image.open(tmp_path / "s.png").convert("L"))
    assert pixels[:, :4].min() == 255


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--block", "12"], 3, "blocks 0 to 11"),
        (["--rows", "sim-9"], 2, "no imagette 'sim-9'"),
        (["--rows", "40"], 2, "positions from 0 to 39"),
        (["--rows", ","], 2, "names no image"),
        (["--rows", ""], 2, "names no image"),
        (["--where", "split == 'none'"], 2, "holds for none"),
    ],
)
def test_what_cannot_be_shown_is_an_error(
    archive: Archive, models: Path, tmp_path: Path, extra: list[str], code: int, message: str
) -> None:
    result = attend(models / "vit", archive.path, "-o", tmp_path / "s.png", "--no-score", *extra)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert not (tmp_path / "s.png").exists()


def test_a_control_without_patches_and_a_file_that_is_no_picture_are_refused(
    archive: Archive, models: Path, tmp_path: Path
) -> None:
    result = attend("statistics", archive.path, "-o", tmp_path / "s.png")
    assert (result.exit_code, "no patches" in result.stderr) == (2, True)
    result = attend(models / "vit", archive.path, "-o", tmp_path / "s.txt")
    assert (result.exit_code, ".png" in result.stderr) == (2, True)


@pytest.mark.parametrize("name", ["file/s.png", "file/deep/s.png", "folder.png"])
def test_a_sheet_that_cannot_be_written_is_refused_before_anything_is_scored(
    archive: Archive, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(attention, "score_attention", lambda *_, **__: pytest.fail("scored"))
    result = attend(models / "vit", archive.path, "-o", tmp_path / name)
    assert result.exit_code == 1, result.output
    assert "could not write a file" in result.stderr
