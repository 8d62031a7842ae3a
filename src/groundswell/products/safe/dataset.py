"""A calibrated image as an xarray Dataset: pixels averaged over ground cells (or native), place, incidence, facts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from groundswell.physics.multilook import Filter, Multilook, ground_edges, weights
from groundswell.products.interpolation import Floats
from groundswell.products.safe.geolocation import Geolocation
from groundswell.products.safe.image import SafeImage

if TYPE_CHECKING:
    import xarray as xr

    from groundswell.products.safe.scene import Scene

Plane = NDArray[np.float32]

_BACKSCATTER = "surface_backwards_scattering_coefficient_of_radar_wave"  # the CF name of sigma0
_LONG_NAMES = {
    "sigma0": "normalised radar cross-section sigma0, linear",
    "beta0": "radar brightness beta0, linear",
    "gamma0": "backscatter gamma0, linear",
    "intensity": "mean squared digital number, not calibrated",
}
_BANDS = {
    "nesz": {"long_name": "noise-equivalent sigma0 at the centre of the cell, linear", "units": "1"},
    "valid": {"long_name": "share of the cell that holds valid pixels", "units": "1"},
}
_PLACES = {
    "lon": {"standard_name": "longitude", "units": "degrees_east"},
    "lat": {"standard_name": "latitude", "units": "degrees_north"},
    "incidence": {"long_name": "incidence angle from the vertical", "units": "degree"},
}
_GRID = ("azimuth", "range")


@dataclass(frozen=True)
class _Axis:
    """One axis of the result: metres from the image's edge to its cells' centres, and the native position of each."""

    metres: Floats
    native: Floats
    weights: Any  # sparse [cells, native], None on the native grid


def build_dataset(
    scene: Scene,
    images: Sequence[SafeImage],
    *,
    squeeze: bool,
    window: tuple[slice, slice],
    spacing_m: float | None,
    calibration: str | None,
    denoise: bool,
    filter: Filter,
) -> xr.Dataset:
    """What `Scene.to_dataset` returns; arguments as there, all of them checked."""
    import xarray as xr

    azimuth, range_ = _axes(scene, window, spacing_m, filter)
    name = calibration or "intensity"
    attributes_of = _PLACES | {"values": _value_attributes(name)} | _BANDS
    if spacing_m is None:
        from groundswell.products.safe.native import native_bands, native_places

        bands: dict[str, Any] = native_bands(images, window, calibration, denoise, not squeeze, attributes_of)
        places: dict[str, Any] = native_places(scene.geolocation, window, attributes_of)
    else:
        bands = {
            key: (_GRID if squeeze else ("polarisation", *_GRID), planes[0] if squeeze else np.stack(planes), text)
            for key, planes in _averaged(images, window, azimuth, range_, calibration, denoise).items()
            for text in [attributes_of[key]]
        }
        places = {
            key: (_GRID, values, attributes_of[key])
            for key, values in _places_of(scene.geolocation, azimuth, range_).items()
        }
    variables = {name if key == "values" else key: variable for key, variable in bands.items()}
    coordinates = _lengths(scene, azimuth, range_) | places
    polarisations = [image.files.name.polarisation for image in images]
    coordinates["polarisation"] = polarisations[0] if squeeze else ("polarisation", polarisations)
    attributes = _attributes(scene, images, spacing_m, calibration, denoise, filter)
    return xr.Dataset(variables, coordinates, attributes)


def _axes(scene: Scene, window: tuple[slice, slice], spacing_m: float | None, filter: Filter) -> tuple[_Axis, _Axis]:
    a, (lines, pixels) = scene.annotation, window
    down = np.arange(a.lines + 1, dtype=np.float64) * a.azimuth_spacing_m
    across = np.arange(a.samples + 1, dtype=np.float64) * a.range_spacing_m
    if a.slant and spacing_m is not None:
        across = ground_edges(scene.geolocation.profile(np.arange(a.samples)), a.range_spacing_m)
    return _axis(down, lines, spacing_m, filter), _axis(across, pixels, spacing_m, filter)


def _axis(edges: Floats, part: slice, spacing_m: float | None, filter: Filter) -> _Axis:
    inside = edges[part.start : part.stop + 1]
    if spacing_m is None:
        native = np.arange(part.start, part.stop, dtype=np.float64)
        return _Axis(0.5 * (inside[1:] + inside[:-1]), native, None)
    table = weights(inside, spacing_m, filter)
    metres = inside[0] + spacing_m * (np.arange(table.shape[0]) + 0.5)
    return _Axis(metres, np.interp(metres, edges, np.arange(len(edges)) - 0.5), table)


def _averaged(
    images: Sequence[SafeImage],
    window: tuple[slice, slice],
    azimuth: _Axis,
    range_: _Axis,
    calibration: str | None,
    denoise: bool,
) -> dict[str, list[Plane]]:
    """``values``, ``valid`` and, of calibrated ones, ``nesz`` of the cells of each image."""
    planes: dict[str, list[Plane]] = {"values": [], "valid": [], "nesz": []}
    for image in images:
        look = Multilook(azimuth.weights, range_.weights)
        for first, (intensity, there) in image.blocks(calibration, denoise, *window):
            look.add(first - window[0].start, intensity, there)
        values, valid = look.result()
        planes["values"].append(values)
        planes["valid"].append(valid)
        if calibration is not None:
            planes["nesz"] += _fields(lambda y, x: (image.nesz(y, x),), azimuth, range_, np.float32)  # noqa: B023
    return {key: found for key, found in planes.items() if found}


def _places_of(place: Geolocation, azimuth: _Axis, range_: _Axis) -> dict[str, NDArray[Any]]:
    lon, lat = _fields(place.lonlat, azimuth, range_, np.float64, np.float64)
    (incidence,) = _fields(lambda y, x: (place.incidence_at(y, x),), azimuth, range_, np.float32)
    return {"lon": lon, "lat": lat, "incidence": incidence}


def _fields(
    at: Callable[[Floats, Floats], Sequence[Floats]], azimuth: _Axis, range_: _Axis, *dtypes: type[np.floating[Any]]
) -> list[NDArray[Any]]:
    """Smooth fields ``at(lines, pixels)`` [rows, columns], some lines at a time: a scene has many cells."""
    shape = (len(azimuth.native), len(range_.native))
    out = [np.empty(shape, dtype) for dtype in dtypes]
    step = max(1, 2**20 // shape[1])
    for first in range(0, shape[0], step):
        part = slice(first, first + step)
        for target, values in zip(out, at(azimuth.native[part], range_.native), strict=True):
            target[part] = values
    return out


def _lengths(scene: Scene, azimuth: _Axis, range_: _Axis) -> dict[str, Any]:
    """The coordinates along one axis."""
    a = scene.annotation
    start = np.datetime64(a.first_line.replace(tzinfo=None), "ns")
    elapsed = (azimuth.native * a.line_interval_s * 1e9).round().astype("timedelta64[ns]")
    ground = "ground" if range_.weights is not None or not a.slant else "slant"
    return {
        "azimuth": ("azimuth", azimuth.metres, {"units": "m", "long_name": "distance along track from the first line"}),
        "range": ("range", range_.metres, {"units": "m", "long_name": f"{ground} range from the near edge"}),
        "line": ("azimuth", azimuth.native, {"units": "1", "long_name": "line of the product, from 0"}),
        "pixel": ("range", range_.native, {"units": "1", "long_name": "pixel of the product, from 0"}),
        "time": ("azimuth", start + elapsed, {"standard_name": "time", "long_name": "zero-Doppler time, UTC"}),
    }


def _value_attributes(name: str) -> dict[str, str]:
    standard = {"standard_name": _BACKSCATTER} if name == "sigma0" else {}
    return {"long_name": _LONG_NAMES[name], "units": "1", **standard}


def _attributes(
    scene: Scene,
    images: Sequence[SafeImage],
    spacing_m: float | None,
    calibration: str | None,
    denoise: bool,
    filter: Filter,
) -> dict[str, Any]:
    """Facts of the scene; numbers and text alone, which every file format takes (flags are 0 or 1)."""
    facts, a = scene.metadata, scene.annotation
    notes, done = [], []
    for image in images:
        if calibration is None:  # whose noise is nobody's concern: the tables need not be there
            done.append(image.annotation.denoised)
            notes.append(f"{image.files.name.polarisation}: not calibrated")
            continue
        state = image.denoising
        asked = denoise or not state.subtract
        done.append(state.denoised and asked)
        notes.append(f"{image.files.name.polarisation}: {state.note if asked else 'not asked for'}")
    native = "native" if spacing_m is None else None
    return {
        "Conventions": "CF-1.11",
        "title": f"Sentinel-1 {facts.mode} {a.header.kind} {facts.id}",
        "source": scene.source,
        "product_id": facts.product_id,
        "image_id": facts.id,
        **({"image_number": facts.image_number} if facts.image_number is not None else {}),
        **{key: getattr(facts, key) for key in ("mission", "beam", "orbit", "orbit_pass", "datatake", "look")},
        "acquisition_mode": facts.mode,  # not "mode": scipy's NetCDF writer takes that for its own
        "product_type": a.header.kind,
        "heading_deg": a.heading_deg,
        "orientation": "rows in the order of time, columns from near to far range; not turned to north",
        "range_projection": "slant" if a.slant and native else "ground",
        "azimuth_spacing_m": spacing_m or a.azimuth_spacing_m,
        "range_spacing_m": spacing_m or a.range_spacing_m,
        "filter": native or filter,
        "ipf_version": scene.ipf_version or "unknown",
        "radar_frequency_hz": a.radar_frequency_hz,
        "slant_range_time_s": a.slant_range_time_s,
        "denoised": int(all(done)),
        "denoise_note": "; ".join(notes),
        **_remarks(images),
    }


def _remarks(images: Sequence[SafeImage]) -> dict[str, str]:
    """What there is to say of borders and of image statistics: nothing, of most images."""
    found: dict[str, dict[str, str | None]] = {"border_note": {}, "statistics_note": {}}
    for image in images:
        noisy = f"left out: IPF {image.ipf_version} has small numbers in pixels without data"
        polarisation = image.files.name.polarisation
        found["border_note"][polarisation] = noisy if image.has_border_noise else None
        found["statistics_note"][polarisation] = image.contradiction
    notes = {key: "; ".join(f"{p}: {note}" for p, note in each.items() if note) for key, each in found.items()}
    return {key: note for key, note in notes.items() if note}
