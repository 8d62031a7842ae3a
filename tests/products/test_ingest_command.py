"""`groundswell ingest` as a user meets it: plans, errors with a fix, exit codes, and the archive that results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from mutants import speckled
from PIL import Image
from typer.testing import CliRunner

import groundswell.cli.verbs  # noqa: F401 - registers the verbs
from groundswell.archive.reader import open_archive
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.cli.app import application
from groundswell.cli.ingest import parse_size
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.errors import UsageError
from groundswell.evaluation.controls import StatisticsEmbedder


def ingest(*arguments: object, exit_code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(application, ["ingest", *map(str, arguments), "--json"])
    assert result.exit_code == exit_code, result.output
    return dict(json.loads(result.stdout)) if result.stdout else {"error": result.stderr}


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    """Six calibrated chips of 24 x 20, a table beside them."""
    folder = tmp_path / "chips"
    folder.mkdir()
    for i in range(6):
        np.save(folder / f"{i}.npy", speckled(seed=i)[0])
    lines = [f"{i}.npy,{'ab'[i % 2]},{i / 2},p{i // 2},{20 + i}" for i in range(6)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,class,length,product,theta", *lines]))
    return folder


def test_the_archive_holds_what_the_files_held(chips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (chips, "-o", out, "--quantity", "sigma0", "--labels", tmp_path / "labels.csv", "--group", "product")
    arguments += ("--incidence", "theta", "--spacing", 10)
    data = ingest(*arguments)
    assert (data["written"], data["rejected"]) == (6, [])
    archive = open_archive(out)
    pixels = archive.read(np.arange(6))
    expected = 10 * np.log10(np.stack([speckled(seed=i) for i in range(6)]))
    np.testing.assert_allclose(pixels, expected, atol=0.00101)  # half a step of 0.002 dB, and float32 rounding
    frame = archive.catalogue
    assert frame["id"].tolist() == [f"{i}.npy" for i in range(6)]
    assert frame["label_length"].tolist() == [i / 2 for i in range(6)]
    assert frame["group"].tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert frame["incidence_deg"].tolist() == [20.0 + i for i in range(6)]
    assert set(frame["range_spacing_m"]) == {10.0}
    # the same command again finds everything there
    again = ingest(*arguments)
    assert (again["written"], again["resumed_shards"]) == (6, again["shards"])
    # the same files read with other settings are refused
    refused = ingest(chips, "-o", out, "--quantity", "sigma0", "--size", 8, exit_code=2)
    assert "other settings" in refused["error"]


def test_roughness_takes_the_declared_incidence(chips: Path, tmp_path: Path) -> None:
    from groundswell.physics.quantities import roughness_reference_db

    out = tmp_path / "out"
    arguments = (chips, "-o", out, "--quantity", "sigma0", "--labels", tmp_path / "labels.csv", "--incidence", "theta")
    ingest(*arguments, "--convert-to", "roughness_db")
    pixels = open_archive(out).read(np.arange(6))
    expected = 10 * np.log10(np.stack([speckled(seed=i) for i in range(6)]))
    expected -= roughness_reference_db(20.0 + np.arange(6))[:, None, None, None]
    np.testing.assert_allclose(pixels, expected, atol=0.00101)


def test_bad_files_are_set_aside_listed_and_make_exit_code_4(chips: Path, tmp_path: Path) -> None:
    (chips / "a_truncated.npy").write_bytes((chips / "0.npy").read_bytes()[:-7])
    np.save(chips / "b_constant.npy", np.full((24, 20), 0.1, np.float32))
    np.save(chips / "c_nan.npy", np.full((24, 20), np.nan, np.float32))
    np.save(chips / "d_size.npy", speckled()[0, :12])
    (chips / "e_text.png").write_text("no image")
    np.save(chips / "f_dn.npy", 1000 * speckled()[0])
    (chips / "g_copy.npy").write_bytes((chips / "0.npy").read_bytes())
    data = ingest(chips, "-o", tmp_path / "out", "--quantity", "sigma0", "--size", "24x20", exit_code=4)
    assert data["written"] == 6
    reasons = {item["id"]: item["reason"] for item in data["rejected"]}
    assert {id_: next((w for w in words if w in reasons[id_]), reasons[id_]) for id_, words in _REASONS.items()} == {
        id_: words[0] for id_, words in _REASONS.items()
    }
    assert sorted(reasons) == sorted(_REASONS)
    assert [item["id"] for item in data["duplicates"]] == ["g_copy.npy"]
    shown = CliRunner().invoke(
        application, ["ingest", str(chips), "-o", str(tmp_path / "out"), "--quantity", "sigma0", "--size", "24x20"]
    )
    assert shown.exit_code == 4
    assert "a_truncated.npy" in shown.stdout
    assert "set aside" in shown.stdout


_REASONS = {
    "a_truncated.npy": ("bytes where its header",),
    "b_constant.npy": ("constant",),
    "c_nan.npy": ("NaN",),
    "d_size.npy": ("smaller than the crop",),
    "e_text.png": ("no PNG",),
    "f_dn.npy": ("digital numbers",),
}


def test_nothing_usable_is_exit_code_3(tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "x.png").write_text("no image")
    assert "could be read" in ingest(folder, "-o", tmp_path / "out", "--quantity", "sigma0", exit_code=3)["error"]
    (folder / "x.png").unlink()
    np.save(folder / "x.npy", np.full((8, 8), np.nan))
    data = ingest(folder, "-o", tmp_path / "out", "--quantity", "sigma0", exit_code=3)
    assert len(data["rejected"]) == 1


def test_a_dry_run_writes_nothing_and_tells_the_size(chips: Path, tmp_path: Path) -> None:
    arguments = (
        chips,
        "-o",
        tmp_path / "out",
        "--quantity",
        "sigma0",
        "--labels",
        tmp_path / "labels.csv",
        "--dry-run",
    )
    data = ingest(*arguments)
    assert not (tmp_path / "out").exists()
    assert data["archive"]["bytes"] == 6 * 24 * 20 * 2
    assert data["archive"]["quantity"] == "sigma0_db"
    assert data["found"]["labels"]["key"] == "file"
    assert data["found"]["labels"]["matched_images"] == 6


@pytest.fixture
def grey(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Three 8-bit images in three formats, and their pixels [3, 24, 20]."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 20)).astype(np.uint8)
    folder = tmp_path / "grey"
    folder.mkdir()
    Image.fromarray(pixels[0]).save(folder / "0.png")
    tifffile.imwrite(folder / "1.tif", pixels[1])
    np.save(folder / "2.npy", pixels[2])
    return folder, pixels


def test_8_bit_amplitude_is_kept_in_bytes_without_loss(grey: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    folder, pixels = grey
    planned = ingest(folder, "-o", tmp_path / "out", "--quantity", "amplitude", "--dry-run")["archive"]
    assert (planned["dtype"], planned["bytes"]) == ("uint8", pixels.size)
    for dtype, arguments in {"uint8": [], "uint16": ["--dtype", "uint16"], "float32": ["--dtype", "float32"]}.items():
        ingest(folder, "-o", tmp_path / dtype, "--quantity", "amplitude", *arguments)
        archive = open_archive(tmp_path / dtype)
        assert archive.schema.dtype == dtype
        np.testing.assert_array_equal(archive.read(range(3))[:, 0], pixels.astype(np.float32))
        assert archive.catalogue["valid_fraction"].tolist() == [1.0] * 3
        figures = archive.statistics["channels"]["intensity"]
        assert (figures["minimum"], figures["maximum"]) == (pixels.min(), pixels.max())
        # sums of 1440 whole numbers below 2^16 are exact in float64
        assert (figures["mean"], figures["std"]) == pytest.approx((pixels.mean(), pixels.std()), rel=1e-12)


def _transparent(folder: Path) -> None:
    Image.fromarray(np.full((24, 20, 2), 255, np.uint8), "LA").save(folder / "3.png")


def _no_data(folder: Path) -> None:
    tifffile.imwrite(folder / "3.tif", np.eye(24, 20, dtype=np.uint8), extratags=[(42113, "s", 0, "0", True)])


def _sixteen_bit(folder: Path) -> None:
    Image.fromarray(np.full((24, 20), 300, np.uint16)).save(folder / "3.png")


def _colour(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 20, 3)).astype(np.uint8)).save(folder / "3.png")


@pytest.mark.parametrize(
    ("add", "arguments"),
    [
        (_transparent, ()),
        (_no_data, ()),
        (_sixteen_bit, ()),
        (_colour, ("--colour-to-grey",)),  # luminance is no whole number
        (None, ("--size", "12", "--fit", "resize")),  # nor is an average
        (None, ("--allow-missing-channel",)),  # what is missing is NaN
    ],
)
def test_amplitude_that_bytes_may_not_hold_stays_float(
    grey: tuple[Path, np.ndarray], tmp_path: Path, add: Any, arguments: tuple[str, ...]
) -> None:
    if add is not None:
        add(grey[0])
    planned = ingest(grey[0], "-o", tmp_path / "out", "--quantity", "amplitude", *arguments, "--dry-run")["archive"]
    assert planned["dtype"] == "float32"


def test_a_channel_may_be_missing_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "chips"
    folder.mkdir()
    power = speckled(2)
    tifffile.imwrite(folder / "both.tif", power, planarconfig="separate", photometric="minisblack")
    tifffile.imwrite(folder / "one.tif", 2 * power[0])
    bands = ("--quantity", "sigma0", "--bands", "VV,VH", "--bands", "VV", "--channels", "VV,VH")
    refused = ingest(folder, "-o", tmp_path / "refused", *bands, exit_code=3)
    assert "--allow-missing-channel" in refused["error"]
    data = ingest(folder, "-o", tmp_path / "out", *bands, "--allow-missing-channel")
    assert data["written"] == 2
    archive = open_archive(tmp_path / "out")
    assert archive.catalogue["id"].tolist() == ["both.tif", "one.tif"]
    pixels = archive.read([0, 1])
    # half a step of 0.002 dB, and float32 rounding
    np.testing.assert_allclose(pixels[0], 10 * np.log10(power), atol=0.00101)
    np.testing.assert_allclose(pixels[1, 0], 10 * np.log10(2 * power[0]), atol=0.00101)
    assert np.isnan(pixels[1, 1]).all()
    assert archive.catalogue["valid_fraction"].tolist() == [1.0, 0.5]

    result = CliRunner().invoke(application, ["stats", str(tmp_path / "out"), "--verify", "--json"])
    assert result.exit_code == 0, result.output
    figures = archive.statistics["channels"]["VH"]
    assert figures["valid_fraction"] == 0.5
    assert figures["mean"] == pytest.approx(pixels[0, 1].mean(), abs=1e-4)  # of float32 values near -10

    preprocessing = PreprocessingSettings(size=16).resolve(archive.channels, 24, 20)
    settings = BackboneSettings(name="resnet18", width=4)
    encoder = Encoder(build_backbone(settings, 2, seed=0), preprocessing, "two", settings)
    vectors = encoder.encode(archive)
    assert np.isfinite(vectors).all()
    assert not np.allclose(vectors[0], vectors[1])
    statistics = StatisticsEmbedder().embed_batch(pixels, archive.channels, archive.catalogue)
    assert np.isfinite(statistics).all()


def test_the_trap_of_sizes_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "sizes"
    folder.mkdir()
    rows = ["file,class"]
    for i in range(40):
        size = 16 + 8 * (i % 2)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (size, size)).astype(np.uint8)).save(
            folder / f"{i}.png"
        )
        rows.append(f"{i}.png,{'ab'[i % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    arguments = (folder, "-o", tmp_path / "out", "--quantity", "amplitude", "--labels", tmp_path / "labels.csv")
    assert "2 sizes" in ingest(*arguments, exit_code=2)["error"]
    (note,) = ingest(*arguments, "--size", 24, "--fit", "pad", "--dry-run")["notes"]
    assert "label_class is told by size alone in 100 %" in note
    assert ingest(*arguments, "--size", 16, "--dry-run")["notes"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--quantity", "sigma"), "no such quantity"),
        (("--quantity", "sigma0", "--fit", "krop"), "did you mean 'crop'"),
        (("--quantity", "sigma0", "--size", "0"), "is no size"),
        (("--quantity", "sigma0", "--bands", "VV,,VH"), "no list of names"),
        (("--quantity", "amplitude", "--far-range", "top"), "not one of right, up, left, down"),
        (("--quantity", "sigma0", "--dtype", "int8"), "not one of"),
        (("--quantity", "sigma0", "--group", "product"), "no label table"),
        (("--quantity", "sigma0", "--channels", "VH"), "no file has a channel"),
    ],
)
def test_usage_errors(chips: Path, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in ingest(chips, "-o", tmp_path / "out", *arguments, exit_code=2)["error"]


def test_sizes() -> None:
    assert parse_size("64") == (64, 64)
    assert parse_size("64x96") == (64, 96)
    for text in ("", "x", "64x", "-1", "1.5", "64x96x1", "99999999"):
        with pytest.raises(UsageError):
            parse_size(text)


def test_mstar_by_the_command_line(real_data: Path, tmp_path: Path) -> None:
    data = real_data / "mstar"
    arguments = (data / "images" / "eoc30", "-o", tmp_path / "out", "--quantity", "amplitude", "--size", 88)
    found = ingest(*arguments, "--labels", data / "labels.csv", "--label", "label")
    assert found["written"] == 1151
    archive = open_archive(tmp_path / "out")
    assert archive.catalogue["label_label"].value_counts().to_dict() == {
        "2S1": 288,
        "ZSU234": 288,
        "T72": 288,
        "BRDM2": 287,
    }
    row = 700
    whole = np.asarray(Image.open(data / "images" / "eoc30" / archive.catalogue["id"][row]))
    top, left = (whole.shape[0] - 88) // 2, (whole.shape[1] - 88) // 2
    assert np.array_equal(archive.read(np.array([row]))[0, 0], whole[top : top + 88, left : left + 88])
