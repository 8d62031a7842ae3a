"""GeoTIFF tiles as imagettes: place against pyproj, pixels against what was written, ratios, decibels, damage."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from geo_tiles import DEGREES, UTM, decibels, write_tile
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine
from typer.testing import CliRunner

import groundswell.cli.verbs  # noqa: F401 - registers the verbs
from groundswell.archive.reader import open_archive
from groundswell.cli.app import application
from groundswell.errors import DataError, QuantityError, UsageError
from groundswell.physics.imagette import Channel, Imagette, Quantity
from groundswell.products.folder.bands import COMPOSITE, canonical, linear_ratios, season_of
from groundswell.products.folder.files import inspect_image, read_image
from groundswell.products.folder.geotiff import acquired, read_header
from groundswell.products.folder.grid import Grid, parse_grid
from groundswell.products.folder.images import FolderSettings, ImageFolder

SEASONS = ("winter", "spring", "summer", "fall")


def read(folder: ImageFolder, id_: str) -> Imagette:
    (item,) = folder.read([id_])
    assert isinstance(item, Imagette), item
    return item


def test_a_tile_in_utm_is_an_imagette_with_its_place(tmp_path: Path) -> None:
    from pyproj import Transformer

    values = decibels()
    write_tile(tmp_path / "a.tif", values)
    folder = ImageFolder([tmp_path], FolderSettings(quantity=Quantity.SIGMA0_DB))
    item = read(folder, "a.tif")
    np.testing.assert_array_equal(item.pixels, values)
    assert item.channels == (Channel("VV", Quantity.SIGMA0_DB), Channel("VH", Quantity.SIGMA0_DB))
    m = item.metadata
    assert (m.azimuth_spacing_m, m.range_spacing_m) == (10.0, 10.0)
    to_lonlat = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    # 20 columns and 24 rows of 10 m from the corner 500000, 5004480.
    np.testing.assert_allclose((m.lon, m.lat), to_lonlat.transform(500100.0, 5004360.0), atol=1e-9)
    corners = [(500000, 5004480), (500200, 5004480), (500200, 5004240), (500000, 5004240)]
    wanted = shapely.Polygon([to_lonlat.transform(*corner) for corner in corners])
    assert shapely.from_wkb(m.footprint).equals_exact(wanted, 1e-9)
    assert m.polarisations == "VV,VH"


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        # One 1e-4 degree at 60 N on WGS 84 (Snyder, tables of degree lengths): 111412.24 m and 55799.98 m a degree.
        (DEGREES, 11.141224, 5.5799979),
        # Mercator stretches by about 1/cos(lat): 20 m of the map at 60 N are about 10 m of the ground.
        (("EPSG:3857", Affine(20.0, 0.0, 1e6, 0.0, -20.0, 8399737.89)), None, None),
        # US survey feet, UTM-like: 100 feet.
        (("EPSG:2225", Affine(100.0, 0.0, 6.5e6, 0.0, -100.0, 2.1e6)), 30.480061, 30.480061),
    ],
)
def test_spacing_is_metres_on_the_ground(tmp_path: Path, place: Any, rows: float | None, columns: float | None) -> None:
    from pyproj import Geod, Transformer

    path = write_tile(tmp_path / "a.tif", decibels(), place=place)
    found = read_image(path).metadata
    crs, a = place
    to_lonlat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    x, y = a.c + 10 * a.a, a.f + 12 * a.e  # the middle of 24 x 20 pixels
    ends = (
        [to_lonlat.transform(x, y + a.e / 2 * s) for s in (-1, 1)],
        [to_lonlat.transform(x + a.a / 2 * s, y) for s in (-1, 1)],
    )
    geodesic = [Geod(ellps="WGS84").inv(*p, *q)[2] for p, q in ends]
    spacings = (found["azimuth_spacing_m"], found["range_spacing_m"])
    # 1 % where the map's own metres are kept (state plane: 1e-4); the rest is the geodesic to the curvature's change.
    np.testing.assert_allclose(spacings, geodesic, rtol=1e-3 if rows == columns and rows else 1e-6)
    if rows is not None:
        np.testing.assert_allclose(spacings, (rows, columns), rtol=5e-5)  # 12 rows south of 60 N


def test_the_first_pixel_is_an_area_and_the_date_line_no_edge(tmp_path: Path) -> None:
    grid = Grid("EPSG:4326", (0.01, 0.0, 179.995, 0.0, -0.01, 10.0), 4, 4)
    lon, lat = grid.lonlat([0, 0], [0, 1])
    np.testing.assert_allclose(np.abs(lon), (180.0, 179.99), atol=1e-9)
    assert lon[1] < 0
    np.testing.assert_allclose(lat, 9.995)
    assert grid.window(2, 1, 1, 1).lonlat(0, 0) == grid.lonlat(2, 1)


@pytest.mark.parametrize("compress", ["lzw", "deflate", "none", "zstd"])
@pytest.mark.parametrize("predictor", [1, 3])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_every_compression_gives_the_pixels_written(
    tmp_path: Path, compress: str, predictor: int, interleave: str
) -> None:
    values = decibels(12).astype(np.float64)
    values[:, :3, :4] = np.nan
    values[:, 5, 5] = -9999.0
    options = {"compress": compress, "interleave": interleave, "nodata": -9999.0}
    options |= {} if compress == "none" else {"predictor": predictor}
    path = write_tile(tmp_path / "a.tif", values, COMPOSITE, **options)
    found = read_image(path)
    values[:, 5, 5] = np.nan
    np.testing.assert_array_equal(found.pixels, values.astype(np.float32))
    assert found.facts.names == COMPOSITE
    assert (found.facts.georeferenced, found.facts.gaps) == (True, True)


def test_twelve_bands_map_to_the_published_order(tmp_path: Path) -> None:
    pairs = decibels(8)
    names = [f"{p}_{s}" for s in SEASONS for p in ("VV", "VH")]
    ratios = pairs[0::2] - pairs[1::2]
    bands, names = np.concatenate([pairs, ratios]), [*names, *(f"VV-VH_{s}" for s in SEASONS)]
    write_tile(tmp_path / "a.tif", bands.astype(np.float32), tuple(names))
    folder = ImageFolder([tmp_path])
    item = read(folder, "a.tif")
    assert tuple(c.name for c in item.channels) == COMPOSITE
    assert folder.description["channels"] == list(COMPOSITE)
    assert [c.quantity for c in item.channels] == [Quantity.RATIO] * 4 + [Quantity.SIGMA0_DB] * 8
    np.testing.assert_array_equal(item.pixels[4:8], pairs[0::2])
    np.testing.assert_array_equal(item.pixels[8:], pairs[1::2])
    # float32 decibels of about 20 hold 1e-6 dB: 3e-7 of the ratio, and the power as much again
    np.testing.assert_allclose(item.pixels[:4], 10 ** (ratios / 10), rtol=2e-6)


def test_a_ratio_is_linear_however_it_was_written() -> None:
    db = decibels()
    linear = np.float32(10) ** (db / 10)
    quotient, difference = linear[0] / linear[1], db[0] - db[1]
    names = ("VV", "VH", "ratio")
    for declared, both in ((Quantity.SIGMA0_DB, db), (Quantity.SIGMA0, linear)):
        for ratio in (quotient, difference):
            found = linear_ratios(np.stack([*both, ratio]), names, declared)
            np.testing.assert_allclose(found[2], quotient, rtol=1e-5)
            np.testing.assert_array_equal(found[:2], both)
    with pytest.raises(DataError, match="quotient of decibels"):
        linear_ratios(np.stack([*db, db[0] / db[1]]), names, Quantity.SIGMA0_DB)
    with pytest.raises(DataError, match="not both"):
        linear_ratios(np.stack([db[0], difference]), ("VV", "ratio"), Quantity.SIGMA0_DB)


def test_names_of_bands() -> None:
    assert canonical(("VV_spring", "vh-Autumn", "winter_vv-vh", "VV/VH summer", "fall_ratio")) == (
        "spring_vv", "fall_vh", "winter_ratio", "summer_ratio", "fall_ratio",
    )  # fmt: skip
    assert canonical(("winter_vvasc", "winter_vhasc")) == ("winter_vv", "winter_vh")
    assert canonical(("winter_vvasc", "winter_vvdes")) == ("winter_vvasc", "winter_vvdes")
    assert canonical(("VV", "B4", "spring", "winter_spring_vv")) == ("VV", "B4", "spring", "winter_spring_vv")
    months = [season_of(month) for month in range(1, 13)]
    assert months == ["winter"] * 2 + ["spring"] * 3 + ["summer"] * 3 + ["fall"] * 3 + ["winter"]
    assert COMPOSITE[:5] == ("winter_ratio", "spring_ratio", "summer_ratio", "fall_ratio", "winter_vv")
    assert COMPOSITE[8:] == tuple(f"{season}_vh" for season in SEASONS)


def test_the_angle_band_is_incidence(tmp_path: Path) -> None:
    angle = np.broadcast_to(np.linspace(30.0, 31.0, 20, dtype=np.float32), (24, 20))
    path = write_tile(tmp_path / "a.tif", np.stack([*decibels(), angle]), ("VV", "VH", "angle"))
    assert inspect_image(path).names == ("VV", "VH")
    item = read(ImageFolder([tmp_path]), "a.tif")
    m = item.metadata
    assert [c.name for c in item.channels] == ["VV", "VH"]
    np.testing.assert_allclose((m.incidence_near_deg, m.incidence_deg, m.incidence_far_deg), (30.0, 30.5, 31.0))


def test_decibels_show_themselves_and_nothing_else_does(tmp_path: Path) -> None:
    for name, values in (("db", decibels()), ("linear", 10 ** (decibels() / 10))):
        (tmp_path / name).mkdir()
        write_tile(tmp_path / name / "a.tif", values.astype(np.float32))
    assert ImageFolder([tmp_path / "db"]).channels[0].quantity is Quantity.SIGMA0_DB
    with pytest.raises(QuantityError, match="declare it"):
        ImageFolder([tmp_path / "linear"])
    with pytest.raises(QuantityError, match="decibels"):
        ImageFolder([tmp_path / "db"], FolderSettings(quantity=Quantity.SIGMA0))


def test_masked_pixels_written_as_zero_are_no_decibels(tmp_path: Path) -> None:
    values = decibels()
    values[:, :5] = 0.0
    write_tile(tmp_path / "a.tif", values)
    with pytest.raises(QuantityError, match="exactly 0 dB"):
        ImageFolder([tmp_path])
    write_tile(tmp_path / "a.tif", values, nodata=0.0)
    item = read(ImageFolder([tmp_path]), "a.tif")
    assert np.isnan(item.pixels[:, :5]).all()
    assert np.isfinite(item.pixels[:, 5:]).all()


def test_ingest_of_tiles_needs_no_options(tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    for i in range(3):
        place = (UTM[0], UTM[1] @ Affine.translation(20 * i, 0))
        write_tile(
            tiles / f"S1A_IW_GRDH_1SDV_2020010{i + 1}T053012_2020010{i + 1}T053037_030660_038373_1A2B_{i}.tif",
            decibels(seed=i),
            place=place,
        )
    arguments = ["ingest", str(tiles), "-o", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(application, arguments)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["written"] == 3
    assert any("taken for sigma0_db" in note for note in data["notes"])
    archive = open_archive(tmp_path / "out")
    # Half a step of 0.002 dB, and float32 rounding.
    np.testing.assert_allclose(archive.read(np.arange(3)), [decibels(seed=i) for i in range(3)], atol=0.00101)
    frame = archive.catalogue
    assert (np.diff(frame["lon"]) > 0.002).all()
    assert set(frame["range_spacing_m"]) == {10.0}
    assert frame["footprint"].notna().all()
    assert set(frame["mission"]) == {"S1A"}
    assert set(frame["datatake"]) == {"038373"}


@pytest.mark.parametrize(
    ("name", "tags", "wanted"),
    [
        (
            "S1A_IW_GRDH_1SDV_20200105T053012_20200105T053037_030660_038373_1A2B-00",
            {},
            datetime(2020, 1, 5, 5, 30, 24, 500000, UTC),
        ),
        ("tile_2020-07-31", {}, datetime(2020, 7, 31, tzinfo=UTC)),
        ("tile_20200731T120102_vv", {}, datetime(2020, 7, 31, 12, 1, 2, tzinfo=UTC)),
        ("tile", {"system:time_start": "1577836800000"}, datetime(2020, 1, 1, tzinfo=UTC)),
        ("tile_20200731", {"ACQUISITION_DATE": "2020-03-01"}, datetime(2020, 3, 1, tzinfo=UTC)),
        ("tile_20200101_20201231", {}, None),
        ("tile_20209931", {}, None),
        ("tile", {"TIFFTAG_DATETIME": "2021:01:01 00:00:00"}, None),
    ],
)
def test_dates_of_single_acquisitions(tmp_path: Path, name: str, tags: dict[str, str], wanted: datetime | None) -> None:
    path = write_tile(tmp_path / f"{name}.tif", decibels(), tags=tags)
    assert acquired(path, read_header(path).items) == wanted


def test_a_tile_across_the_date_line_has_a_footprint_of_its_own_size() -> None:
    east = 833_978.56  # of the end of zone 60 on the equator; 4 km on either side of it
    facts = Grid("EPSG:32660", (10.0, 0.0, east - 4000.0, 0.0, -10.0, 4000.0), 800, 800).place()
    shape = shapely.from_wkb(facts["footprint"])
    assert [round(edge, 3) for part in shape.geoms for edge in part.bounds[::2]] == [-180.0, -179.964, 179.964, 180.0]
    assert shape.area == pytest.approx((8.0 / 111.3) ** 2, rel=0.01)
    assert facts["azimuth_spacing_m"] == 10.0


def test_grids_as_users_give_them(tmp_path: Path) -> None:
    grid = parse_grid("EPSG:32632,500000,5000000,504480,5004475,10")
    assert grid == Grid("EPSG:32632", (10.0, 0.0, 500000.0, 0.0, -10.0, 5004475.0), 448, 448)
    assert parse_grid(str(write_tile(tmp_path / "a.tif", decibels()))).transform[2::3] == (500000.0, 5004480.0)
    for text in (
        "nowhere.tif",
        "EPSG:32632,1,2,3,4",
        "EPSG:32632,5,0,1,1,1",
        "EPSG:99999,0,0,1,1,1",
        "EPSG:4326,0,0,50,50,1e-9",
    ):
        with pytest.raises(UsageError):
            parse_grid(text)
    with pytest.raises(DataError):  # no such place on the Earth
        Grid("EPSG:32632", (10.0, 0.0, 1e12, 0.0, -10.0, 5e12), 4, 4).place()
    with pytest.raises(DataError, match="no area"):
        Grid("EPSG:32632", (0.0, 0.0, 0.0, 0.0, -10.0, 0.0), 4, 4)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tile(tmp_path_factory.mktemp("whole") / "a.tif", decibels(), nodata=-99.0).read_bytes()


def _survives(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        found = read_image(path)
    except DataError:  # with a reason; anything else fails the test
        return
    assert found.pixels.shape == (found.facts.bands, found.facts.height, found.facts.width)


def test_a_truncated_tile_is_refused_at_every_length(written: bytes, tmp_path: Path) -> None:
    for length in range(0, len(written), 101):
        (tmp_path / "a.tif").write_bytes(written[:length])
        with pytest.raises(DataError):
            read_image(tmp_path / "a.tif")


@settings(max_examples=40, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), head=st.booleans()
)
def test_changed_bytes_end_in_an_image_or_a_named_error(
    written: bytes, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], head: bool
) -> None:
    content = bytearray(written)
    for position, value in changes:
        content[position % (400 if head else len(content))] = value
    _survives(tmp_path_factory.getbasetemp() / "changed.tif", bytes(content))


def test_only_the_file_itself_is_read(tmp_path: Path) -> None:
    """A VRT that calls itself .tif, and a world file beside a plain TIFF, lead nowhere."""
    path = write_tile(tmp_path / "a.tif", decibels())
    vrt = tmp_path / "b.tif"
    band = f'<VRTRasterBand dataType="Float32" band="1"><SimpleSource><SourceFilename>{path}</SourceFilename>'
    end = "</SimpleSource></VRTRasterBand></VRTDataset>"
    vrt.write_text(f'<VRTDataset rasterXSize="20" rasterYSize="24">{band}{end}')
    with pytest.raises(DataError):
        read_image(vrt)
    with pytest.raises(DataError):
        read_header(vrt)
    import tifffile

    tifffile.imwrite(tmp_path / "c.tif", decibels()[0])
    (tmp_path / "c.tfw").write_text("10\n0\n0\n-10\n500000\n5000000\n")
    assert read_header(tmp_path / "c.tif").grid is None
