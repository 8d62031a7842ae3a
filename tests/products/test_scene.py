"""Scenes of written products against the closed form: calibration, noise, place, ground, and what is recorded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from safe_products import SHAPE, TILTED, expected, replace_bytes, trapped, wave_mode

import groundswell as gs
from groundswell.errors import ProductError, UsageError
from groundswell.products.safe_writer.laws import AzimuthBlock, Bilinear, Track
from groundswell.products.safe_writer.model import Image, Settings, Signal, truth_of
from groundswell.products.safe_writer.writer import write_grd, write_wv

# Tables are written with seven digits: A to 5e-7, A^2 to 1e-6. The rest of 1e-5 is linear interpolation of sqrt(sin).
RELATIVE = 1e-5


def close(found: np.ndarray, wanted: np.ndarray, nesz: np.ndarray) -> None:
    """Equal to 1e-5 of signal plus noise: what is left after subtraction has no relative error of its own."""
    np.testing.assert_array_less(np.abs(found - wanted), RELATIVE * (np.abs(wanted) + nesz))


@pytest.mark.parametrize(("number", "beam"), [(1, "WV1"), (2, "WV2")])
def test_native_sigma0_is_that_of_the_laws(tmp_path: Path, number: int, beam: str) -> None:
    data = gs.open_product(wave_mode(tmp_path))[number].to_dataset(spacing_m=None)
    image = trapped(number, beam)
    y, x = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None, :]
    nesz = truth_of(image).nesz(y, x)
    assert data.sigma0.dims == ("azimuth", "range")
    close(data.sigma0.values, expected(image), nesz)
    np.testing.assert_allclose(data.nesz.values, nesz, rtol=RELATIVE)
    assert (data.valid == 1.0).all()
    assert data.attrs["denoised"] == 1
    assert data.attrs["range_projection"] == "slant"
    np.testing.assert_allclose(data["range"].diff("range"), truth_of(image).geometry.range_spacing_m)


@pytest.mark.parametrize(("calibration", "lut"), [("beta0", "betaNought"), ("gamma0", "gamma")])
def test_beta0_and_gamma0_have_their_own_tables(tmp_path: Path, calibration: str, lut: str) -> None:
    scene = gs.open_product(wave_mode(tmp_path, 1))[1]
    data = scene.to_dataset(spacing_m=None, calibration=calibration)
    wanted = expected(trapped(1, "WV1"), lut=lut)
    close(data[calibration].values, wanted, np.full(SHAPE, 0.02))
    assert "sigma0" not in data


def test_without_calibration_it_is_the_mean_square_of_the_numbers(tmp_path: Path) -> None:
    image, path = trapped(1, "WV1"), wave_mode(tmp_path, 1)
    for table in path.glob("annotation/calibration/*"):
        table.unlink()
    data = gs.open_product(path)[1].to_dataset(spacing_m=None, calibration=None)
    power = expected(image) * truth_of(image).gain(np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])) ** 2
    power += truth_of(image).noise(np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1]))
    np.testing.assert_allclose(data.intensity, power, rtol=2e-6)
    assert set(data.data_vars) == {"intensity", "valid"}
    assert data.attrs["denoised"] == 0


@pytest.mark.parametrize(
    "track", [Track(), Track(179.95, -10.0, -13.0), Track(12.0, 87.0, -60.0), Track(-179.99, 0.0, 193.0)]
)
def test_place_and_incidence_to_1e_4_degrees(tmp_path: Path, track: Track) -> None:
    image = replace(trapped(1, "WV1"), shape=(900, 1400), grid=(4, 5), calibration_at=None, noise_at=None)
    path = write_wv(tmp_path, [image], Settings(track=track))
    data = gs.open_product(path)[1].to_dataset(spacing_m=50.0)
    geometry = truth_of(image, Settings(track=track)).geometry
    # The true place of a cell's centre: as many metres of ground from the first sample's near edge.
    pixels = np.interp(data["range"], geometry.ground_range(np.arange(1401) - 0.5), np.arange(1401) - 0.5)
    lines = data.azimuth.values / geometry.azimuth_spacing_m - 0.5
    lon, lat = geometry.lonlat(lines[:, None], pixels[None, :])
    np.testing.assert_allclose(data.lat, lat, atol=1e-4)
    turn = (data.lon.values - lon + 180.0) % 360.0 - 180.0
    np.testing.assert_array_less(np.abs(turn) * np.cos(np.deg2rad(lat)), 1e-4)
    np.testing.assert_allclose(data.incidence.values, np.broadcast_to(geometry.incidence(pixels), lat.shape), atol=1e-4)


@pytest.mark.parametrize("lon", [10.0, 179.9, -179.9])
def test_a_footprint_is_as_large_on_the_date_line_as_elsewhere(tmp_path: Path, lon: float) -> None:
    image = Image(shape=(200, 2000), beam="WV1", grid=(2, 2))
    settings = Settings(track=Track(lon + 3.0, -10.0, 193.0))
    facts = gs.open_product(write_wv(tmp_path, [image], settings))[1].metadata
    assert facts.footprint is not None
    outline = shapely.from_wkb(facts.footprint)
    assert outline.is_valid
    assert outline.area == pytest.approx(200 * 4.1 * 7500.0 / 111_195.0**2 / np.cos(np.deg2rad(10.0)), rel=0.05)
    assert outline.contains(shapely.Point(facts.lon, facts.lat))


def test_mean_over_ground_cells_is_the_mean_over_their_area(tmp_path: Path) -> None:
    # The wave of sigma0 is resolved by neither grid, so that a wrong weight would show; no outside reference is used
    # but the true edges of the samples on the ground.
    image = Image(shape=(600, 800), beam="WV2", signals=(Signal(sigma0=lambda a, g: 0.2 + 0.1 * np.sin(g / 40.0)),))
    data = gs.open_product(write_wv(tmp_path, [image]))[1].to_dataset(spacing_m=50.0)
    native, geometry = expected(image), truth_of(image).geometry
    down = np.arange(601) * geometry.azimuth_spacing_m
    across = geometry.ground_range(np.arange(801) - 0.5)

    def share(edges: np.ndarray, count: int) -> np.ndarray:
        low, high = np.arange(count)[:, None] * 50.0, np.arange(1, count + 1)[:, None] * 50.0
        return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, None) / 50.0

    wanted = share(down, data.sizes["azimuth"]) @ native @ share(across, data.sizes["range"]).T
    assert data.sigma0.shape == (int(down[-1] // 50), int(across[-1] // 50))
    np.testing.assert_allclose(data.sigma0, wanted, rtol=2e-5)
    area = np.outer(share(down, data.sizes["azimuth"]).sum(0), share(across, data.sizes["range"]).sum(0))
    assert float(data.sigma0.mean()) == pytest.approx((native * area).sum() / area.sum(), rel=1e-5)


def test_negatives_stay_and_borders_are_gaps(tmp_path: Path) -> None:
    image = replace(trapped(1, "WV1"), border=(30, 0, 50, 12), signals=(replace(TILTED, sigma0=1e-4),))
    product = gs.open_product(write_wv(tmp_path, [image]))
    native = product[1].to_dataset(spacing_m=None)
    inside = np.zeros(SHAPE, bool)
    inside[30:, 50:-12] = True
    # A lone zero inside is a dark pixel, part of the mean; two side by side are rare enough to be let go.
    there = native.valid.values == 1.0
    assert not there[~inside].any()
    assert there[inside].mean() > 0.9999
    assert np.isnan(native.sigma0.values[~there]).all()
    assert (native.sigma0.values[there] < 0).mean() > 0.4
    # E|DN|^2 = A^2 sigma0 + eta (and 1/6 of rounding): the mean is the field's within 4 standard errors of speckle.
    mean, count = float(native.sigma0.mean()), int(there.sum())
    gain2 = float((truth_of(image).gain(150, 200) ** 2).item())
    assert mean == pytest.approx(1e-4 + 1 / 6 / gain2, abs=4 * float(native.nesz.mean()) / np.sqrt(count))
    cells = product[1].to_dataset(spacing_m=50.0)
    assert float(cells.valid[0, 5]) == 0.0
    assert np.isnan(float(cells.sigma0[0, 5]))
    assert 0.0 < float(cells.valid[2, 10]) < 1.0


def grd(folder: Path, beam: str = "IW", **changes: object) -> tuple[Path, Image]:
    blocks = (
        AzimuthBlock("IW1", (0, 199), (0, 149), 1.05, 1e-4),
        AzimuthBlock("IW2", (0, 99), (150, 299), 0.96, -2e-4),
        AzimuthBlock("IW2", (100, 199), (150, 299), 0.93, 1e-4),
    )
    signals = (
        Signal(polarisation="VV", sigma0=0.08, beta=Bilinear(500.0, 1e-4, -2e-5)),
        Signal(polarisation="VH", sigma0=0.004, beta=Bilinear(520.0, 1e-4), nesz_db=-26.0),
    )
    image = Image(shape=(200, 300), beam=beam, signals=signals, blocks=blocks)
    image = replace(image, **changes)  # type: ignore[arg-type]
    return write_grd(folder, image), image


def test_ground_range_scene_with_two_polarisations_and_boxes_of_azimuth_noise(tmp_path: Path) -> None:
    path, image = grd(tmp_path)
    scene = gs.open_product(path)["iw"]
    data = scene.to_dataset(spacing_m=None)
    assert data.sigma0.dims == ("polarisation", "azimuth", "range")
    assert list(data.polarisation.values) == ["VV", "VH"]
    y, x = np.arange(200)[:, None], np.arange(300)[None, :]
    for name in ("VV", "VH"):
        part = data.sel(polarisation=name)
        nesz = truth_of(image, polarisation=name).nesz(y, x)
        close(part.sigma0.values, expected(image, polarisation=name), nesz)
        np.testing.assert_allclose(part.nesz, nesz, rtol=RELATIVE)
        alone = scene.to_dataset(spacing_m=None, polarisations=name)
        assert alone.sigma0.dims == ("azimuth", "range")
        assert str(alone.polarisation.values) == name
        np.testing.assert_array_equal(alone.sigma0, part.sigma0)
    looked = scene.to_dataset(spacing_m=40.0)
    assert looked.sizes == {"polarisation": 2, "azimuth": 50, "range": 75}
    blocks = data.sigma0.values.reshape(2, 50, 4, 75, 4).mean((2, 4))
    np.testing.assert_allclose(looked.sigma0, blocks, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("spacing", [None, 50.0])
def test_a_window_is_a_part_of_the_whole(tmp_path: Path, spacing: float | None) -> None:
    path, _ = grd(tmp_path)
    scene = gs.open_product(path)["iw"]
    whole = scene.to_dataset(spacing_m=spacing)
    part = scene.to_dataset(spacing_m=spacing, lines=slice(50, 150), pixels=slice(100, 250))
    same = whole.sel(azimuth=part.azimuth, range=part["range"])
    for name in ("sigma0", "nesz", "valid", "lon", "lat", "incidence", "line", "pixel"):
        np.testing.assert_allclose(part[name].values, same[name].values, rtol=1e-5, err_msg=name)
    assert np.array_equal(part.time, same.time)


@pytest.mark.parametrize(("ipf", "beam"), [("002.36", "WV1"), ("002.90", "WV1"), ("002.91", "WV2"), ("002.92", "WV2")])
def test_older_noise_and_the_fault_of_two_versions(tmp_path: Path, ipf: str, beam: str) -> None:
    number, settings = (1 if beam == "WV1" else 2), Settings(ipf=ipf, mission="S1A")
    image = trapped(number, beam)
    data = gs.open_product(write_wv(tmp_path, [image], settings))[number].to_dataset(spacing_m=None)
    nesz = truth_of(image, settings).nesz(np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1]))
    close(data.sigma0.values, expected(image, settings), nesz)
    assert data.attrs["denoised"] == 1
    assert ("MPCS-2007" in data.attrs["denoise_note"]) == (ipf in ("002.90", "002.91"))


def test_noise_already_out_is_not_taken_out_again(tmp_path: Path) -> None:
    settings = Settings(denoised=True)
    data = gs.open_product(wave_mode(tmp_path, 1, settings))[1].to_dataset(spacing_m=None)
    close(data.sigma0.values, expected(trapped(1, "WV1"), settings), np.full(SHAPE, 1e-3))
    assert data.attrs["denoised"] == 1
    assert "already" in data.attrs["denoise_note"]


@pytest.mark.parametrize(("level", "why"), [(9e6, "NESZ 1"), (0.0, "NESZ -inf")])
def test_implausible_noise_is_not_subtracted(tmp_path: Path, level: float, why: str) -> None:
    path = wave_mode(tmp_path, 1)

    def flat(data: bytes) -> bytes:
        """Every noise vector at one level."""
        row = r'(<noiseRangeLut count="(\d+)">)[^<]*'
        return re.sub(row, lambda m: m[1] + " ".join([str(level)] * int(m[2])), data.decode()).encode()

    replace_bytes(path, "annotation/calibration/noise*", flat)
    data = gs.open_product(path)[1].to_dataset(spacing_m=None)
    raw = gs.open_product(path)[1].to_dataset(spacing_m=None, denoise=False)
    assert data.attrs["denoised"] == 0
    assert why in data.attrs["denoise_note"]
    assert np.isnan(data.nesz).all()
    np.testing.assert_array_equal(data.sigma0, raw.sigma0)


def test_a_product_without_noise_file_is_read_and_says_so(tmp_path: Path) -> None:
    path = wave_mode(tmp_path, 1)
    next(path.glob("annotation/calibration/noise*")).unlink()
    data = gs.open_product(path)[1].to_dataset()
    assert data.attrs["denoised"] == 0
    assert "no noise file" in data.attrs["denoise_note"]
    assert np.isnan(data.nesz).all()
    assert data.sigma0.notnull().all()


def test_the_older_noise_of_burst_modes_is_not_subtracted(tmp_path: Path) -> None:
    path, _ = grd(tmp_path, blocks=())
    data = gs.open_product(path)["iw"].to_dataset(polarisations="VV")
    assert data.attrs["denoised"] == 0
    assert "no noise along azimuth" in data.attrs["denoise_note"]


def test_what_is_recorded(tmp_path: Path) -> None:
    scene = gs.open_product(wave_mode(tmp_path))[2]
    data, facts = scene.to_dataset(), scene.metadata
    assert facts.id.endswith("-002")
    assert (facts.mission, facts.beam, facts.mode, facts.image_number) == ("S1B", "WV2", "WV", 2)
    assert (facts.orbit, facts.datatake, facts.group) == (26300, "032390", "S1B-032390")
    assert (facts.orbit_pass, facts.look, facts.ipf_version) == ("descending", "right", "003.31")
    assert facts.lon is not None
    assert facts.footprint is not None
    outline = shapely.from_wkb(facts.footprint)
    assert outline.contains(shapely.Point(facts.lon, facts.lat))
    heading = truth_of(trapped(2, "WV2")).geometry.track.heading(14.7) % 360.0
    assert data.attrs["heading_deg"] == pytest.approx(heading, abs=0.1)
    assert data.attrs["source"] == "Simulated: no real image"
    assert "not turned" in data.attrs["orientation"]
    assert data.sigma0.attrs["units"] == "1"
    assert (data.lon.attrs["units"], data.lat.attrs["units"]) == ("degrees_east", "degrees_north")
    step = float(data.time[1] - data.time[0]) / 1e9
    assert step == pytest.approx(50.0 / 4.1 * truth_of(trapped(2, "WV2")).geometry.line_interval_s, rel=1e-6)


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_a_dataset_goes_to_netcdf_and_back(tmp_path: Path, engine: str) -> None:
    import xarray as xr

    data = gs.open_product(wave_mode(tmp_path, 1))[1].to_dataset()
    path = tmp_path / "imagette.nc"
    data.to_netcdf(path, engine=engine)
    again = xr.load_dataset(path, engine=engine)
    np.testing.assert_array_equal(again.sigma0, data.sigma0)
    assert again.attrs == data.attrs
    assert again.time.equals(data.time)


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    scene = gs.open_product(wave_mode(tmp_path, 1))[1]
    for arguments in (
        {"calibration": "sigma"},
        {"spacing_m": -50.0},
        {"spacing_m": float("nan")},
        {"filter": "hann"},
        {"lines": slice(10, 10)},
        {"pixels": slice(0, 100, 2)},
    ):
        with pytest.raises(UsageError):
            scene.to_dataset(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ProductError, match="no polarisation 'HH'"):
        scene.to_dataset(polarisations="HH")
    with pytest.raises(gs.errors.DataError, match="no cell"):
        scene.to_dataset(spacing_m=5000.0)


def test_kaiser_is_smoother_than_box(tmp_path: Path) -> None:
    image = Image(shape=(500, 560), beam="WV1")
    scene = gs.open_product(write_wv(tmp_path, [image]))[1]
    box, kaiser = (scene.to_dataset(filter=name) for name in ("box", "kaiser"))
    assert box.sigma0.shape == kaiser.sigma0.shape
    assert float(kaiser.sigma0.std()) < 0.9 * float(box.sigma0.std())
    assert float(kaiser.sigma0.mean()) == pytest.approx(float(box.sigma0.mean()), rel=0.01)
