"""Reading written products: sigma0, noise and place against their closed form, with every trap of real products.

The truth comes from laws (`safe_writer.laws`), the tables in the files from the same laws with seven
digits: half a unit of the last is 5e-7 of A at most, 1e-6 of sigma0. Pixels are float32: a few times 6e-8 more.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from groundswell import open_product
from groundswell.products.safe_writer.laws import AzimuthBlock, Bilinear, Track, Vectors
from groundswell.products.safe_writer.model import Image, Settings, Signal, digital_numbers, imagette_of, truth_of
from groundswell.products.safe_writer.writer import write_grd, write_wv

STILL = Settings(speckle=False)
TILTED = Signal(sigma0=0.1, beta=Bilinear(237.0, 1e-4, -2e-5, 1e-7), noise=Bilinear(900.0, 2e-3, -1e-3, 1e-6))


def power(image: Image, product: Settings, polarisation: str | None = None) -> np.ndarray:
    """|DN|^2 as written."""
    numbers = digital_numbers(image, product, polarisation).astype(float)
    return np.square(numbers).sum(-1) if numbers.ndim == 3 else np.square(numbers)


def with_data(raw: np.ndarray) -> np.ndarray:
    """Where pixels hold data: not in runs of zeros along a line, nor where a zero touches the edge of the image."""
    zero = np.pad(raw == 0, ((0, 0), (1, 1)), constant_values=True)
    return ~(zero[:, 1:-1] & (zero[:, :-2] | zero[:, 2:]))


def assert_true(data: xr.Dataset, image: Image, product: Settings, polarisation: str | None = None) -> None:
    """The native dataset against the laws, pixel by pixel."""
    truth = truth_of(image, product, polarisation)
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    raw, noise, area = power(image, product, polarisation), truth.noise(y, x), truth.gain(y, x) ** 2
    valid = with_data(raw)
    assert np.array_equal(data["valid"].values == 1, valid)
    assert np.isnan(data["sigma0"].values[~valid]).all()
    left = 0.0 if product.denoised else noise
    # Where speckle leaves less power than noise their difference is small: the error stays that of the larger.
    error = np.abs(data["sigma0"].values - (raw - left) / area) / ((raw + noise) / area)
    assert error[valid].max() < 1e-5
    np.testing.assert_allclose(data["nesz"].values, noise / area, rtol=1e-5)
    # Bilinear on a grid of angles: its own error is a step squared / 8 of curvature, which counts on whole scenes only.
    step = max(1, (image.shape[1] - 1) / (image.grid[1] - 1))
    curved = truth.geometry.incidence(x - step) + truth.geometry.incidence(x + step) - 2 * truth.geometry.incidence(x)
    away = np.abs(data["incidence"].values - truth.geometry.incidence(x))
    assert np.all(away < 1e-4 + 1.2 * np.abs(curved) / 8)
    lon, lat = truth.geometry.lonlat(y, x)
    assert np.abs((data["lon"].values - lon + 180.0) % 360.0 - 180.0).max() < 1e-4
    assert np.abs(data["lat"].values - lat).max() < 1e-4
    assert data.attrs["denoised"] == 1


def test_every_imagette_meets_its_own_calibration(tmp_path: Path) -> None:
    images = [
        Image(
            shape=(50 + k, 70 + 3 * k),
            beam="WV1" if k % 2 else "WV2",
            number=k,
            signals=(Signal(sigma0=0.02 * k, beta=Bilinear(200.0 + 10 * k, 1e-4 * k, -2e-5), nesz_db=-20.0 - k),),
        )
        for k in (1, 2, 3, 5, 6)  # the fourth is missing, as where the sensor paused
    ]
    product = open_product(write_wv(tmp_path, images[::-1]))
    assert list(product) == [1, 2, 3, 5, 6]
    for image in images:
        scene = product[image.number]
        assert scene.metadata.beam == image.beam
        assert_true(scene.to_dataset(None), image, Settings())


def test_listing_reads_no_pixels_and_no_annotation(tmp_path: Path) -> None:
    path = write_wv(tmp_path, [Image(shape=(20, 30), number=k, beam=f"WV{2 - k % 2}") for k in range(1, 61)])
    shutil.rmtree(path / "measurement")
    for annotation in path.glob("annotation/*.xml"):
        annotation.write_bytes(b"never opened")
    product = open_product(path)
    assert list(product) == list(range(1, 61))


def test_a_known_field_comes_back_without_knowing_the_pixels(tmp_path: Path) -> None:
    # Digital numbers near 20 000 hold sigma0 to 1e-8, so the field itself is the truth.
    signal = Signal(sigma0=lambda a, g: 0.2 + 1e-4 * a - 2e-4 * g, beta=Bilinear(20_000.0), noise=Bilinear(1e6, 1e-3))
    image = Image(shape=(90, 110), signals=(signal,))
    data = open_product(write_wv(tmp_path, [image], STILL))[1].to_dataset(None)
    np.testing.assert_allclose(data["sigma0"].values, truth_of(image, STILL).sigma0(), rtol=1e-5)


def test_beta0_and_gamma0(tmp_path: Path) -> None:
    image = Image(shape=(40, 60), signals=(replace(TILTED, noise=Bilinear(0.0)),))
    scene = open_product(write_wv(tmp_path, [image]))[1]
    truth, (y, x) = truth_of(image), np.ogrid[:40, :60]
    for name, lut in (("beta0", "betaNought"), ("gamma0", "gamma")):
        expected = power(image, Settings()) / truth.gain(y, x, lut) ** 2
        found = scene.to_dataset(None, calibration=name)[name].values
        np.testing.assert_allclose(found[expected > 0], expected[expected > 0], rtol=1e-5)


@pytest.mark.parametrize(
    "track",
    [Track(), Track(-178.0, 20.0, -13.0), Track(179.9, -5.0, 193.0), Track(40.0, 70.0, -40.0), Track(0.0, -1.0, -12.0)],
    ids=["south", "date line west", "date line east", "arctic", "equator"],
)
@pytest.mark.parametrize("beam", ["WV1", "WV2"])
def test_place_of_an_imagette_of_full_extent(tmp_path: Path, track: Track, beam: str) -> None:
    slant = {"WV1": 1.4976 * 5681, "WV2": 2.73 * 4500}[beam] / 120
    image = Image(shape=(98, 120), beam=beam, range_spacing_m=slant, azimuth_spacing_m=205.0, number=7)
    product = replace(STILL, track=track)
    scene = open_product(write_wv(tmp_path, [image], product))[7]
    assert_true(scene.to_dataset(None), image, product)
    truth, facts = truth_of(image, product).geometry, scene.metadata
    lon, lat = truth.lonlat(48.5, 59.5)
    assert facts.lon is not None
    assert abs((facts.lon - lon + 180.0) % 360.0 - 180.0) < 1e-4
    assert facts.lat == pytest.approx(float(lat), abs=1e-4)
    assert facts.incidence_near_deg == pytest.approx(float(truth.incidence(0)), abs=1e-4)
    assert facts.incidence_far_deg == pytest.approx(float(truth.incidence(119)), abs=1e-4)
    middle = truth.seconds + 49 * truth.line_interval_s
    assert facts.heading_deg == pytest.approx(track.heading(middle) % 360.0, abs=1e-9)
    assert facts.orbit_pass == ("ascending" if abs(track.heading(middle)) < 90 else "descending")
    assert facts.time is not None
    assert abs(facts.time - (product.start + timedelta(seconds=middle))) < timedelta(milliseconds=50)


def test_facts(tmp_path: Path) -> None:
    product = Settings(mission="S1C", orbit=1234, datatake=0xABC, ipf="003.90", start=datetime(2025, 5, 6, tzinfo=UTC))
    scene = open_product(write_wv(tmp_path, [Image(shape=(30, 40), number=3)], product))[3]
    facts = scene.metadata
    assert (facts.mission, facts.orbit, facts.datatake, facts.image_number) == ("S1C", 1234, "000ABC", 3)
    assert (facts.beam, facts.mode, facts.polarisations, facts.look) == ("WV1", "WV", "VV", "right")
    assert facts.ipf_version == "003.90"  # not 002.36, of a step inside
    assert facts.range_spacing_m == pytest.approx(1.4976)
    assert facts.azimuth_spacing_m == pytest.approx(4.1)
    assert scene.to_dataset(None).attrs["source"] == "Simulated: no real image"
    manifest = next(tmp_path.rglob("manifest.safe"))  # as a ground segment would sign it
    manifest.write_text(manifest.read_text().replace('organisation="groundswell"', 'organisation="ESA"'))
    signed = open_product(manifest.parent)[3].to_dataset(None)
    assert signed.attrs["source"] == "Contains modified Copernicus Sentinel data 2025"


def cell_means(values: np.ndarray, down: np.ndarray, across: np.ndarray, spacing: float) -> np.ndarray:
    """Means over square cells by differences of the two-dimensional cumulative integral; edges in metres."""
    total = np.zeros((len(down), len(across)))
    total[1:, 1:] = np.cumsum(np.cumsum(values * np.diff(down)[:, None] * np.diff(across), axis=0), axis=1)
    y, x = (np.arange(int(edges[-1] / spacing) + 1) * spacing for edges in (down, across))
    columns = np.stack([np.interp(y, down, column) for column in total.T], axis=1)
    table = np.stack([np.interp(x, across, line) for line in columns])
    return np.diff(np.diff(table, axis=0), axis=1) / spacing**2


def test_multilook_is_the_mean_over_the_ground(tmp_path: Path) -> None:
    image = Image(shape=(260, 300), signals=(TILTED,), range_spacing_m=4.0)
    data = open_product(write_wv(tmp_path, [image]))[1].to_dataset(50.0)
    truth, (y, x) = truth_of(image), np.ogrid[:260, :300]
    sigma0 = (power(image, Settings()) - truth.noise(y, x)) / truth.gain(y, x) ** 2
    down, across = np.arange(261) * 4.1, truth.geometry.ground_range(np.arange(301) - 0.5)
    expected = cell_means(sigma0, down, across, 50.0)
    assert data["sigma0"].shape == expected.shape
    np.testing.assert_allclose(data["sigma0"].values, expected, rtol=1e-5)
    # The mean intensity of the area that the cells cover is that of the pixels, weighted by their ground.
    weight = np.clip((expected.shape[1] * 50.0 - across[:-1]) / np.diff(across), 0, 1) * np.diff(across)
    tall = np.clip(expected.shape[0] * 50.0 / 4.1 - np.arange(260), 0, 1)
    assert data["sigma0"].values.mean() == pytest.approx(
        np.average(tall @ sigma0 / tall.sum(), weights=weight), rel=1e-4
    )
    np.testing.assert_allclose(data["range"].values, 50.0 * (np.arange(expected.shape[1]) + 0.5), atol=1e-6)
    at = np.interp(data["range"].values, across, np.arange(301) - 0.5)
    np.testing.assert_allclose(data["incidence"].values[0], truth.geometry.incidence(at), atol=1e-4)
    lon, lat = truth.geometry.lonlat(data["line"].values[:, None], at[None, :])
    np.testing.assert_allclose(data["lon"].values, lon, atol=1e-4)
    np.testing.assert_allclose(data["lat"].values, lat, atol=1e-4)


@pytest.mark.parametrize("spacing", [50.0, 37.0, 120.0])
def test_a_slope_stays_in_its_place_at_any_spacing(tmp_path: Path, spacing: float) -> None:
    signal = Signal(sigma0=lambda a, g: 0.2 + 1e-4 * a + 2e-4 * g, beta=Bilinear(15_000.0), nesz_db=-25.0)
    image = Image(shape=(200, 240), signals=(signal,))
    data = open_product(write_wv(tmp_path, [image], STILL))[1].to_dataset(spacing)
    expected = 0.2 + 1e-4 * data["azimuth"].values[:, None] + 2e-4 * data["range"].values
    # A pixel holds the field at its centre; what an edge cuts off is at most its half: 3.8 m / 8 of slope on a cell.
    np.testing.assert_allclose(data["sigma0"].values, expected, rtol=1e-4)


@pytest.mark.parametrize(("beam", "spacing"), [("WV1", 100.0), ("WV2", 33.3)])
def test_an_imagette_goes_to_a_product_and_back(tmp_path: Path, beam: str, spacing: float) -> None:
    rng = np.random.default_rng(1)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(40, 50)), axis=0), axis=1)
    sigma0 = 0.05 + 0.2 * (smooth - smooth.min()) / np.ptp(smooth)
    image = imagette_of(sigma0, spacing, beam=beam, number=3, per_cell=8)
    product = open_product(write_wv(tmp_path, [image], STILL))
    found = product[3].to_dataset(spacing)["sigma0"].values
    assert found.shape == sigma0.shape
    # Half a sample of eight or more mixes with a neighbour on either side: 1/16 of what they differ by.
    steps = np.abs(np.diff(sigma0, axis=1, prepend=sigma0[:, :1], append=sigma0[:, -1:]))
    assert np.all(np.abs(found - sigma0) <= (steps[:, :-1] + steps[:, 1:]) / 16 + 2e-4 * sigma0)
    edges = truth_of(image).geometry.ground_range(np.arange(image.shape[1] + 1) - 0.5)
    assert np.diff(edges).max() <= spacing / 8 * (1 + 1e-6)


def test_speckle_averages_to_the_field(tmp_path: Path) -> None:
    image = Image(shape=(600, 600), signals=(Signal(sigma0=0.05, nesz_db=-18.0),), beam="WV2")
    sigma0 = open_product(write_wv(tmp_path, [image], Settings(seed=7)))[1].to_dataset(50.0)["sigma0"].values
    deviation = (0.05 + 10**-1.8) / np.sqrt(sigma0.size * 50.0**2 / (4.1 * 4.6))
    assert abs(sigma0.mean() - 0.05) < 4 * deviation


TRAPS = {
    "calibration starts before the image": {"calibration_at": Vectors.regular((-37, 12, 61), 70)},
    "calibration stops early": {"calibration_at": Vectors.regular((5, 20), 70)},
    "noise stops early": {"noise_at": Vectors.regular((0, 15, 30), 70)},
    "noise starts before the image": {"noise_at": Vectors.regular((-15, 15, 45, 75), 70)},
    "one noise vector": {"noise_at": Vectors.regular((0,), 70)},
    "ragged noise": {"noise_at": Vectors((0, 20, 59), ((0, 40, 69), (0, 20, 40, 60, 69), (0, 30, 69)))},
    "ragged noise that ends early": {"noise_at": Vectors((0, 20, 45), ((0, 40, 69), (0, 20, 50), (10, 60)))},
    "black borders": {"border": (3, 5, 2, 7)},
}


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("kind", ["SLC", "GRD"])
def test_traps(tmp_path: Path, trap: str, kind: str) -> None:
    image = Image(shape=(60, 70), beam="WV1" if kind == "SLC" else "S3", signals=(TILTED,), **TRAPS[trap])
    path = write_wv(tmp_path, [image]) if kind == "SLC" else write_grd(tmp_path, image)
    (scene,) = open_product(path).values()
    assert_true(scene.to_dataset(None), image, Settings())


@pytest.mark.parametrize("mission", ["S1A", "S1B"])
@pytest.mark.parametrize("ipf", ["002.90", "002.91"])
@pytest.mark.parametrize("beam", ["WV1", "WV2"])
def test_noise_fault_of_two_versions_is_mended(tmp_path: Path, mission: str, ipf: str, beam: str) -> None:
    product = Settings(mission=mission, ipf=ipf)
    for polarisation in ("VV", "HH"):
        image = Image(shape=(40, 60), beam=beam, signals=(Signal(polarisation=polarisation),))
        (scene,) = open_product(write_wv(tmp_path, [image], product)).values()
        data = scene.to_dataset(None)
        assert_true(data, image, product)
        assert "MPCS-2007" in data.attrs["denoise_note"]


@pytest.mark.parametrize("ipf", ["002.84", "002.92", "003.31"])
def test_other_versions_are_not_mended(tmp_path: Path, ipf: str) -> None:
    product, image = Settings(ipf=ipf), Image(shape=(40, 60), signals=(TILTED,))
    data = open_product(write_wv(tmp_path, [image], product))[1].to_dataset(None)
    assert_true(data, image, product)
    assert "MPCS-2007" not in data.attrs["denoise_note"]


def test_a_denoised_product_is_not_denoised_again(tmp_path: Path) -> None:
    product, image = Settings(denoised=True), Image(shape=(40, 60), signals=(TILTED,))
    data = open_product(write_wv(tmp_path, [image], product))[1].to_dataset(None)
    assert_true(data, image, product)
    assert "already" in data.attrs["denoise_note"]


@pytest.mark.parametrize("nesz_db", [-14.0, 16.0, -50.0])
def test_implausible_noise_is_left_in(tmp_path: Path, nesz_db: float) -> None:
    image = Image(shape=(40, 60), signals=(Signal(sigma0=0.1, nesz_db=nesz_db, beta=Bilinear(50.0)),))
    data = open_product(write_wv(tmp_path, [image]))[1].to_dataset(None)
    raw = power(image, Settings()) / truth_of(image).gain(*np.ogrid[:40, :60]) ** 2
    assert data.attrs["denoised"] == 0
    assert "implausible" in data.attrs["denoise_note"]
    np.testing.assert_allclose(data["sigma0"].values[raw > 0], raw[raw > 0], rtol=1e-5)


BLOCKS = (
    AzimuthBlock("IW1", (0, 29), (0, 24), 1.10, 2e-3),
    AzimuthBlock("IW1", (30, 69), (0, 26), 1.25, -2e-3),
    AzimuthBlock("IW2", (0, 29), (25, 60), 0.90, 1e-3),
    AzimuthBlock("IW2", (30, 69), (27, 60), 0.95, -1e-3),
    AzimuthBlock("IW3", (0, 69), (61, 89), 1.05, 5e-4),
)


@pytest.mark.parametrize("container", ["folder", "zip", "tar"])
def test_ground_range_scene_with_two_polarisations(tmp_path: Path, container: str) -> None:
    cross = Signal(polarisation="VH", sigma0=0.02, beta=Bilinear(240.0, 2e-4), nesz_db=-26.0)
    image = Image(shape=(70, 90), beam="IW", signals=(TILTED, cross), blocks=BLOCKS, border=(0, 2, 4, 0))
    product = Settings(mission="S1A", container=container)  # type: ignore[arg-type]
    scene = open_product(write_grd(tmp_path, image, product))["iw"]
    assert scene.polarisations == ("VV", "VH")
    data = scene.to_dataset(None)
    assert data["sigma0"].dims == ("polarisation", "azimuth", "range")
    for polarisation in ("VV", "VH"):
        assert_true(data.sel(polarisation=polarisation), image, product, polarisation)


@pytest.mark.parametrize(("beam", "names"), [("EW", ("HH", "HV")), ("S3", ("VV",)), ("S6", ("HH", "HV"))])
def test_other_modes_and_the_place_of_a_scene_of_full_extent(tmp_path: Path, beam: str, names: tuple[str, ...]) -> None:
    across = {"EW": 990.0, "S3": 800.0, "S6": 800.0}[beam]
    image = Image(
        shape=(90, 100 if beam != "EW" else 400),
        beam=beam,
        signals=tuple(Signal(polarisation=name, sigma0=0.05 + 0.1 * (name[0] == name[1])) for name in names),
        range_spacing_m=across,
        azimuth_spacing_m=across,
        calibration_at=Vectors.regular(np.arange(0, 120, 30), 100 if beam != "EW" else 400, 1),
        blocks=(AzimuthBlock("EW1", (0, 89), (0, 399)),) if beam == "EW" else (),
    )
    product = Settings(track=Track(20.0, 55.0, -20.0))
    scene = open_product(write_grd(tmp_path, image, product))[beam.lower()]
    for name in names:
        assert_true(scene.to_dataset(None, polarisations=name), image, product, name)


def test_scenes_from_before_2018_are_left_as_they_are_and_say_so(tmp_path: Path) -> None:
    product, image = Settings(mission="S1A", ipf="002.72"), Image(shape=(40, 60), beam="IW", signals=(TILTED,))
    data = open_product(write_grd(tmp_path, image, product))["iw"].to_dataset(None)
    raw = power(image, product) / truth_of(image, product).gain(*np.ogrid[:40, :60]) ** 2
    np.testing.assert_allclose(data["sigma0"].values[raw > 0], raw[raw > 0], rtol=1e-5)
    assert data.attrs["denoised"] == 0
    assert "2.90" in data.attrs["denoise_note"]


def test_every_container_gives_the_same(tmp_path: Path) -> None:
    images = [Image(shape=(40, 60), number=k, beam=f"WV{2 - k % 2}", signals=(TILTED,)) for k in (1, 2)]
    folder = write_wv(tmp_path, images)
    packs = [write_wv(tmp_path / kind, images, Settings(container=kind)) for kind in ("zip", "tar")]  # type: ignore[arg-type]
    packs.append(tmp_path / "product.tar.gz")
    packs[-1].write_bytes(gzip.compress(packs[1].read_bytes()))
    packs.append(tmp_path / "stored.zip")
    with zipfile.ZipFile(packs[-1], "w") as pack:
        for path in folder.rglob("*.*"):
            pack.write(path, path.relative_to(tmp_path))
    packs.append(tmp_path / "bare.tar")  # the files without their folder
    with tarfile.open(packs[-1], "w") as tar:
        tar.add(folder, ".")
    expected = {key: scene.to_dataset(None) for key, scene in open_product(folder).items()}
    for pack in packs:
        before = sorted(tmp_path.rglob("*"))
        found = {key: scene.to_dataset(None) for key, scene in open_product(pack).items()}
        assert found.keys() == expected.keys()
        for key, data in found.items():
            xr.testing.assert_equal(data, expected[key])
        assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked beside it


def vectors(samples: int) -> st.SearchStrategy[Vectors]:
    """Any lines around an image of 30, each with its own pixels; not all reach the edges."""
    pixels = st.sets(st.integers(0, samples - 1), min_size=2, max_size=6).map(lambda p: tuple(sorted(p)))
    lines = st.sets(st.integers(-40, 60), min_size=1, max_size=5).map(lambda y: tuple(sorted(y)))
    return lines.flatmap(
        lambda y: st.lists(pixels, min_size=len(y), max_size=len(y)).map(lambda p: Vectors(y, tuple(p)))
    )


@settings(
    max_examples=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # no shrinking: it writes files
@given(
    noise_at=vectors(40),
    # Between its nodes 40 pixels apart a table of A is bilinear, slope times 1/sqrt(sin) is not: 1e-6 at these slopes.
    slopes=st.tuples(*(st.floats(-limit, limit) for limit in (4e-3, 4e-4, 4e-3, 4e-3))),
    beam=st.sampled_from(["WV1", "WV2", "S1"]),
    seed=st.integers(0, 2**32),
)
def test_any_tables(tmp_path_factory: pytest.TempPathFactory, noise_at: Vectors, slopes, beam: str, seed: int) -> None:
    signal = Signal(beta=Bilinear(237.0, *slopes[:2]), noise=Bilinear(700.0, *slopes[2:]))
    image = Image(shape=(30, 40), beam=beam, signals=(signal,), noise_at=noise_at)
    write, product = (write_wv, Settings(seed=seed)) if beam[0] == "W" else (write_grd, Settings(seed=seed))
    folder = tmp_path_factory.mktemp("any")
    path = write(folder, [image] if beam[0] == "W" else image, product)  # type: ignore[arg-type]
    (scene,) = open_product(path).values()
    assert_true(scene.to_dataset(None), image, product)
    shutil.rmtree(folder)
