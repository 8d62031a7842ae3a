"""Products as a source of imagettes: values against the closed form, places, what is set aside, the same bytes."""

from __future__ import annotations

import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from safe_products import SHAPE, TILTED, expected, replace_bytes, substitute, trapped, wave_mode

import crash
import groundswell as gs
from groundswell.archive.ingest import ingest
from groundswell.archive.reader import open_archive
from groundswell.errors import DataError, UsageError
from groundswell.executors.dask import Dask
from groundswell.executors.local import Local
from groundswell.executors.tasks import Executor
from groundswell.physics.imagette import Imagette, Quantity
from groundswell.physics.multilook import Multilook, ground_edges, weights
from groundswell.products.safe.settings import SafeSettings, Screening, screened_for
from groundswell.products.safe.source import SafeProducts
from groundswell.products.safe_writer.laws import AzimuthBlock, Track
from groundswell.products.safe_writer.model import Image, Settings, Signal, truth_of
from groundswell.products.safe_writer.writer import write_grd, write_wv
from groundswell.products.source import Rejected

STEM = "sim-s1b-wv{beam}-slc-vv-20210403t08{time}-026300-032390-00{number}"


def read_all(source: SafeProducts) -> dict[str, Imagette]:
    return {item.metadata.id: item for item in source.read(source.ids()) if isinstance(item, Imagette)}


def rejected(source: SafeProducts) -> dict[str, str]:
    return {item.id: item.reason for item in source.read(source.ids()) if isinstance(item, Rejected)}


def cells_of(image: Image, spacing: float, settings: Settings | None = None) -> np.ndarray:
    """The mean of the closed form over ground cells, by the geometry's own incidence."""
    geometry = truth_of(image, settings).geometry
    samples = np.arange(image.shape[1])
    across = ground_edges(geometry.incidence(samples), geometry.range_spacing_m)
    down = np.arange(image.shape[0] + 1) * geometry.azimuth_spacing_m
    look = Multilook(weights(down, spacing), weights(across, spacing))
    values = expected(image, settings)
    look.add(0, values.astype(np.float32), np.ones(values.shape, dtype=bool))
    return look.result()[0]


def test_an_archive_holds_the_closed_form_within_one_step(tmp_path: Path) -> None:
    wave_mode(tmp_path / "in", count=3)
    source = SafeProducts([tmp_path / "in"])
    assert [id_[:15] + id_[-4:] for id_ in source.ids()] == [
        f"sim-s1b-wv{b}-slc-00{n}" for b, n in ((1, 1), (1, 3), (2, 2))
    ]
    report = ingest(source, tmp_path / "out", size=(20, 20), fit="pad", spacing_m=50.0)
    assert (report.written, report.rejected) == (3, [])
    archive = open_archive(tmp_path / "out")
    assert archive.schema.spacing_m == 50.0
    for pixels, row in zip(archive.read(range(3)), archive.catalogue.itertuples(), strict=True):
        image = trapped(row.image_number, row.beam)
        truth = 10 * np.log10(cells_of(image, 50.0))
        top, left = ((n - 20) // 2 for n in truth.shape)
        # half a step of 0.002 dB, and the 1e-5 (4e-5 dB) of linear tables and of the incidence between its grid points
        np.testing.assert_allclose(pixels[0], truth[top : top + 20, left : left + 20], atol=0.00105)


def test_metadata_is_that_of_the_laws(tmp_path: Path) -> None:
    wave_mode(tmp_path / "in", count=2)
    found = read_all(SafeProducts([tmp_path / "in"]))
    for item in found.values():
        m = item.metadata
        image = trapped(m.image_number or 0, str(m.beam))
        geometry = truth_of(image).geometry
        rows, columns = item.pixels.shape[1:]
        # centre of the whole cells, in lines and (by ground metres) samples
        samples = np.arange(SHAPE[1], dtype=float)
        ground = geometry.ground_range(samples)
        line = rows * 50.0 / 2 / geometry.azimuth_spacing_m - 0.5
        pixel = np.interp(columns * 50.0 / 2, ground, samples)
        lon, lat = geometry.lonlat(line, pixel)
        # positions to 1e-4 degrees, as a bilinear grid of the annotation allows
        np.testing.assert_allclose([m.lon, m.lat], [lon, lat], atol=1e-4)
        ends = [np.interp(edge, ground, samples) for edge in (25.0, columns * 50.0 - 25.0)]
        near, far = (float(geometry.incidence(e)) for e in ends)
        np.testing.assert_allclose([m.incidence_near_deg, m.incidence_far_deg], [near, far], atol=1e-3)
        outline = shapely.from_wkb(m.footprint)
        corners = [
            geometry.lonlat(y / geometry.azimuth_spacing_m - 0.5, np.interp(x, ground, samples, right=SHAPE[1] - 0.5))
            for y in (0.0, rows * 50.0)
            for x in (0.0, columns * 50.0)
        ]
        assert outline.contains(shapely.Point(m.lon, m.lat))
        for corner in corners:  # a metre or two: the last half cell is extrapolated
            assert outline.exterior.distance(shapely.Point(*map(float, corner))) < 1e-4
        nesz = float(truth_of(image).nesz(np.linspace(0, SHAPE[0] - 1, 50)[:, None], samples[None]).mean())
        assert m.nesz_db == pytest.approx(10 * np.log10(nesz), abs=0.02)
        assert m.denoised is True
        assert (m.mission, m.mode, m.orbit, m.datatake, m.group) == ("S1B", "WV", 26300, "032390", "S1B-032390")
        assert (m.range_spacing_m, m.azimuth_spacing_m, m.look, m.orbit_pass) == (50.0, 50.0, "right", "descending")
        assert m.ipf_version == "003.31"
        assert m.time is not None
        assert abs((m.time - Settings().start).total_seconds() - geometry.seconds) < 1.0


def test_the_same_product_as_folder_zip_and_tar_is_read_once(tmp_path: Path) -> None:
    wave_mode(tmp_path / "a")
    wave_mode(tmp_path / "b", settings=Settings(container="zip"))
    wave_mode(tmp_path / "c", settings=Settings(container="tar"))
    sources = [SafeProducts([tmp_path / name]) for name in "abc"]
    items = [read_all(source) for source in sources]
    for other in items[1:]:
        assert list(other) == list(items[0])
        for id_, item in other.items():
            assert item.metadata.source_hash == items[0][id_].metadata.source_hash
            np.testing.assert_array_equal(item.pixels, items[0][id_].pixels)
    both = SafeProducts([tmp_path])
    assert both.ids() == sources[0].ids()
    assert {id_: len(paths) for id_, paths in both.listing.doubles.items()} == dict.fromkeys(both.ids(), 2)
    # one after the other: the second is known by its ids, whatever it is packed in
    ingest(sources[0], tmp_path / "out", size=(20, 20))
    report = ingest(sources[1], tmp_path / "out", size=(20, 20))
    assert (report.written, report.resumed_shards, report.shards) == (2, 1, 1)


def test_a_copy_stands_in_for_a_broken_one_and_the_newer_processor_counts(tmp_path: Path) -> None:
    old = wave_mode(tmp_path / "a", settings=Settings(ipf="003.30"))
    new = wave_mode(tmp_path / "b", settings=Settings(ipf="003.31"))
    assert {item.metadata.ipf_version for item in read_all(SafeProducts([old, new])).values()} == {"003.31"}
    (victim,) = (new / "measurement").glob("*-001.tiff")
    victim.write_bytes(victim.read_bytes()[:-100])
    found = read_all(SafeProducts([tmp_path]))
    assert [item.metadata.ipf_version for item in found.values()] == ["003.30", "003.31"]


def test_broken_items_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    product = wave_mode(tmp_path / "in", count=9)
    next((product / "measurement").glob("*-001.tiff")).unlink()
    next((product / "annotation" / "calibration").glob("calibration-*-002.xml")).unlink()
    next((product / "annotation" / "calibration").glob("noise-*-003.xml")).write_text("<noise>")
    victim = next((product / "measurement").glob("*-004.tiff"))
    victim.write_bytes(victim.read_bytes()[:-1])
    replace_bytes(product, "annotation/*-005.xml", substitute("<numberOfLines>300", "<numberOfLines>301"))
    for file in product.rglob("*-006.*"):
        file.unlink()
    (tmp_path / "in" / "S1A_truncated.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "in" / "S1A_empty.SAFE").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("not a product")
    source = SafeProducts([tmp_path / "in"])
    reasons = {id_[-3:] if id_.startswith("sim") else id_: why for id_, why in rejected(source).items()}
    parts = {
        "001": "is missing",
        "002": "is missing",
        "003": "MD5 checksum differs",
        "004": "truncated",
        "005": "does not have the size",
        "006": "is missing",
        "S1A_truncated.zip": "no SAFE product",
        "S1A_empty": "no SAFE product",
    }
    assert sorted(reasons) == sorted(parts)
    for id_, part in parts.items():
        assert part in reasons[id_], reasons[id_]
    assert [id_[-3:] for id_ in read_all(source)] == ["007", "009", "008"]
    assert source.found.ignored == {".txt": 1}
    report = ingest(source, tmp_path / "out", size=(20, 20))
    assert report.written == 3
    assert {item.id for item in report.rejected} == set(rejected(source))


def test_a_missing_image_number_is_noted(tmp_path: Path) -> None:
    write_wv(tmp_path, [trapped(number, "WV1") for number in (1, 2, 5)])
    assert any("no image number 3, 4" in note for note in SafeProducts([tmp_path]).notes)


def test_nothing_to_read_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "x.SAFE").mkdir()
    with pytest.raises(DataError, match="no Sentinel-1 image") as error:
        SafeProducts([tmp_path])
    assert "x: this is no SAFE product" in str(error.value.why)
    with pytest.raises(DataError, match="no such file"):
        SafeProducts([tmp_path / "none"])


# Scenes

GRD = Image(
    shape=(400, 520),
    beam="IW",
    signals=(Signal(sigma0=0.05, nesz_db=-24.0), Signal(polarisation="VH", sigma0=0.01, nesz_db=-26.0)),
    grid=(9, 11),
    blocks=(AzimuthBlock("IW1", (0, 399), (0, 519), level=1.1, slope=1e-4),),
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grd")
    write_grd(folder, GRD, Settings(speckle=False))
    return folder


@pytest.mark.parametrize(
    ("size", "overlap", "rows", "columns"),
    [
        (32, 0, [0, 32, 48], [0, 32, 64, 72]),  # 80 x 104 cells: the last ones end where the scene ends
        (32, 16, [0, 16, 32, 48], [0, 16, 32, 48, 64, 72]),
        (40, 0, [0, 40], [0, 40, 64]),
        (90, 0, [0], [0, 14]),  # taller than the scene
    ],
)
def test_chips_cover_a_scene(scene: Path, size: int, overlap: int, rows: list[int], columns: list[int]) -> None:
    source = SafeProducts([scene], SafeSettings(chip=(size, size), overlap=overlap))
    tiles = [item.tile for item in source.items.values()]
    assert sorted({t.start[0] for t in tiles if t}) == rows
    assert sorted({t.start[1] for t in tiles if t}) == columns
    assert source.ids()[0].endswith("-001/r000c000")
    assert len(source.ids()) == len(rows) * len(columns)


def test_every_chip_lies_where_its_pixels_are(scene: Path) -> None:
    """Position, incidence and values of each chip from the laws, at the metres where the chip begins."""
    source = SafeProducts([scene], SafeSettings(chip=(32, 40), overlap=8))
    assert [c.name for c in source.channels] == ["VV", "VH"]
    truth = truth_of(GRD)
    for id_, item in read_all(source).items():
        tile, m = source.items[id_].tile, item.metadata
        assert tile is not None
        line, pixel = ((start + n / 2) * 5 - 0.5 for start, n in zip(tile.start, (32, 40), strict=True))  # 10 m of 50 m
        np.testing.assert_allclose([m.lon, m.lat], truth.geometry.lonlat(line, pixel), atol=1e-4)
        edges = [(tile.start[1] + 0.5) * 5 - 0.5, (tile.start[1] + 39.5) * 5 - 0.5]
        np.testing.assert_allclose(
            [m.incidence_near_deg, m.incidence_far_deg], truth.geometry.incidence(edges), atol=1e-3
        )
        lon, lat = truth.geometry.lonlat(
            np.array([tile.start[0], tile.start[0] + 32]) * 5 - 0.5, np.array([tile.start[1]] * 2) * 5 - 0.5
        )
        corners = shapely.from_wkb(m.footprint).exterior.coords
        np.testing.assert_allclose([corners[0], corners[3]], np.stack([lon, lat], axis=-1), atol=1e-4)
        for plane, polarisation in zip(item.pixels, ("VV", "VH"), strict=True):
            native = expected(GRD, Settings(speckle=False), polarisation)
            part = native[tile.start[0] * 5 : (tile.start[0] + 32) * 5, tile.start[1] * 5 : (tile.start[1] + 40) * 5]
            mean = part.reshape(32, 5, 40, 5).mean((1, 3))
            np.testing.assert_allclose(plane, mean, rtol=1e-4)
    hashes = [item.metadata.source_hash for item in read_all(source).values()]
    assert len(set(hashes)) == len(hashes)


def test_the_antialias_window_reaches_into_neighbouring_chips(scene: Path) -> None:
    """A chip cut from the middle equals the same cells of the whole scene, edges included."""
    whole = SafeProducts([scene], SafeSettings(chip=(80, 104), filter="kaiser"))
    (item,) = read_all(whole).values()
    small = SafeProducts([scene], SafeSettings(chip=(16, 26), filter="kaiser"))
    for id_, chip in read_all(small).items():
        tile = small.items[id_].tile
        assert tile is not None
        (y, x) = tile.start
        np.testing.assert_allclose(chip.pixels, item.pixels[:, y : y + 16, x : x + 26], rtol=2e-5)


def test_the_order_of_reading_does_not_matter(scene: Path) -> None:
    source = SafeProducts([scene], SafeSettings(chip=(32, 40), overlap=8))
    together = read_all(source)
    copy = pickle.loads(pickle.dumps(source))
    for id_ in reversed(source.ids()):
        (alone,) = copy.read([id_])
        assert isinstance(alone, Imagette)
        np.testing.assert_array_equal(alone.pixels, together[id_].pixels)
        assert alone.metadata == together[id_].metadata


def test_borders_without_data_are_no_data_and_screened(tmp_path: Path) -> None:
    write_grd(tmp_path, replace(GRD, border=(0, 0, 0, 200)), Settings(speckle=False))
    source = SafeProducts([tmp_path], SafeSettings(chip=(40, 52), screening=Screening(valid=0.2)))
    # 520 samples of which the last 200 are empty: chips of 260 samples hold 260 and 60 of them with data
    found, aside = read_all(source), source.read(source.ids())
    assert {id_[-8:]: float(np.isfinite(i.pixels[0]).mean()) for id_, i in found.items()} == {
        "r000c000": 1.0,
        "r000c001": pytest.approx(12 / 52),
        "r001c000": 1.0,
        "r001c001": pytest.approx(12 / 52),
    }
    strict = SafeProducts([tmp_path], SafeSettings(chip=(40, 52)))
    aside = [item for item in strict.read(strict.ids()) if isinstance(item, Rejected)]
    assert [(item.id[-8:], screened_for(item)) for item in aside] == [("r000c001", "valid"), ("r001c001", "valid")]
    assert "23% of its area has data" in aside[0].reason


def test_channels_that_all_have_or_those_asked_for(scene: Path, tmp_path: Path) -> None:
    write_grd(tmp_path, replace(GRD, signals=GRD.signals[:1]), Settings(speckle=False, orbit=1000, datatake=0xABC))
    assert [c.name for c in SafeProducts([scene, tmp_path]).channels] == ["VV"]
    with pytest.raises(DataError, match="1 of 2 images have no polarisation VH"):
        SafeProducts([scene, tmp_path], SafeSettings(channels=("VV", "VH")))
    with pytest.raises(UsageError, match="no image has the polarisation 'HH'"):
        SafeProducts([scene], SafeSettings(channels=("HH",)))
    settings = SafeSettings(chip=(80, 104), channels=("VH", "VV"), allow_missing_channel=True)
    found = read_all(SafeProducts([scene, tmp_path], settings))
    assert [
        (item.metadata.polarisations, np.isfinite(item.pixels).all((1, 2)).tolist()) for item in found.values()
    ] == [
        ("VV", [False, True]),
        ("VH+VV", [True, True]),
    ]


def test_pixels_that_the_annotation_does_not_describe_are_set_aside(tmp_path: Path) -> None:
    """A foreign measurement of the right size and name: twice as large in amplitude, or none of its."""
    (tmp_path / "a").mkdir()
    product = wave_mode(tmp_path / "a", count=3)
    source = SafeProducts([tmp_path / "a"])
    assert len(read_all(source)) == 3
    for number, factor in ((1, 2.0), (2, 1.2)):  # 6 dB, and 1.6 dB
        file = next((product / "measurement").glob(f"*-00{number}.tiff"))
        data = bytearray(file.read_bytes())
        size = SHAPE[0] * SHAPE[1] * 4
        pixels = np.frombuffer(bytes(data[-size:]), "<i2") * factor
        data[-size:] = pixels.astype("<i2").tobytes()
        file.write_bytes(bytes(data))
    aside = rejected(SafeProducts([tmp_path / "a"]))
    assert [id_[-3:] for id_ in aside] == ["001"]
    (why,) = aside.values()
    assert "not those that the annotation describes" in why
    assert "3.99 times" in why or "4 times" in why  # numbers are cut to integers
    # another copy stands in, and a dataset says so
    wave_mode(tmp_path / "b", count=3)
    assert len(read_all(SafeProducts([tmp_path]))) == 3
    scene = gs.open_product(product)[1]
    assert "image statistics" in scene.to_dataset().attrs["statistics_note"]
    assert "statistics_note" not in gs.open_product(product)[2].to_dataset().attrs


@pytest.mark.parametrize("border", [(0, 0, 0, 0), (100, 0, 0, 230)])
def test_statistics_with_and_without_pixels_of_no_data_are_met(
    tmp_path: Path, border: tuple[int, int, int, int]
) -> None:
    """Whether the annotation counts pixels without data (as these products do) or not, the image is taken."""
    image = replace(trapped(1, "WV1"), border=border)
    product = write_wv(tmp_path, [image])
    scene = gs.open_product(product)[1]
    scene.to_dataset()
    # the written statistics have seven digits
    assert scene.image("VV").power_ratio == pytest.approx(1.0, abs=1e-5)
    share = (SHAPE[0] - border[0]) * (SHAPE[1] - border[3]) / (SHAPE[0] * SHAPE[1])

    def brighter(data: bytes) -> bytes:
        row = r"(<outputDataStdDev>\s*<re>)([^<]*)(</re>\s*<im>)([^<]*)"
        change = lambda m: f"{m[1]}{float(m[2]) / share**0.5:.6e}{m[3]}{float(m[4]) / share**0.5:.6e}"  # noqa: E731
        return re.sub(row, change, data.decode()).encode()

    if share < 1.0:  # of the pixels with data alone
        assert share < 0.5  # so that the other way would not do
        replace_bytes(product, "annotation/*.xml", brighter)
        again = gs.open_product(product)[1]
        again.to_dataset()
        assert again.image("VV").power_ratio == pytest.approx(1.0, abs=1e-4)
        assert again.image("VV").contradiction is None


def test_statistics_that_are_not_there_or_no_numbers(tmp_path: Path) -> None:
    product = wave_mode(tmp_path, 2)
    replace_bytes(product, "annotation/*-001.xml", substitute("<imageStatistics>.*</imageStatistics>", ""))
    replace_bytes(product, "annotation/*-002.xml", substitute(r"(<outputDataStdDev>\s*<re>)[^<]*", r"\1nan"))
    source = SafeProducts([tmp_path])
    assert [id_[-3:] for id_ in read_all(source)] == ["001"]
    assert "imageStatistics/outputDataStdDev/re" in next(iter(rejected(source).values()))


# Screening

LAND = Track(lon_deg=2.0, lat_deg=48.5)  # to the west of it, central France


def test_land_is_screened_at_a_known_place(tmp_path: Path) -> None:
    write_wv(tmp_path / "land", [trapped(1, "WV1")], Settings(track=LAND))
    wave_mode(tmp_path / "sea", 1, Settings(datatake=0x32391))
    source = SafeProducts([tmp_path])
    items = source.read(source.ids())
    assert [screened_for(item) if isinstance(item, Rejected) else None for item in items] == ["land", None]
    kept = SafeProducts([tmp_path], SafeSettings(screening=Screening(land=1.0)))
    assert len(read_all(kept)) == 2
    masked = SafeProducts([tmp_path], SafeSettings(screening=Screening(land=1.0), mask_land=True))
    reasons = [screened_for(item) if isinstance(item, Rejected) else None for item in masked.read(masked.ids())]
    assert reasons == ["valid", None]


def test_an_implausible_noise_table_is_screened(tmp_path: Path) -> None:
    loud = replace(TILTED, noise=None, nesz_db=-10.0)
    write_wv(tmp_path, [trapped(1, "WV1"), replace(trapped(2, "WV1"), signals=(loud,))])
    source = SafeProducts([tmp_path])
    items = source.read(source.ids())
    assert [screened_for(item) if isinstance(item, Rejected) else None for item in items] == [None, "nesz"]
    kept = read_all(SafeProducts([tmp_path], SafeSettings(screening=Screening(nesz=False))))
    assert [(item.metadata.denoised, item.metadata.nesz_db is None) for item in kept.values()] == [
        (True, False),
        (False, True),
    ]


def test_noise_stays_when_asked_and_amplitude_is_not_calibrated(tmp_path: Path) -> None:
    wave_mode(tmp_path, 1)
    (clean,), (noisy,), (raw,) = (
        read_all(SafeProducts([tmp_path], settings)).values()
        for settings in (SafeSettings(), SafeSettings(denoise=False), SafeSettings(quantity=Quantity.AMPLITUDE))
    )
    assert noisy.metadata.denoised is False
    level = 10 ** (clean.metadata.nesz_db / 10)  # type: ignore[operator]
    assert float((noisy.pixels - clean.pixels).mean()) == pytest.approx(level, rel=0.01)
    truth = truth_of(trapped(1, "WV1"))
    gain = truth.gain(np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None]).mean()
    assert float(np.square(raw.pixels).mean() / noisy.pixels.mean()) == pytest.approx(gain**2, rel=0.02)
    assert raw.channels[0].quantity is Quantity.AMPLITUDE


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"spacing_m": 0.0}, "cells of 0 m"),
        ({"quantity": Quantity.ROUGHNESS_DB}, "not read as roughness_db"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        SafeSettings(**settings)  # type: ignore[arg-type]


# Executors


@pytest.mark.parametrize("executor", [Local(2, patience_s=0), Dask(workers=2)], ids=["two processes", "dask"])
def test_executors_write_the_same_bytes(executor: Executor, scene: Path, tmp_path: Path) -> None:
    wave_mode(tmp_path / "in", count=3)
    shutil.copytree(scene, tmp_path / "in" / "scene")
    victim = next((tmp_path / "in").rglob("*-slc-*-003.tiff"))
    victim.write_bytes(victim.read_bytes()[:1000])
    source = SafeProducts([tmp_path / "in"], SafeSettings(chip=(24, 24), screening=Screening(land=1.0)))
    options = {"size": (24, 24), "shard_rows": 5, "batch": 2}
    for name, who in (("one", None), ("other", executor)):
        ingest(source, tmp_path / name, **options, fit="pad", executor=who)  # type: ignore[arg-type]
    assert crash.tree(tmp_path / "one") == crash.tree(tmp_path / "other")
    assert len(open_archive(tmp_path / "one")) == 2 + 20
