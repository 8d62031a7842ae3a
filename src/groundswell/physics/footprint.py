"""Footprints: the outline of an image on the Earth as WKB, longitudes within 180 degrees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import shapely
from shapely import affinity

_SLIVER = 1e-6  # of the convex hull: what encloses less is a zigzag, whose area rounding decides


def footprint(corners: Sequence[tuple[float, float]]) -> bytes:
    """The polygon of (longitude, latitude) corners, in their order around it; where it crosses the date line, in two.

    It is valid. Around a pole it reaches to the pole's latitude at all longitudes. Corners in an order that makes it
    cross itself, or enclose next to nothing of their convex hull, give that hull; corners on one line, whose hull is
    nothing, what they enclose: nothing.
    """
    places = [(round(lon, 9), round(lat, 9)) for lon, lat in corners]  # 0.1 mm: GEOS loses areas beside 1e-160 degrees
    ring = [places[0]]
    for lon, lat in (*places[1:], places[0]):  # each at most 180 degrees from the one before
        ring.append(((lon - ring[-1][0] + 180.0) % 360.0 + ring[-1][0] - 180.0, lat))
    if abs(ring[-1][0] - ring[0][0]) > 180.0:  # once around the Earth
        pole = math.copysign(90.0, ring[0][1])
        ring += [(ring[-1][0], pole), (ring[0][0], pole)]
    polygon = shapely.Polygon(ring)
    hull = polygon.convex_hull
    sound = polygon.is_valid and polygon.area > _SLIVER * hull.area
    return _cut(polygon if sound or not hull.area > 0.0 else hull)


def scaled(whole: bytes, share: float) -> bytes:
    """A footprint shrunk (``share`` below one) or grown about its centroid, in longitude and latitude alike."""
    parts = shapely.get_parts(shapely.from_wkb(whole))
    if len(parts) > 1:  # the date line parts it
        parts = [affinity.translate(p, 360.0) if p.bounds[0] < 0.0 else p for p in parts]
    return _cut(affinity.scale(shapely.union_all(parts), xfact=share, yfact=share, origin="centroid"))


def _cut(polygon: shapely.Geometry) -> bytes:
    """A polygon that may run on beyond 180 degrees, cut at the date line; any other as it is."""
    if shapely.box(-180.0, -90.0, 180.0, 90.0).covers(polygon):
        return bytes(shapely.to_wkb(polygon))
    parts = [
        affinity.translate(part, -turn)
        for turn in range(-720, 721, 360)  # three steps of 180 degrees from within the map
        if (part := polygon & shapely.box(turn - 180.0, -90.0, turn + 180.0, 90.0)).area > 0.0
    ]
    return bytes(shapely.to_wkb(shapely.union_all(parts)))  # around a pole they share an edge
