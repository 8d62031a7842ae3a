"""Written SAFE products: the laws against independent formulas, the files against the laws."""

from __future__ import annotations

import hashlib
import tarfile
import xml.etree.ElementTree as ET
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.interpolate import RegularGridInterpolator

from groundswell.errors import DataError, UsageError
from groundswell.physics.geometry import EARTH_RADIUS_M, beta, slant_range
from groundswell.physics.multilook import Multilook, ground_edges, weights
from groundswell.products.names import metadata_from_path, parse_measurement
from groundswell.products.safe_writer.laws import AzimuthBlock, Bilinear, Geometry, Track, Vectors, cells
from groundswell.products.safe_writer.model import Image, Settings, Signal, digital_numbers, truth_of
from groundswell.products.safe_writer.writer import write_grd, write_wv

TILTED = Signal(sigma0=0.1, beta=Bilinear(237.0, 1e-4, -2e-5, 1e-7), noise=Bilinear(900.0, 2e-3, -1e-3, 1e-6))
LIGHT = 299_792_458.0


def full(beam: str) -> Geometry:
    """The geometry of an imagette of the real size."""
    return truth_of(Image(shape=(4900, 5681 if beam == "WV1" else 4500), beam=beam)).geometry


def unit(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    return np.stack((np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)), axis=-1)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Along the sphere, m; by the chord, which is exact for small distances."""
    return 2 * EARTH_RADIUS_M * np.arcsin(np.linalg.norm(a - b, axis=-1) / 2)


@pytest.mark.parametrize("beam", ["WV1", "WV2"])
def test_incidence_and_range_agree_with_the_triangle_of_the_physics_room(beam: str) -> None:
    geometry, x = full(beam), np.arange(0.0, 4500.0, 50.0)
    expected = slant_range(1.0 * np.asarray(geometry.incidence(x)).tolist()[0]), slant_range(geometry.incidence(x[-1]))
    assert float(expected[0]) == pytest.approx(geometry.near_range_m, abs=1e-3)
    assert float(expected[1]) == pytest.approx(geometry.near_range_m + x[-1] * geometry.range_spacing_m, abs=1e-3)


@pytest.mark.parametrize("beam", ["WV1", "WV2"])
def test_ground_range_is_the_integral_of_spacing_over_sine(beam: str) -> None:
    geometry, count = full(beam), 4500
    edges = ground_edges(geometry.incidence(np.arange(count)), geometry.range_spacing_m)
    # The midpoint rule leaves a relative error of spacing^2 / 24 times the curvature of 1/sin: about 1e-13.
    np.testing.assert_allclose(geometry.ground_range(np.arange(count + 1) - 0.5), edges, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    "track", [Track(), Track(179.95, -10.0, -13.0), Track(12.0, 88.5, -60.0), Track(-179.99, 0.0, 193.0)]
)
def test_positions_are_where_the_orbit_looks(track: Track) -> None:
    geometry = replace(full("WV1"), track=track, seconds=44.1)
    lines, pixels = np.arange(0, 4900, 700.0), np.arange(0, 5681, 568.0)
    lon, lat = geometry.lonlat(lines[:, None], pixels[None, :])
    assert np.abs(lon).max() <= 180.0
    ground = unit(lon, lat)
    nadirs = np.stack([track.frame(44.1 + line * geometry.line_interval_s)[0] for line in lines])
    expected = np.broadcast_to(EARTH_RADIUS_M * geometry.earth_angle(pixels), (7, len(pixels)))
    np.testing.assert_allclose(distance(ground, nadirs[:, None]), expected, rtol=1e-9)
    # Lines are a constant distance apart, that of the annotation at the first sample; samples lie to the right.
    steps = distance(ground[1:, 0], ground[:-1, 0]) / 700
    np.testing.assert_allclose(steps, geometry.azimuth_spacing_m, rtol=1e-6)
    forward = track.frame(44.1)[1]
    assert np.all(np.cross(ground[:, -1] - ground[:, 0], forward) @ nadirs[0] > 0)
    assert np.all((ground[1:] - ground[:-1]) @ forward > 0)


def test_heading_is_the_direction_of_flight() -> None:
    track = Track(10.0, 30.0, -12.0)
    assert track.heading(0.0) == pytest.approx(-12.0)
    up, later = track.frame(0.0)[0], track.frame(1.0)[0]
    lon, lat = np.deg2rad((10.0, 30.0))
    north = np.array((-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)))
    east = np.array((-np.sin(lon), np.cos(lon), 0.0))
    step = later - up
    assert np.rad2deg(np.arctan2(step @ east, step @ north)) == pytest.approx(-12.0, abs=1e-6)


def xml(product: Path, pattern: str) -> ET.Element:
    (path,) = product.glob(pattern)
    return ET.parse(path).getroot()


def numbers(root: ET.Element, path: str) -> np.ndarray:
    found = root.findall(path)
    assert all(len(e.text.split()) == int(e.get("count", "1")) for e in found)
    return np.array([e.text.split() for e in found], float).squeeze()


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [Image(shape=(60, 90), number=k, beam=f"WV{2 - k % 2}", signals=(TILTED,)) for k in (1, 2, 4)]
    return write_wv(tmp_path_factory.mktemp("wave"), images)


def test_look_up_tables_follow_their_laws(wave: Path) -> None:
    truth = truth_of(Image(shape=(60, 90), signals=(TILTED,)))
    root = xml(wave, "annotation/calibration/calibration-*-001.xml")
    lines, pixels = numbers(root, ".//line"), numbers(root, ".//pixel")[0]
    sigma, beta0, gamma, dn = (numbers(root, f".//{tag}") for tag in ("sigmaNought", "betaNought", "gamma", "dn"))
    theta = np.deg2rad(truth.geometry.incidence(pixels))
    np.testing.assert_allclose(beta0, TILTED.beta(lines[:, None], pixels), rtol=5e-7)  # seven digits are written
    np.testing.assert_allclose(sigma, beta0 / np.sqrt(np.sin(theta)), rtol=1e-6)
    np.testing.assert_allclose(gamma, sigma / np.sqrt(1 / np.cos(theta)), rtol=1e-6)  # gamma0 = sigma0 / cos
    assert np.ptp(dn / beta0) < 1e-5
    # Interpolated by another library, the tables give the truth inside the grid.
    y, x = np.arange(60)[:, None], np.arange(90)[None, :]
    at = np.stack(np.broadcast_arrays(np.minimum(y, lines[-1]), x), axis=-1)
    np.testing.assert_allclose(RegularGridInterpolator((lines, pixels), sigma)(at), truth.gain(y, x), rtol=1e-6)
    noise = numbers(xml(wave, "annotation/calibration/noise-*-001.xml"), ".//noiseRangeLut")
    np.testing.assert_allclose(RegularGridInterpolator((lines, pixels), noise)(at), truth.noise(y, x), rtol=1e-6)


def test_the_truth_clamps_as_a_reader_must() -> None:
    ragged = Vectors((-5, 20), ((0, 40, 89), (10, 60)))
    image = Image(shape=(60, 90), signals=(TILTED,), calibration_at=Vectors.regular((-5, 20), 90), noise_at=ragged)
    truth, law = truth_of(image), TILTED.noise
    assert law is not None
    assert truth.noise(50, 70) == pytest.approx(float(law(20, 60)))  # behind the last vector, and behind its last pixel
    assert truth.noise(20, 3) == pytest.approx(float(law(20, 10)))
    middle = 0.4 * law(-5, 70) + 0.6 * law(20, 60)
    assert truth.noise(10, 70) == pytest.approx(float(middle))
    assert truth.gain(55, 30, "betaNought") == pytest.approx(float(TILTED.beta(20, 30)))


def test_annotation_tells_the_geometry(wave: Path) -> None:
    image = Image(shape=(60, 90), beam="WV2", number=2)
    truth, root = truth_of(image), xml(wave, "annotation/*-002.xml")
    points = {
        tag: numbers(root, f".//geolocationGridPoint/{tag}") for tag in ("line", "pixel", "longitude", "latitude")
    }
    lon, lat = truth.geometry.lonlat(points["line"], points["pixel"])
    np.testing.assert_allclose(points["longitude"], lon, atol=1e-12)
    np.testing.assert_allclose(points["latitude"], lat, atol=1e-12)
    incidence = numbers(root, ".//geolocationGridPoint/incidenceAngle")
    np.testing.assert_allclose(incidence, truth.geometry.incidence(points["pixel"]), rtol=1e-12)
    # The azimuth shift of a scatterer that moves at 1 m/s, from the FM rate, is R/V (physics.geometry.beta).
    t0, rate = numbers(root, ".//azimuthFmRate/t0"), numbers(root, ".//azimuthFmRatePolynomial")
    times = 2 * truth.geometry.slant_range(np.array((0.0, 45.0, 89.0))) / LIGHT
    speed = truth.geometry.azimuth_spacing_m / truth.geometry.line_interval_s  # over the ground, at the first sample
    shift = 2 / (LIGHT / 5.405e9) / np.abs(np.polynomial.polynomial.polyval(times - t0, rate)) * speed
    expected = beta(truth.geometry.incidence(0.0).item()).item()
    assert shift[0] == pytest.approx(expected, rel=1e-6)
    positions = np.stack([numbers(root, f".//orbit/position/{axis}") for axis in "xyz"], -1)
    velocities = np.stack([numbers(root, f".//orbit/velocity/{axis}") for axis in "xyz"], -1)
    chord = 2 * np.linalg.norm(positions[0]) * np.sin(np.linalg.norm(velocities[0]) * 5 / np.linalg.norm(positions[0]))
    assert np.linalg.norm(positions[1] - positions[0]) == pytest.approx(chord, rel=1e-9)  # ten seconds apart
    assert abs(np.sum(positions * velocities)) < 1e-3 * np.linalg.norm(positions)


def test_ground_range_polynomials_go_there_and_back(tmp_path: Path) -> None:
    image = Image(shape=(40, 500), beam="IW", range_spacing_m=500.0, azimuth_spacing_m=500.0)
    root = xml(write_grd(tmp_path, image), "annotation/*.xml")
    ground = np.arange(0, 500, 7.0) * 500
    value = np.polynomial.polynomial.polyval
    distance = value(ground, numbers(root, ".//coordinateConversion/grsrCoefficients")[0])
    np.testing.assert_allclose(distance, truth_of(image).geometry.slant_range(ground / 500), atol=1e-2)
    back = value(distance - numbers(root, ".//sr0")[0], numbers(root, ".//srgrCoefficients")[0])
    np.testing.assert_allclose(back, ground, atol=0.1)


def test_speckle_has_the_mean_and_the_law_that_were_asked_for() -> None:
    image, count = Image(shape=(300, 400), signals=(replace(TILTED, sigma0=0.3),)), 300 * 400
    truth, (y, x) = truth_of(image), np.ogrid[:300, :400]
    parts = digital_numbers(image).astype(float)
    expected = truth.sigma0() * truth.gain(y, x) ** 2 + truth.noise(y, x)
    ratio = np.square(parts).sum(-1) / expected
    assert ratio.mean() == pytest.approx(1.0, abs=5 / np.sqrt(count))  # an exponential: mean 1, deviation 1
    assert ratio.std() == pytest.approx(1.0, abs=0.02)
    circular = (parts[..., 0] * parts[..., 1] / expected).mean()
    assert abs(circular) < 5 * 0.5 / np.sqrt(count)
    grd = Image(shape=(300, 400), beam="IW", signals=(Signal(sigma0=0.3),))
    truth = truth_of(grd)
    ratio = digital_numbers(grd).astype(float) ** 2 / (0.3 * truth.gain(y, x) ** 2 + truth.noise(y, x))
    assert ratio.mean() == pytest.approx(1.0, abs=5 / np.sqrt(4.4 * count))
    assert ratio.var() == pytest.approx(1 / 4.4, rel=0.05)


def test_without_speckle_the_pixels_are_the_nearest() -> None:
    still = Settings(speckle=False)
    signal = Signal(sigma0=lambda a, g: 0.1 + 1e-4 * a + 2e-4 * g, beta=Bilinear(20_000.0))
    image = Image(shape=(50, 60), signals=(signal,))
    truth, (y, x) = truth_of(image, still), np.ogrid[:50, :60]
    power = truth.sigma0() * truth.gain(y, x) ** 2 + truth.noise(y, x)
    found = np.square(digital_numbers(image, still).astype(float)).sum(-1)
    assert np.abs(found / power - 1).max() < 1e-5  # the imaginary part takes up what the real part leaves
    image = Image(shape=(50, 60), beam="S3", signals=(signal,))
    truth = truth_of(image, still)
    power = truth.sigma0() * truth.gain(y, x) ** 2 + truth.noise(y, x)
    assert np.abs(digital_numbers(image, still) - np.sqrt(power)).max() <= 0.5
    quiet = replace(still, denoised=True)
    power = truth.sigma0() * truth.gain(y, x) ** 2
    assert np.abs(digital_numbers(image, quiet) - np.sqrt(power)).max() <= 0.5


def test_cells_come_back_by_multilook() -> None:
    values = np.random.default_rng(3).uniform(0.05, 0.3, (11, 11))
    image = Image(shape=(130, 140), signals=(Signal(sigma0=cells(values, 50.0)),))
    truth = truth_of(image)
    edges = truth.geometry.ground_range(np.arange(141) - 0.5)
    looks = Multilook(weights(np.arange(131) * 4.1, 50.0), weights(edges, 50.0))
    looks.add(0, truth.sigma0().astype(np.float32), np.ones((130, 140), bool))
    mean, _ = looks.result()
    # Of each cell's 12.2 lines and 13 samples only those on its edges mix: at most half a pixel a side.
    assert np.abs(mean - values[: mean.shape[0], : mean.shape[1]]).max() < 0.25 * (0.5 / 12.2 + 0.5 / 13) * 2
    assert np.abs(mean[:, 1:] - values[: mean.shape[0], : mean.shape[1] - 1]).mean() > 0.05  # no shift by a cell


def test_names_sizes_and_checksums_are_those_of_the_files(wave: Path) -> None:
    facts = metadata_from_path(str(wave / "manifest.safe"))
    assert (facts["mission"], facts["mode"], facts["orbit"], facts["datatake"]) == ("S1B", "WV", 26300, "032390")
    manifest = (wave / "manifest.safe").read_text()
    root = ET.fromstring(manifest)
    listed = {}
    for entry in root.iter("dataObject"):
        stream = entry.find("byteStream")
        assert stream is not None
        listed[stream.find("fileLocation").get("href").removeprefix("./")] = (
            int(stream.get("size", "0")),
            stream.find("checksum").text,
        )
    files = {path.relative_to(wave).as_posix(): path.read_bytes() for path in wave.rglob("*") if path.is_file()}
    del files["manifest.safe"]
    assert listed == {name: (len(data), hashlib.md5(data).hexdigest()) for name, data in files.items()}
    assert len(files) == 3 * 4
    found = [parse_measurement(path.name) for path in sorted((wave / "measurement").iterdir())]
    assert [(name.beam, name.image_number) for name in found if name] == [("WV1", 1), ("WV2", 2), ("WV2", 4)]
    assert manifest.count("<safe:frame>") == 3


def test_measurements_are_strips_in_one_piece(wave: Path, tmp_path: Path) -> None:
    images = [Image(shape=(60, 90), number=k, beam=f"WV{2 - k % 2}", signals=(TILTED,)) for k in (1, 2, 4)]
    for path, image in zip(sorted((wave / "measurement").iterdir()), images, strict=True):
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            assert (page.imagelength, page.imagewidth, page.bitspersample, page.sampleformat) == (60, 90, 32, 5)
            assert page.dataoffsets == tuple(range(page.dataoffsets[0], path.stat().st_size, 360))
            pixels = np.fromfile(path, "<i2", offset=page.dataoffsets[0]).reshape(60, 90, 2)
        assert np.array_equal(pixels, digital_numbers(image))
    both = Image(shape=(30, 40), beam="EW", signals=(Signal(polarisation="HH"), Signal(polarisation="HV", sigma0=0.01)))
    product = write_grd(tmp_path, both)
    assert product.name.startswith("S1B_EW_GRDM_1SDH_")
    for path, polarisation in zip(sorted((product / "measurement").iterdir()), ("HH", "HV"), strict=True):
        assert np.array_equal(tifffile.imread(path), digital_numbers(both, polarisation=polarisation))


def test_traps(tmp_path: Path) -> None:
    blocks = (AzimuthBlock("IW1", (0, 39), (0, 29), 1.2, 1e-3), AzimuthBlock("IW2", (0, 39), (30, 59), 0.9))
    image = Image(shape=(40, 60), beam="IW", blocks=blocks, border=(2, 1, 3, 0))
    new = write_grd(tmp_path / "new", image)
    noise = xml(new, "annotation/calibration/noise-*.xml")
    assert [v.findtext("swath") for v in noise.iter("noiseAzimuthVector")] == ["IW1", "IW2"]
    truth = truth_of(image)
    assert truth.noise(10, 5) / truth.noise(10, 45) == pytest.approx((1.2 + 0.01) / 0.9)
    pixels = tifffile.imread(next((new / "measurement").iterdir()))
    assert not pixels[:2].any()
    assert not pixels[-1].any()
    assert not pixels[:, :3].any()
    assert (pixels[2:-1, 3:] > 0).mean() > 0.99
    old = write_grd(tmp_path / "old", image, Settings(ipf="002.72"))
    noise = xml(old, "annotation/calibration/noise-*.xml")
    assert [child.tag for child in noise] == ["adsHeader", "noiseVectorList"]
    wave = Image(shape=(40, 60), beam="WV2", signals=(TILTED,))
    for mission, expected in (("S1A", 36.84), ("S1B", 37.44), ("S1C", 0.0)):
        product = write_wv(tmp_path / mission, [wave], Settings(mission=mission, ipf="002.91"))
        lut = numbers(xml(product, "annotation/calibration/noise-*.xml"), ".//noiseRangeLut")
        ratio = lut[0, 0] / truth_of(wave).range_noise(0, 0)
        assert 10 * np.log10(ratio) == pytest.approx(expected, abs=1e-5)
    flag = xml(write_wv(tmp_path / "quiet", [wave], Settings(denoised=True)), "annotation/*.xml")
    assert flag.findtext(".//thermalNoiseCorrectionPerformed") == "true"


def test_the_same_settings_give_the_same_bytes_in_every_container(tmp_path: Path) -> None:
    images = [Image(shape=(20, 30), number=2, beam="WV2"), Image(shape=(20, 30))]
    folder = write_wv(tmp_path / "a", images)
    files = {path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    files = {name: data for name, data in files.items() if data}
    with zipfile.ZipFile(write_wv(tmp_path / "b", images[::-1], Settings(container="zip"))) as pack:
        assert {name: pack.read(name) for name in pack.namelist()} == files
    with tarfile.open(write_wv(tmp_path / "c", images, Settings(container="tar"))) as tar:
        assert {m.name: tar.extractfile(m).read() for m in tar if m.isfile()} == files
    assert [path.suffix for path in (tmp_path / "b").iterdir()] == [".zip"]
    other = write_wv(tmp_path / "d", images, Settings(seed=1))
    assert other.name == folder.name
    assert {p.name: p.read_bytes() for p in other.rglob("*.tiff")} != {
        p.name: p.read_bytes() for p in folder.rglob("*.tiff")
    }


def test_what_makes_no_product_is_refused(tmp_path: Path) -> None:
    wave, grd = Image(shape=(20, 30)), Image(shape=(20, 30), beam="IW")
    for images in ([], [grd], [wave, replace(wave, number=2, signals=(Signal(polarisation="HH"),))]):
        with pytest.raises(UsageError):
            write_wv(tmp_path, images)
    with pytest.raises(UsageError):
        write_grd(tmp_path, wave)
    with pytest.raises(UsageError, match="another shape"):
        write_wv(tmp_path, [replace(wave, signals=(Signal(sigma0=np.ones((3, 3))),))])
    with pytest.raises(DataError, match="passes 32767"):
        write_wv(tmp_path, [replace(wave, signals=(Signal(beta=Bilinear(1e6)),))])
    with pytest.raises(DataError, match="not negative"):
        write_wv(tmp_path, [replace(wave, signals=(Signal(sigma0=-1.0),))])
    assert list(tmp_path.iterdir()) == []  # nothing half-written stays behind
