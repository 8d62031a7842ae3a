"""The land mask at places anyone can look up on a map, at the edges of its grid, and against the package's own."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from groundswell.errors import DataError, GroundswellError
from groundswell.products import land
from groundswell.products.land import is_land, land_fraction

LAND = {
    "Paris": (2.35, 48.86),
    "Kansas": (-98.0, 38.5),
    "Alice Springs": (133.88, -23.70),
    "Nairobi": (36.82, -1.29),
    "Mauna Kea": (-155.47, 19.82),
    "Tristan da Cunha": (-12.28, -37.11),
    "Chukotka, on the date line": (180.0, 68.0),
    "South Pole": (0.0, -90.0),
    "Greenland": (-40.0, 75.0),
}
SEA = {
    "Gulf of Guinea": (0.0, 0.0),
    "North Atlantic": (-32.57, 58.76),
    "South Pacific": (-140.0, -30.0),
    "Bering Sea, on the date line": (180.0, 58.0),
    "North Pole": (0.0, 90.0),
    "Drake Passage": (-62.0, -58.5),
    "Strait of Gibraltar": (-5.6, 35.95),
}


@pytest.mark.parametrize(("place", "expected"), [(p, True) for p in LAND.values()] + [(p, False) for p in SEA.values()])
def test_known_places(place: tuple[float, float], expected: bool) -> None:
    lon, lat = place
    assert bool(is_land(lon, lat)) is expected
    # A turn more or less is the same place.
    assert bool(is_land(lon + 360.0, lat)) is bool(is_land(lon - 720.0, lat)) is expected


def test_the_date_line_has_no_seam() -> None:
    # Chukotka from 179.9 east to 179.9 west, written both ways; 69 north is land on both sides.
    lon = np.array([179.9, 179.999, 180.0, 180.001, 180.1])
    assert is_land(lon, 68.5).all()
    assert np.array_equal(is_land(lon, 68.5), is_land((lon + 180.0) % 360.0 - 180.0, 68.5))
    assert bool(is_land(180.0, 68.5)) is bool(is_land(-180.0, 68.5))


def test_share_of_land_of_the_globe() -> None:
    # Land is 29.2 % of the globe; lakes count here (+0.5) and ice shelves do not (-0.3). 200,000 points: sigma 0.1 %.
    rng = np.random.default_rng(0)
    lat = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 200_000)))
    assert land_fraction(rng.uniform(-180, 180, 200_000), lat) == pytest.approx(0.292, abs=0.006)


def test_shapes_and_fractions() -> None:
    lon, lat = np.meshgrid(np.linspace(2.0, 2.5, 7), np.linspace(48.5, 49.0, 5))
    assert is_land(lon, lat).shape == (5, 7)
    assert land_fraction(lon, lat) == 1.0
    assert land_fraction([0.0, 2.35], [0.0, 48.86]) == 0.5


@pytest.mark.parametrize(("lon", "lat"), [(0.0, 90.1), (0.0, -91.0), (np.nan, 0.0), (0.0, np.nan), (np.inf, 0.0)])
def test_no_position_is_an_error(lon: float, lat: float) -> None:
    with pytest.raises(DataError, match="on the globe"):
        is_land([0.0, lon], [0.0, lat])


def test_cells_are_those_of_the_package() -> None:
    """Rows read straight from the package's array, unpacked another way, in the cells where coasts are."""
    path = Path(land.find_spec("global_land_mask").origin).with_name("globe_combined_mask_compressed.npz")
    first, count = 3600, 20  # rows from 60 degrees north
    with zipfile.ZipFile(path) as archive, archive.open("mask.npy") as file:
        file.read(128 + first * 43_200)
        sea = np.frombuffer(file.read(count * 43_200), np.uint8).reshape(count, 43_200).astype(bool)
    rows, columns = np.mgrid[0:count, 0:43_200]
    lat, lon = 90.0 - (first + rows + 0.5) / 120.0, (columns + 0.5) / 120.0 - 180.0
    assert np.array_equal(is_land(lon, lat), ~sea)
    assert 0.2 < sea.mean() < 0.8


def test_missing_or_damaged_mask_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(land, "_sea", land._sea.__wrapped__)
    monkeypatch.setattr(land, "find_spec", lambda _: None)
    with pytest.raises(GroundswellError, match="not installed"):
        is_land(0.0, 0.0)

    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(land, "find_spec", lambda _: Spec)
    path = tmp_path / "globe_combined_mask_compressed.npz"
    for write in (
        lambda: None,
        lambda: path.write_bytes(b"no archive"),
        lambda: np.savez_compressed(path, mask=np.zeros((3, 4), bool)),
        lambda: np.savez_compressed(path, other=np.zeros(3)),
    ):
        write()
        with pytest.raises(GroundswellError, match="could not be read"):
            is_land(0.0, 0.0)
