"""Footprints: valid within the map, wherever their corners lie, and as large when they are scaled as they should be."""

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st

from groundswell.physics.footprint import footprint, scaled


def test_a_footprint_across_the_date_line_is_cut_in_two() -> None:
    for corners in (
        [(179.5, 1), (-179.5, 1), (-179.5, 0), (179.5, 0)],
        [(-179.5, 1), (179.5, 1), (179.5, 0), (-179.5, 0)],
    ):
        parts = shapely.from_wkb(footprint(corners)).geoms
        assert sorted(part.bounds for part in parts) == [(-180.0, 0.0, -179.5, 1.0), (179.5, 0.0, 180.0, 1.0)]
    whole = shapely.from_wkb(footprint([(9.5, 1), (10.5, 1), (10.5, 0), (9.5, 0)]))
    assert whole.bounds == (9.5, 0.0, 10.5, 1.0)


def test_corners_that_cross_give_a_valid_outline() -> None:
    bow = [(10.0, 0.0), (11.0, 1.0), (11.0, 0.0), (10.0, 1.0)]
    assert not shapely.Polygon(bow).is_valid
    for turn in (0.0, 169.5, 180.0):  # elsewhere, and on the date line
        found = shapely.from_wkb(footprint([((lon + turn + 180.0) % 360.0 - 180.0, lat) for lon, lat in bow]))
        assert found.is_valid
        assert found.area == pytest.approx(1.0)
        assert shapely.get_num_geometries(found) == (2 if turn == 169.5 else 1)


@pytest.mark.parametrize(("pole", "around"), [(90.0, 1), (-90.0, -1)])
def test_a_footprint_around_a_pole_reaches_it_at_every_longitude(pole: float, around: int) -> None:
    corners = [(around * lon, np.sign(pole) * 87.0) for lon in (100.0, -170.0, -80.0, 10.0)]
    found = shapely.from_wkb(footprint(corners))
    assert found.is_valid
    assert found.area == pytest.approx(360.0 * 3.0)
    for lon in np.linspace(-179.0, 179.0, 50):
        assert found.contains(shapely.Point(lon, np.sign(pole) * 88.0))
        assert not found.contains(shapely.Point(lon, np.sign(pole) * 86.0))


def _from_greenwich(corners: list[tuple[float, float]]) -> shapely.MultiPoint:
    return shapely.MultiPoint([(lon % 360.0, lat) for lon, lat in corners])


@settings(max_examples=100, deadline=None)
@example([(-58.0, -58.0), (2e-164, 2e-164), (147.0, -86.0), (2e-164, 0.0)])  # a zigzag that encloses nothing
@example([(-180.0, 1.0), (0.0, 0.0), (-132.0, 0.0), (48.0, 0.0)])  # half round the Earth at each step
@example([(1.0, 2.6e-160), (2.0, 0.0), (1.0, 0.0), (0.0, 1.0)])  # a valid one, of an area that no cut leaves
@given(
    st.lists(st.tuples(st.floats(-180.0, 180.0), st.floats(-89.0, 89.0)), min_size=4, max_size=4).filter(
        lambda c: min(shapely.MultiPoint(c).convex_hull.area, _from_greenwich(c).convex_hull.area) > 1e-3
    )
)
def test_any_corners_give_a_valid_outline_within_the_map(corners: list[tuple[float, float]]) -> None:
    found = shapely.from_wkb(footprint(corners))
    assert found.is_valid
    west, south, east, north = found.bounds
    assert -180.0 <= west < east <= 180.0
    assert -90.0 <= south < north <= 90.0
    for lon, lat in corners:  # within the rounding of the cut
        assert found.distance(shapely.Point(lon, lat)) < 1e-6 or abs(lon) > 180.0 - 1e-6  # it may lie on either side


@pytest.mark.parametrize("lon", [10.0, 179.9, -179.7, 180.0])
def test_scaling_is_about_the_centroid_on_the_date_line_as_elsewhere(lon: float) -> None:
    def box(reach: float) -> bytes:
        east, west = ((lon + turn + 180.0) % 360.0 - 180.0 for turn in (reach, -reach))
        return footprint([(west, 20.0 - reach), (east, 20.0 - reach), (east, 20.0 + reach), (west, 20.0 + reach)])

    for share in (0.25, 1.0, 3.0):
        found, expected = shapely.from_wkb(scaled(box(0.4), share)), shapely.from_wkb(box(0.4 * share))
        assert found.symmetric_difference(expected).area < 1e-9
        assert shapely.get_num_geometries(found) == shapely.get_num_geometries(expected)
