"""Seasonal composites: scenes on a grid in closed form, statistics against numpy, what the archive records."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from geo_tiles import UTM, write_tile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.transform import Affine
from typer.testing import CliRunner

import groundswell as gs
import groundswell.cli.verbs
from groundswell.archive.reader import open_archive
from groundswell.cli.app import application
from groundswell.errors import DataError, UsageError
from groundswell.physics.imagette import Imagette, Quantity
from groundswell.products.composites.acquisition import on_grid
from groundswell.products.composites.composite import Composite, CompositeSettings, compose, ratio
from groundswell.products.composites.geocode import locate
from groundswell.products.folder.bands import COMPOSITE
from groundswell.products.folder.grid import Grid, centres
from groundswell.products.safe_writer.laws import Bilinear, Track
from groundswell.products.safe_writer.model import Image, Settings, Signal, truth_of
from groundswell.products.safe_writer.writer import write_grd
from groundswell.products.source import Rejected

GRID = Grid(UTM[0], tuple(UTM[1])[:6], 24, 20)
MIDDLE = Track(lon_deg=9.0, lat_deg=46.0, heading_deg=193.0)


def plane(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """sigma0 that is linear in ground metres."""
    return 0.05 + 4e-6 * y + 6e-6 * x


def scene(folder: Path, denoised: bool = True, **settings: object) -> Path:
    """A GRD scene of 600 x 700 pixels of 10 m near the track of `MIDDLE`, without speckle."""
    signals = (Signal(polarisation="VV", sigma0=plane, beta=Bilinear(20000.0)), Signal(polarisation="VH", sigma0=0.02))
    image = Image(shape=(600, 700), beam="IW", signals=signals)
    return write_grd(folder, image, Settings(track=MIDDLE, speckle=False, denoised=denoised, **settings))  # type: ignore[arg-type]


def under(product: Path, spacing: float, size: tuple[int, int]) -> Grid:
    """A UTM grid in the middle of a scene."""
    m = gs.open_product(product)["iw"].metadata
    zone = f"EPSG:{32601 + int((m.lon + 180) // 6)}"
    probe = Grid(zone, (1.0, 0.0, 0.0, 0.0, -1.0, 0.0), 1, 1)
    row, column = (float(v) for v in probe.cells(m.lon, m.lat))
    west, north = column - size[1] * spacing / 2, -row + size[0] * spacing / 2
    return Grid(zone, (spacing, 0.0, west, 0.0, -spacing, north), *size)


def test_locate_inverts_the_geolocation(tmp_path: Path) -> None:
    place = gs.open_product(scene(tmp_path))["iw"].geolocation
    rng = np.random.default_rng(0)
    lines, pixels = rng.uniform(-0.5, 599.5, 40), rng.uniform(-0.5, 699.5, 50)
    y, x = locate(place, *place.lonlat(lines, pixels))
    # Newton's last step is below 1e-4; it converges quadratically.
    np.testing.assert_allclose(y, np.broadcast_to(lines[:, None], y.shape), atol=1e-4)
    np.testing.assert_allclose(x, np.broadcast_to(pixels, x.shape), atol=1e-4)
    far = locate(place, np.array([0.0, 180.0, 9.0]), np.array([0.0, -46.0, 47.0]))
    assert np.isnan(far).all()


@pytest.mark.parametrize("spacing", [10.0, 50.0])
def test_a_plane_field_lies_on_the_grid_as_its_law_says(tmp_path: Path, spacing: float) -> None:
    product = scene(tmp_path)
    grid = under(product, spacing, (40, 30))
    source = Composite([product], CompositeSettings(grid=grid))
    vv, vh = on_grid(source.acquisitions[0], grid)
    truth = truth_of(Image(shape=(600, 700), beam="IW"), Settings(track=MIDDLE))
    lines, pixels = locate(gs.open_product(product)["iw"].geolocation, *centres(grid))
    wanted = plane((lines + 0.5) * truth.geometry.azimuth_spacing_m, (pixels + 0.5) * truth.geometry.range_spacing_m)
    # Digital numbers of some 6000 are whole: a half of them twice is 2e-4 of the power.
    np.testing.assert_allclose(vv, wanted, rtol=3e-4)
    assert abs(np.mean(vh) / 0.02 - 1.0) < 0.01


def test_noise_that_stays_is_said(tmp_path: Path) -> None:
    """An IW scene without azimuth noise vectors cannot be denoised; its composite says so."""
    product = scene(tmp_path, denoised=False)
    source = Composite([product], CompositeSettings(grid=under(product, 10.0, (4, 4))))
    assert source.description["with_thermal_noise"] == [source.acquisitions[0].id]
    assert any("thermal noise stays in 1 scenes" in note for note in source.notes())


def test_a_grid_beyond_the_scene_is_empty_there(tmp_path: Path) -> None:
    product = scene(tmp_path)
    grid = under(product, 10.0, (40, 30))
    edge = grid.window(0, -400, 40, 430)
    (acquisition,) = Composite([product], CompositeSettings(grid=grid)).acquisitions
    planes = on_grid(acquisition, edge)
    lines, pixels = locate(gs.open_product(product)["iw"].geolocation, *centres(edge))
    inside = (np.abs(lines - 299.5) < 300) & (np.abs(pixels - 349.5) < 350)
    assert 0.5 < inside.mean() < 1.0
    np.testing.assert_array_equal(np.isfinite(planes[0]), inside)
    assert on_grid(acquisition, grid.window(0, 5000, 40, 30)) is None


stacks = arrays(
    np.float32, st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)),
    elements=st.one_of(st.just(np.nan), st.floats(2.0**-13, 10.0, width=32)),
)  # fmt: skip


@given(stack=stacks)
def test_statistics_are_those_of_numpy(stack: np.ndarray) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of columns without a value
        mean = np.nanmean(stack.astype(np.float64), axis=0)
        median = 10 ** (np.nanmedian(10 * np.log10(stack.astype(np.float64)), axis=0) / 10)
    # As published the median is of decibels; float32 holds 6e-8.
    np.testing.assert_allclose(compose(stack, "median"), median, rtol=2e-7)
    np.testing.assert_allclose(compose(stack, "mean"), mean, rtol=2e-7)


def test_negatives_stay_and_have_no_ratio() -> None:
    stack = np.array([-0.2, 0.1, -0.1, np.nan], np.float32)[:, None, None]
    np.testing.assert_allclose(compose(stack, "median"), -0.1)
    np.testing.assert_allclose(compose(stack[:2], "median"), -0.05)
    np.testing.assert_allclose(compose(stack, "mean"), -0.2 / 3, rtol=1e-6)
    assert np.isnan(ratio(np.float32([0.1, -0.1, np.nan]), np.float32([-0.1, 0.1, 0.1]))).all()
    np.testing.assert_allclose(ratio(np.float32([0.1]), np.float32([0.02])), 5.0, rtol=1e-6)


def year(
    folder: Path, *, seed: int = 0, months: tuple[int, ...] = (1, 2, 12, 3, 4, 6, 7, 8, 9)
) -> dict[int, np.ndarray]:
    """One tile of decibels a month of 2020 on `GRID`; month to values."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    out = {}
    for month in months:
        power = np.array([0.1, 0.02])[:, None, None] * rng.gamma(4.0, 0.25, (2, 24, 20))
        out[month] = (10 * np.log10(power)).astype(np.float32)
        write_tile(folder / f"tile_2020{month:02d}15.tif", out[month])
    return out


def test_a_year_of_tiles_becomes_twelve_channels_in_an_archive(tmp_path: Path) -> None:
    values = year(tmp_path / "in")
    template = write_tile(tmp_path / "grid.tif", np.zeros((1, 24, 20), np.float32), None)
    arguments = ["ingest", tmp_path / "in", "-o", tmp_path / "out", "--composite", "median", "--grid", template]
    result = CliRunner().invoke(application, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["written"] == 1
    archive = open_archive(tmp_path / "out")
    assert tuple(c.name for c in archive.channels) == COMPOSITE
    assert [c.quantity for c in archive.channels] == [Quantity.RATIO] * 4 + [Quantity.SIGMA0_DB] * 8
    pixels = dict(zip(COMPOSITE, archive.read(np.arange(1))[0], strict=True))
    seasons = {"winter": (1, 2, 12), "spring": (3, 4), "summer": (6, 7, 8), "fall": (9,)}
    for season, months in seasons.items():
        vv, vh = np.median([values[month].astype(np.float64) for month in months], axis=0)
        # Decibels of float32 (2e-6) through linear power in float32 (5e-7 dB) and back.
        np.testing.assert_allclose(pixels[f"{season}_vv"], vv, atol=1e-5)
        np.testing.assert_allclose(pixels[f"{season}_vh"], vh, atol=1e-5)
        np.testing.assert_allclose(10 * np.log10(pixels[f"{season}_ratio"]), vv - vh, atol=2e-5)
    row = archive.catalogue.iloc[0]
    assert {s: row[f"label_acquisitions_{s}"] for s in seasons} == {s: len(m) for s, m in seasons.items()}
    assert row["range_spacing_m"] == 10.0
    recorded = archive.schema.source
    assert (recorded["kind"], recorded["statistic"]) == ("seasonal composite", "median")
    assert {s: v["acquisitions"] for s, v in recorded["seasons"].items()} == {s: len(m) for s, m in seasons.items()}
    again = CliRunner().invoke(application, [*map(str, arguments), "--json"])
    assert json.loads(again.stdout)["resumed_shards"] == 1


def test_a_missing_season_is_nan_and_counted(tmp_path: Path) -> None:
    year(tmp_path / "in", months=(6, 7))
    source = Composite([tmp_path / "in"], CompositeSettings(grid=GRID, statistic="mean"))
    (item,) = source.read(source.ids())
    assert isinstance(item, Imagette)
    there = [name for name, values in zip(COMPOSITE, item.pixels, strict=True) if np.isfinite(values).any()]
    assert there == ["summer_ratio", "summer_vv", "summer_vh"]
    assert item.labels == {f"acquisitions_{s}": 2 * (s == "summer") for s in ("winter", "spring", "summer", "fall")}
    assert "no acquisition in winter, spring, fall" in source.notes()[0]
    assert source.description["seasons"]["fall"]["acquisitions"] == 0


def test_tiles_do_not_depend_on_how_they_are_cut_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    year(tmp_path / "in")
    whole = Composite([tmp_path / "in"], CompositeSettings(grid=GRID))
    (expected,) = whole.read(whole.ids())
    cut = pickle.loads(pickle.dumps(Composite([tmp_path / "in"], CompositeSettings(grid=GRID, tile=(10, 12)))))
    assert len(cut.ids()) == 6
    monkeypatch.setattr(
        "groundswell.products.composites.composite._STACK_BYTES", 8.0 * 3 * 12 * 4
    )  # strips of four rows
    items = dict(zip(cut.ids(), cut.read(cut.ids()), strict=True))
    tiles = [[items[f"{GRID.name}/r{r:04d}c{c:04d}"].pixels for c in range(2)] for r in range(3)]
    joined = np.concatenate([np.concatenate(row, axis=2) for row in tiles], axis=1)
    np.testing.assert_array_equal(joined[:, :24, :20], expected.pixels)
    assert np.isnan(joined[:, 24:]).all()  # the last tiles reach beyond the grid, where these files end


def test_other_maps_are_warped_in_power(tmp_path: Path) -> None:
    """A field linear in the metres of one map, sampled on the grid of the next zone, in decibels and linear alike."""
    big = Affine(20.0, 0.0, 499000.0, 0.0, -20.0, 5005500.0)
    rows, columns = np.arange(120)[:, None], np.arange(120)[None, :]
    power = (0.05 + 1e-4 * rows + 3e-4 * columns)[None].repeat(2, axis=0)
    fine = Grid("EPSG:32633", (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), 1, 1)
    lon, lat = Grid(UTM[0], tuple(big)[:6], 120, 120).lonlat(59, 59)
    row, column = (float(v) for v in fine.cells(lon, lat))
    grid = Grid("EPSG:32633", (10.0, 0.0, column * 10 - 150, 0.0, -10.0, -row * 10 + 150), 30, 30)
    at = Grid(UTM[0], tuple(big)[:6], 120, 120).cells(*centres(grid))
    wanted = 0.05 + 1e-4 * at[0] + 3e-4 * at[1]
    for name, values, quantity in (
        ("db", 10 * np.log10(power), Quantity.SIGMA0_DB),
        ("linear", power, Quantity.SIGMA0),
    ):
        (tmp_path / name).mkdir()
        path = write_tile(tmp_path / name / "a_20200601.tif", values.astype(np.float32), place=(UTM[0], big))
        (one,) = Composite([path], CompositeSettings(grid=grid, quantity=quantity)).acquisitions
        found = on_grid(one, grid)
        # GDAL's approximate transformer errs by up to 1/8 of a pixel: 3e-4 * 0.125 of 0.07.
        np.testing.assert_allclose(found[0], wanted, atol=5e-5)
    coarse = Grid(UTM[0], (80.0, 0.0, 499000.0, 0.0, -80.0, 5005500.0), 30, 30)
    found = on_grid(one, coarse)
    blocks = power[0].reshape(30, 4, 30, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(found[0], blocks, rtol=1e-5)


def test_scenes_and_tiles_come_together(tmp_path: Path) -> None:
    product = scene(tmp_path / "in", start=datetime(2021, 4, 3, 8, 30, 25, tzinfo=UTC))
    grid = under(product, 10.0, (24, 20))
    power = np.full((2, 24, 20), 0.3, np.float32)
    write_tile(tmp_path / "in" / "a_20210701.tif", 10 * np.log10(power), place=(grid.crs, Affine(*grid.transform)))
    source = Composite([tmp_path / "in"], CompositeSettings(grid=grid))
    (item,) = source.read(source.ids())
    assert [a.season for a in source.acquisitions] == ["spring", "summer"]
    assert source.acquisitions[0].orbit_pass in ("ascending", "descending")
    pixels = dict(zip(COMPOSITE, item.pixels, strict=True))
    np.testing.assert_allclose(pixels["summer_vv"], 0.3, rtol=1e-5)
    np.testing.assert_allclose(pixels["spring_vh"].mean(), 0.02, rtol=0.01)
    assert any("not terrain-corrected" in note for note in source.notes())
    assert len(source.description["geometry"]) == 2
    only = CompositeSettings(grid=grid, orbit_pass=source.acquisitions[0].orbit_pass)
    kept = Composite([tmp_path / "in"], only)
    assert len(kept.acquisitions) == 1
    assert [item.reason for item in kept.rejected] == [f"its pass is unknown, not {only.orbit_pass}"]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    year(tmp_path / "in", months=(6,))
    good = (tmp_path / "in" / "tile_20200615.tif").read_bytes()
    (tmp_path / "in" / "copy_20200615.tif").write_bytes(good)
    (tmp_path / "in" / "undated.tif").write_bytes(good)
    (tmp_path / "in" / "half_20200616.tif").write_bytes(good[: len(good) // 2])
    linear = np.full((2, 24, 20), 0.1, np.float32)
    write_tile(tmp_path / "in" / "linear_20200617.tif", linear)
    write_tile(tmp_path / "in" / "other_20200618.tif", linear, ("B4", "B8"))
    source = Composite([tmp_path / "in"], CompositeSettings(grid=GRID))
    reasons = {item.id: item.reason for item in source.rejected}
    assert len(source.acquisitions) == 1
    assert len(reasons) == 5
    assert "the same as" in next(reason for id_, reason in reasons.items() if "20200615" in id_)
    assert "say one day" in reasons["undated.tif"]
    assert "declare it" in reasons["linear_20200617.tif"]
    assert "neither VV nor VH" in reasons["other_20200618.tif"]
    with pytest.raises(DataError, match="no acquisition can be used"):
        Composite([tmp_path / "in" / "undated.tif"], CompositeSettings(grid=GRID))
    away = Composite([tmp_path / "in"], CompositeSettings(grid=GRID.window(5000, 0, 24, 20)))
    assert away.read(away.ids()) == [Rejected(away.ids()[0], "no acquisition covers it")]
    with pytest.raises(UsageError, match="statistic"):
        Composite([tmp_path / "in"], CompositeSettings(grid=GRID, statistic="max"))  # type: ignore[arg-type]
    result = CliRunner().invoke(
        application, ["ingest", str(tmp_path), "-o", str(tmp_path / "o"), "--composite", "median"]
    )
    assert result.exit_code == 2
