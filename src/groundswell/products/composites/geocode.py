"""From a place to the line and pixel of a scene: the inverse of its geolocation grid.

This is no terrain correction. The grid of an annotation holds the height of the ground every 20 km or so, and between
its points the ground is taken for smooth. A hill of height h above that lies h / tan(incidence) too near to the
satellite's track (at 40 degrees 120 m for 100 m, twelve pixels of 10 m), to the other side in the other pass, and the
brightness of slopes that face the radar stays in the values. Over the sea and flat land neither matters.
"""

from __future__ import annotations

import numpy as np

from groundswell.products.interpolation import Floats
from groundswell.products.safe.geolocation import Geolocation

_STEPS = 12
_CLOSE = 1e-4  # lines or pixels


def locate(place: Geolocation, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Line and pixel ``[...]`` at which `Geolocation.lonlat` gives these longitudes and latitudes (degrees) ``[...]``.

    To 1e-4 of a pixel; NaN for a place more than a grid cell outside the grid. By Newton's method in gnomonic
    coordinates about the middle of the grid, in which the bilinear patches of the grid are smooth.
    """
    middle = place.normals.mean(axis=(0, 1))
    middle /= np.linalg.norm(middle)
    east = np.cross((0.0, 0.0, 1.0), middle) if abs(middle[2]) < 0.99 else np.cross((1.0, 0.0, 0.0), middle)
    east /= np.linalg.norm(east)
    frame = np.stack((east, np.cross(middle, east), middle), axis=-1)  # [3, (x, y, up)]
    phi, lam = np.deg2rad(np.asarray(lat, np.float64).ravel()), np.deg2rad(np.asarray(lon, np.float64).ravel())
    target = np.stack((np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)), axis=-1) @ frame
    nodes = place.normals @ frame
    lines, pixels = np.full(phi.shape, np.nan), np.full(phi.shape, np.nan)
    # Beyond 45 degrees from the middle of the scene nothing of it can lie.
    near = np.flatnonzero(target[:, 2] > 0.7)
    if near.size:
        lines[near], pixels[near] = _newton(place, nodes, target[near, :2] / target[near, 2:])
    return lines.reshape(np.shape(lon)), pixels.reshape(np.shape(lon))


def _newton(place: Geolocation, nodes: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    flat = nodes[..., :2] / nodes[..., 2:]
    y, x = np.meshgrid(place.lines, place.pixels, indexing="ij")
    terms = np.stack((np.ones(y.size), flat[..., 0].ravel(), flat[..., 1].ravel()), axis=-1)
    start = np.linalg.lstsq(terms, np.stack((y.ravel(), x.ravel()), axis=-1), rcond=None)[0]
    at = np.concatenate((np.ones((len(wanted), 1)), wanted), axis=1) @ start  # the best affine map, to begin with
    reach = [(n[0] - (n[1] - n[0]), n[-1] + (n[-1] - n[-2])) for n in (place.lines, place.pixels)]
    low, high = np.array(reach).T
    moved = np.full(len(at), np.inf)
    for _ in range(_STEPS):
        at = at.clip(low, high)
        i, u, height = _cell(at[:, 0], place.lines)
        j, v, width = _cell(at[:, 1], place.pixels)
        a, b, c, d = nodes[i, j], nodes[i, j + 1], nodes[i + 1, j], nodes[i + 1, j + 1]
        left, right = a + (c - a) * u, b + (d - b) * u
        down = ((c - a) * (1.0 - v) + (d - b) * v) / height
        across = (right - left) / width
        here = left + (right - left) * v
        flat_here = here[:, :2] / here[:, 2:]
        by_line = (down[:, :2] - flat_here * down[:, 2:]) / here[:, 2:]
        by_pixel = (across[:, :2] - flat_here * across[:, 2:]) / here[:, 2:]
        off = wanted - flat_here
        area = by_line[:, 0] * by_pixel[:, 1] - by_line[:, 1] * by_pixel[:, 0]
        step = np.stack(
            (
                (off[:, 0] * by_pixel[:, 1] - off[:, 1] * by_pixel[:, 0]) / area,
                (by_line[:, 0] * off[:, 1] - by_line[:, 1] * off[:, 0]) / area,
            ),
            axis=-1,
        )
        at = at + step
        moved = np.abs(step).max(axis=-1)
        inside = ((at >= low) & (at <= high)).all(axis=-1)
        if not (moved[inside] > _CLOSE).any():
            break
    lost = (moved > _CLOSE) | (at < low).any(axis=-1) | (at > high).any(axis=-1)
    at[lost] = np.nan
    return at[:, 0], at[:, 1]


def _cell(at: Floats, nodes: Floats) -> tuple[np.ndarray, Floats, Floats]:
    """Index of the cell that holds each position, the share within it ``[n, 1]``, and its length ``[n, 1]``."""
    index = (np.searchsorted(nodes, at, side="right") - 1).clip(0, len(nodes) - 2)
    length = nodes[index + 1] - nodes[index]
    return index, ((at - nodes[index]) / length)[:, None], length[:, None]
