"""Tables, noise, place and sigma0 of real products beside xarray-sentinel and xarray-safe-s1.

Both are in the extra `oracle`; the data in GROUNDSWELL_REAL_DATA. Tests are skipped where either is not at hand.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safe_products import wave_mode

import groundswell as gs
from groundswell.products.safe.calibration import LUTS, Lut

IW_SLC = "S1B_IW_SLC__1SDV_20210401T052622_20210401T052650_026269_032297_EFA4.SAFE"
S3_SLC = "S1A_S3_SLC__1SDV_20210401T152855_20210401T152914_037258_04638E_6001.SAFE"
IW_GRD = "S1B_IW_GRDH_1SDV_20211223T051122_20211223T051147_030148_039993_5371.SAFE"
CASES = [(IW_SLC, "iw1", "VV"), (IW_SLC, "iw1", "VH"), (S3_SLC, "s3", "VH"), (IW_GRD, "iw", "VV")]


@pytest.fixture(autouse=True)
def _tools() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def sentinel(real_data: Path, product: str, key: str, polarisation: str, group: str) -> Any:
    """A metadata group by xarray-sentinel."""
    pytest.importorskip("xarray_sentinel", reason="xarray-sentinel (extra `oracle`) is not installed")
    xr = pytest.importorskip("xarray")
    path = real_data / "safe-fixtures" / product
    return xr.open_dataset(path, engine="sentinel-1", group=f"{key.upper()}/{polarisation}/{group}")


def same(table: Lut, lines: Any, pixels: Any, values: Any) -> None:
    np.testing.assert_array_equal(table.lines, np.asarray(lines))
    for at, row, wanted in zip(table.pixels, table.values, np.asarray(values), strict=True):
        np.testing.assert_array_equal(at, np.asarray(pixels))
        np.testing.assert_array_equal(row.astype(wanted.dtype), wanted)  # xarray-sentinel keeps single precision


@pytest.mark.parametrize(("product", "key", "polarisation"), CASES)
def test_calibration_tables_equal_xarray_sentinel(real_data: Path, product: str, key: str, polarisation: str) -> None:
    peer = sentinel(real_data, product, key, polarisation, "calibration")
    image = gs.open_product(real_data / "safe-fixtures" / product)[key].image(polarisation)
    for quantity, element in LUTS.items():
        same(image.lut(quantity), peer.line, peer.pixel, peer[element])


@pytest.mark.parametrize(("product", "key", "polarisation"), [c for c in CASES if c[0] != S3_SLC])
def test_noise_tables_equal_xarray_sentinel(real_data: Path, product: str, key: str, polarisation: str) -> None:
    peer = sentinel(real_data, product, key, polarisation, "noise_range")
    noise = gs.open_product(real_data / "safe-fixtures" / product)[key].image(polarisation).denoising.noise
    assert noise is not None
    same(noise.range_noise, peer.line, peer.pixel, peer.noiseRangeLut)
    first = sentinel(real_data, product, key, polarisation, "noise_azimuth")  # the peer keeps the first box alone
    np.testing.assert_array_equal(noise.boxes[0].lines, first.line)
    np.testing.assert_array_equal(noise.boxes[0].values.astype(np.float32), first.noiseAzimuthLut)
    assert len(noise.boxes) == (3 if product == IW_GRD else 1)


@pytest.mark.parametrize(("product", "key", "polarisation"), CASES)
def test_geolocation_equals_xarray_sentinel(real_data: Path, product: str, key: str, polarisation: str) -> None:
    peer = sentinel(real_data, product, key, polarisation, "gcp")
    place = gs.open_product(real_data / "safe-fixtures" / product)[key].image(polarisation).annotation.geolocation
    lon, lat = place.lonlat(place.lines, place.pixels)
    np.testing.assert_allclose(lon, peer.longitude, atol=1e-10)
    np.testing.assert_allclose(lat, peer.latitude, atol=1e-10)
    np.testing.assert_array_equal(place.incidence, peer.incidenceAngle)


@pytest.mark.parametrize(("product", "key", "polarisation"), CASES)
def test_sigma0_equals_xarray_sentinel(real_data: Path, product: str, key: str, polarisation: str) -> None:
    # Real tables on random numbers: the pixels of the real files are blanked.
    peer = sentinel(real_data, product, key, polarisation, "calibration")
    import xarray as xr
    import xarray_sentinel

    image = gs.open_product(real_data / "safe-fixtures" / product)[key].image(polarisation)
    lines, pixels = np.arange(4000, 4040), np.arange(image.annotation.samples - 60)
    rng = np.random.default_rng(0)
    numbers = rng.integers(-900, 900, (2, len(lines), len(pixels))).astype(np.float32)
    data = xr.DataArray(numbers[0] + 1j * numbers[1], dims=("line", "pixel"), coords={"line": lines, "pixel": pixels})
    power = (numbers.astype(np.float64) ** 2).sum(0).astype(np.float32)
    for quantity in ("sigma0", "beta0", "gamma0"):
        wanted = xarray_sentinel.calibrate_intensity(data, peer[LUTS[quantity]])
        gain = image.lut(quantity).rows(pixels).block(4000, 4040)
        np.testing.assert_allclose(power / gain**2, wanted, rtol=1e-6)


def test_a_window_of_real_files_equals_xarray_sentinel_end_to_end(real_data: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio (extra `oracle`) is not installed")
    peer = sentinel(real_data, IW_SLC, "iw1", "VV", "calibration")
    import xarray as xr
    import xarray_sentinel

    path = real_data / "safe-fixtures" / IW_SLC
    (tiff,) = path.glob("measurement/*-vv-*.tiff")
    window = rasterio.windows.Window(10_000, 700, 500, 90)
    with rasterio.open(tiff) as file:
        numbers = file.read(1, window=window)
    coordinates = {"line": np.arange(700, 790), "pixel": np.arange(10_000, 10_500)}
    data = xr.DataArray(numbers, dims=("line", "pixel"), coords=coordinates)
    wanted = xarray_sentinel.calibrate_intensity(data, peer.sigmaNought).values
    found = gs.open_product(path)["iw1"].to_dataset(
        spacing_m=None, denoise=False, polarisations="VV", lines=slice(700, 790), pixels=slice(10_000, 10_500)
    )
    assert (wanted > 0).any()
    np.testing.assert_allclose(found.sigma0.where(found.valid > 0, 0.0), wanted, rtol=1e-6)


def safe_s1_reader(path: Path, item: str) -> Any:
    safe_s1 = pytest.importorskip("safe_s1", reason="xarray-safe-s1 (extra `oracle`) is not installed")
    return safe_s1.Sentinel1Reader(f"SENTINEL1_DS:{path}:{item}")


def test_tables_equal_xarray_safe_s1(real_data: Path) -> None:
    # The other two real products lack files of the second polarisation, which this peer cannot do without.
    path = real_data / "safe-fixtures" / IW_SLC
    peer = safe_s1_reader(path, "IW1")
    scene = gs.open_product(path)["iw1"]
    for polarisation in ("VV", "VH"):
        tables = peer.get_calibration_luts.sel(pol=polarisation)
        image = scene.image(polarisation)
        same(image.lut("sigma0"), tables.line, tables["sample"], tables.sigma0_lut)
        same(image.lut("gamma0"), tables.line, tables["sample"], tables.gamma0_lut)
        noise, raw = image.denoising.noise, peer.get_noise_range_raw.sel(pol=polarisation)
        assert noise is not None
        same(noise.range_noise, raw.line, raw["sample"], raw.noise_lut)
        along = peer.get_noise_azi_raw.sel(pol=polarisation)
        np.testing.assert_array_equal(noise.boxes[0].lines, along.line)
        np.testing.assert_array_equal(noise.boxes[0].values, along.noise_lut)


def test_wave_mode_equals_xarray_safe_s1(tmp_path: Path) -> None:
    # No real wave-mode pixels are at hand: a written product, whose second imagette has tables of its own.
    path = wave_mode(tmp_path, settings=None)
    product = gs.open_product(path)
    for number in (1, 2):
        peer = safe_s1_reader(path, f"WV_{number:03d}")
        _, data = peer.load_digital_number(chunks={"line": 500, "sample": 500})
        found = product[number].to_dataset(spacing_m=None, denoise=False)
        tables = peer.get_calibration_luts.isel(pol=0)
        inside = found.line <= float(tables.line[-1])
        at = {"line": found.line[inside], "sample": found.pixel}
        gain = tables.sigma0_lut.interp(line=at["line"].values, sample=at["sample"].values).values
        wanted = np.abs(data.digital_number.isel(pol=0).values[inside]).astype(np.float64) ** 2 / gain**2
        np.testing.assert_allclose(found.sigma0[inside], wanted, rtol=1e-6)
        same(product[number].image("VV").lut("sigma0"), tables.line, tables["sample"], tables.sigma0_lut)


def test_the_list_of_a_real_wave_mode_product_equals_xarray_safe_s1(real_data: Path) -> None:
    path = real_data / "safe-fixtures" / "S1B_WV_SLC__1SSV_20210403T083025_20210403T084452_026300_032390_D542.SAFE"
    names = [name.rpartition(":")[2] for name in safe_s1_reader(path, "").datasets_names]
    assert [f"WV_{number:03d}" for number in gs.open_product(path)] == names
