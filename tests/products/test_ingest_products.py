"""`groundswell ingest` of SAFE products as a user meets it: plans, counts, exit codes, labels, attribution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from safe_products import expected, trapped, wave_mode
from typer.testing import CliRunner

import groundswell.cli.verbs  # noqa: F401 - registers the verbs
from groundswell.archive.ingest import read_failures
from groundswell.archive.reader import open_archive
from groundswell.archive.summary import notice, sentinel1_years
from groundswell.cli.app import application
from groundswell.encoder.provenance import attribution, describe
from groundswell.files import read_json
from groundswell.physics.gmf import cmod5n
from groundswell.products.safe_writer.laws import AzimuthBlock, Track
from groundswell.products.safe_writer.model import Image, Settings, Signal
from groundswell.products.safe_writer.writer import write_grd, write_wv

LAND = Track(lon_deg=2.0, lat_deg=48.5)


def run(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(application, ["ingest", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.output


def ingest(*arguments: object, exit_code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(application, ["ingest", *map(str, arguments), "--json", "--workers", "1"])
    assert result.exit_code == exit_code, result.output
    return dict(json.loads(result.stdout)) if result.stdout else {"error": result.stderr}


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """Five imagettes at sea, one of them truncated, and two on land in a zip."""
    folder = tmp_path / "in"
    sea = wave_mode(folder / "2021", 5)
    write_wv(folder, [trapped(n, "WV1") for n in (1, 2)], Settings(track=LAND, datatake=0xABC, container="zip"))
    victim = next((sea / "measurement").glob("*-003.tiff"))
    victim.write_bytes(victim.read_bytes()[:-5])
    return folder


def test_a_mix_of_products_is_read_screened_and_counted(products: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = ingest(products, "-o", out, "--size", 24, exit_code=4)
    assert data["written"] == 4
    assert data["screened"]["counts"] == {"land": 2}
    ((broken,),) = ([item["id"][-3:] for item in data["rejected"]],)
    assert broken == "003"
    assert "truncated" in data["rejected"][0]["reason"]
    assert data["found"]["products"] == 2
    assert data["found"]["imagettes"] == [
        {"mode": "WV", "beam": "WV1", "polarisations": "VV", "count": 5},
        {"mode": "WV", "beam": "WV2", "polarisations": "VV", "count": 2},
    ]
    archive = open_archive(out)
    listed = {id_: why for record in archive.records for id_, kind, why in read_failures(out, record)}
    assert sorted(listed) == sorted(item["id"] for item in [*data["screened"]["items"], *data["rejected"]])
    assert archive.verify() == []
    text = run(products, "-o", out, "--size", 24, exit_code=4)
    assert "screened    2 (land 2)" in text
    assert "1 that are broken" in text
    assert "1 of 1 shards were there already" in text


def test_images_of_which_the_same_file_is_at_fault_share_a_line(products: Path, tmp_path: Path) -> None:
    for number in ("001", "002"):
        next(products.rglob(f"*-{number}.tiff")).unlink()
    said = run(products, "-o", tmp_path / "out", "--size", 24, "--workers", "1", exit_code=4)
    (line,) = [line for line in said.splitlines() if "*.tiff is missing" in line]
    assert "-001 and 1 more: " in line


def test_screening_alone_is_no_error(products: Path, tmp_path: Path) -> None:
    next(products.rglob("*-003.tiff")).unlink()
    for file in products.rglob("*-003.xml"):
        file.unlink()
    manifest = next(products.rglob("manifest.safe"))
    manifest.write_text("damaged, so that nothing is said to be missing")
    data = ingest(products, "-o", tmp_path / "out", "--size", 24)
    assert (data["written"], data["rejected"], data["screened"]["counts"]) == (4, [], {"land": 2})
    kept = ingest(products, "-o", tmp_path / "all", "--size", 24, "--keep-land")
    assert (kept["written"], kept["screened"]["counts"]) == (6, {})
    assert "contradict" in ingest(products, "-o", tmp_path / "x", "--keep-land", "--land", 0.5, exit_code=2)["error"]


def test_when_all_is_screened_nothing_is_left(tmp_path: Path) -> None:
    write_wv(tmp_path / "in", [trapped(1, "WV1")], Settings(track=LAND))
    data = ingest(tmp_path / "in", "-o", tmp_path / "out", exit_code=3)
    assert (data["written"], data["screened"]["counts"], data["attribution"]) == (0, {"land": 1}, None)


def test_a_plan_counts_and_writes_nothing(products: Path, tmp_path: Path) -> None:
    data = ingest(products, "-o", tmp_path / "out", "--dry-run")
    assert not (tmp_path / "out").exists()
    assert data["archive"]["size"] == [400, 400]
    assert (data["archive"]["images"], data["archive"]["bytes"]) == (7, 7 * 400 * 400 * 2)
    assert data["found"]["bytes"] > 5 * 300 * 420 * 4
    assert any("where the manifest says" in note for note in data["notes"])
    coarse = ingest(products, "-o", tmp_path / "out", "--dry-run", "--spacing", 100)
    assert (coarse["archive"]["size"], coarse["archive"]["spacing_m"]) == ([200, 200], 100.0)
    text = run(products, "-o", tmp_path / "out", "--dry-run", "--workers", 1)
    assert "WV1 VV 5, WV2 VV 2" in text


def test_products_and_images_do_not_mix(products: Path, tmp_path: Path) -> None:
    Picture.fromarray(np.zeros((8, 8), np.uint8)).save(products / "picture.png")
    error = ingest(products, "-o", tmp_path / "out", exit_code=2)["error"]
    assert "SAFE products and image files" in error
    assert "picture.png" in error
    assert ".SAFE" in error or ".zip" in error


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--boxes", "b.json"), "--boxes is for image files"),
        (("--bands", "VV"), "--bands is for image files"),
        (("--far-range", "up"), "--far-range is for image files"),
        (("--quantity", "sigma0_db"), "--convert-to sigma0_db"),
        (("--filter", "hann"), "not one of box, kaiser"),
        (("--overlap", "400"), "cannot share 400"),
        (("--polarisations", "HH"), "no image has the polarisation 'HH'"),
    ],
)
def test_options_that_do_not_fit_products(options: tuple[str, ...], what: str, tmp_path: Path) -> None:
    wave_mode(tmp_path / "in", 1)
    assert what in ingest(tmp_path / "in", "-o", tmp_path / "out", *options, exit_code=2)["error"]


def test_options_of_products_are_refused_for_images(tmp_path: Path) -> None:
    Picture.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "p.png")
    error = ingest(tmp_path, "-o", tmp_path / "out", "--quantity", "quicklook", "--overlap", 3, exit_code=2)["error"]
    assert "--overlap is for SAFE products" in error


def test_labels_of_a_table_by_id_or_stem(products: Path, tmp_path: Path) -> None:
    stems = sorted(path.stem for path in products.rglob("*.tiff"))
    lines = [f"{stem},{k},{'test' if k else 'train'}" for k, stem in enumerate(stems)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["name,waves,split", *(f"sim-{line}" for line in lines)]))
    data = ingest(products, "-o", tmp_path / "out", "--size", 24, "--labels", table, "--only-labelled", exit_code=4)
    assert data["written"] == 4
    frame = open_archive(tmp_path / "out").catalogue
    told = {f"sim-{stem}": k for k, stem in enumerate(stems)}
    assert frame["label_waves"].tolist() == [told[id_] for id_ in frame["id"]]
    assert set(frame["split"]) == {"train", "test"}


def test_roughness_and_linear_sigma0(tmp_path: Path) -> None:
    wave_mode(tmp_path / "in", 1)
    for name, options in (("db", ()), ("rough", ("--convert-to", "roughness_db")), ("linear", ("--dtype", "float32"))):
        ingest(tmp_path / "in", "-o", tmp_path / name, "--size", "24x31", *options)
    decibels, rough, linear = (open_archive(tmp_path / name).read([0])[0, 0] for name in ("db", "rough", "linear"))
    # one half step each of 0.002 dB, and float32
    np.testing.assert_allclose(10 * np.log10(linear), decibels, atol=0.00105)
    row = open_archive(tmp_path / "rough").catalogue.iloc[0]
    theta = np.linspace(row["incidence_near_deg"], row["incidence_far_deg"], 31)
    model = 10 * np.log10(cmod5n(10.0, 45.0, theta).numpy())
    np.testing.assert_allclose(rough, decibels - model, atol=0.003)
    # the mean intensity of the scene is that of the closed form, but for its last part of a cell
    assert float(linear.mean()) == pytest.approx(float(expected(trapped(1, "WV1")).mean()), rel=0.01)


def test_chips_of_a_scene(tmp_path: Path) -> None:
    signals = (Signal(sigma0=0.05), Signal(polarisation="VH", sigma0=0.01, nesz_db=-26.0))
    blocks = (AzimuthBlock("IW1", (0, 399), (0, 519)),)
    write_grd(tmp_path / "in", Image(shape=(400, 520), beam="IW", signals=signals, grid=(9, 11), blocks=blocks))
    data = ingest(tmp_path / "in", "-o", tmp_path / "out", "--size", 32, "--overlap", 8, "--channels", "VH,VV")
    archive = open_archive(tmp_path / "out")
    assert data["written"] == len(archive) == 3 * 4
    assert [(c.name, c.quantity.value) for c in archive.channels] == [("VH", "sigma0_db"), ("VV", "sigma0_db")]
    assert set(archive.catalogue["mode"]) == {"IW"}
    # gamma speckle of 4.4 looks in cells of 25 samples: 110 looks; the mean over 12 x 1024 cells lies within 1 %
    levels = 10 ** (archive.read(range(12)).astype(np.float64) / 10)
    np.testing.assert_allclose(levels.mean((0, 2, 3)), [0.01, 0.05], rtol=0.02)


# Who must be named


def test_real_data_is_attributed_and_simulated_data_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave_mode(tmp_path / "in", 1)
    assert ingest(tmp_path / "in", "-o", tmp_path / "simulated", "--size", 24)["attribution"] is None
    assert attribution([describe(open_archive(tmp_path / "simulated"))]) is None
    # the same product as a ground segment would sign it
    manifest = next((tmp_path / "in").rglob("manifest.safe"))
    manifest.write_text(manifest.read_text().replace('organisation="groundswell"', 'organisation="ESA"'))
    data = ingest(tmp_path / "in", "-o", tmp_path / "real", "--size", 24)
    text = "Contains modified Copernicus Sentinel data 2021."
    assert data["attribution"] == text
    assert read_json(tmp_path / "real" / "statistics.json")["attribution"] == text
    archive = open_archive(tmp_path / "real")
    assert archive.catalogue["id"].tolist()[0].startswith("s1b-wv1-slc-vv-2021")
    assert archive.verify() == []
    assert attribution([describe(archive)]) == text
    assert sentinel1_years(archive.catalogue) == (2021,)


def test_the_notice_spans_its_years() -> None:
    assert notice([]) is None
    assert notice([2019, 2016, 2019]) == "Contains modified Copernicus Sentinel data 2016-2019."


# Real products


def test_real_products_without_pixels_give_named_reasons(real_data: Path, tmp_path: Path) -> None:
    """The fixtures are whole annotations with blank or cut measurements: each item is named, none is invented."""
    data = ingest(real_data / "safe-fixtures", "-o", tmp_path / "out", exit_code=3)
    assert data["written"] == 0
    assert data["found"]["products"] == 5
    reasons = {item["id"]: item["reason"] for item in data["rejected"]}
    wave = [reason for id_, reason in reasons.items() if "-wv" in id_]
    assert len(wave) == 60
    assert all("is missing" in reason for reason in wave)
    assert all(len(reason) > 20 for reason in reasons.values())
    assert not any(id_.startswith("sim-") for id_ in reasons)
