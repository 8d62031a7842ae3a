"""One image as an ocean scientist looks at it: what is measured in it (here), and its picture (`inspector_figure`)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from groundswell import progress
from groundswell.archive.reader import open_archive
from groundswell.encoder.pixels import incidence_of
from groundswell.encoder.provenance import attribution, describe
from groundswell.errors import QuantityError, UsageError, did_you_mean
from groundswell.physics.gmf import invert_cmod5n
from groundswell.physics.imagette import Metadata, Quantity
from groundswell.physics.quantities import REFERENCE_PHI_DEG, convert
from groundswell.physics.spectrum import Cutoff, Spectrum, azimuth_cutoff, modulation, spectrum

if TYPE_CHECKING:
    from groundswell.products.safe.scene import Scene
    from groundswell.products.safe.sentinel1 import Product

_CALIBRATED = (Quantity.SIGMA0, Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB)
_ROWS = 512  # of cells read at a time: a wave-mode imagette at once, a scene with a progress bar
_MANY = 20_000  # ids to look through for one like a mistyped one


@dataclass(frozen=True, slots=True)
class View:
    """One channel of one image.

    Attributes
    ----------
    pixels : float32 [H, W]
        Rows in the order of flight, columns from near to far range; NaN where there is nothing.
    channel : str
    quantity : Quantity
    spacing_m : (azimuth, range)
    incidence_deg : float64 [W] or None
    metadata : Metadata
    notice : str or None
        What the licence of the data asks to be said.
    """

    pixels: NDArray[np.float32]
    channel: str
    quantity: Quantity
    spacing_m: tuple[float, float]
    incidence_deg: NDArray[np.float64] | None
    metadata: Metadata
    notice: str | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is measured in a view.

    Attributes
    ----------
    shown : float64 [H, W]
        What the picture shows; ``unit`` says of it what it is.
    spectrum : Spectrum
    cutoff : Cutoff
    facts : dict
        Numbers by name, those that could be known.
    """

    view: View
    shown: NDArray[np.float64]
    unit: str
    spectrum: Spectrum
    cutoff: Cutoff
    facts: dict[str, float]


def view_of(
    path: str | Path, item: str | None = None, channel: str | None = None, spacing_m: float | None = None
) -> View:
    """An image of an archive (``item`` is its id) or of a product (image number or swath).

    Parameters
    ----------
    path : path
        An archive, or a SAFE folder, zip or tar.
    item, channel : str, optional
        May be left out where there is one; the first channel by default.
    spacing_m : float, optional
        Ground cell of a product (50 m by default), or what an archive does not say of its pixels.

    Raises
    ------
    UsageError
        When there is no such item or channel, or the spacing of the pixels is not known.
    """
    if (Path(path) / "archive.json").is_file():
        return _of_archive(Path(path), item, channel, spacing_m)
    from groundswell.products.safe.sentinel1 import open_product

    return _of_product(open_product(path), item, channel, spacing_m or 50.0)


def _of_archive(path: Path, item: str | None, channel: str | None, spacing_m: float | None) -> View:
    archive = open_archive(path)
    id_ = _chosen(item, archive.catalogue["id"].head(_MANY).tolist(), "imagette", path)
    rows = np.flatnonzero(archive.catalogue["id"] == id_)
    if not len(rows):
        raise UsageError(
            f"the archive has no imagette {id_!r}",
            where=path,
            fix=did_you_mean(id_, archive.catalogue["id"].head(_MANY)),
        )
    frame = archive.catalogue.iloc[rows[:1]]
    row: dict[str, Any] = {
        str(name): None if value is None or value is pd.NaT or value != value else value
        for name, value in frame.iloc[0].items()
    }
    known: dict[str, Any] = {f.name: row.get(f.name) for f in fields(Metadata)}
    metadata = Metadata(**known)
    names = [c.name for c in archive.channels]
    position = names.index(_chosen(channel or names[0], names, "channel", path))
    along, across = (
        known[f"{axis}_spacing_m"] or spacing_m or archive.schema.spacing_m for axis in ("azimuth", "range")
    )
    if not along or not across:
        raise UsageError("the spacing of the pixels is not known", where=path, fix="give it: --spacing METRES")
    try:
        incidence = incidence_of(frame, archive.width)[0]
    except QuantityError:
        incidence = None
    chosen = archive.where(f"id == {id_!r}")
    notice = attribution([describe(chosen)])
    if str(id_).startswith("sim-"):
        notice = "Simulated: no real image."
    return View(
        archive.read(rows[:1])[0, position],
        names[position],
        archive.channels[position].quantity,
        (float(along), float(across)),
        incidence,
        metadata,
        notice,
    )


def _of_product(product: Product, item: str | None, channel: str | None, spacing_m: float) -> View:
    keys = {str(key): key for key in product}
    text = _chosen(None if item is None else item.lower().lstrip("0"), list(keys), "image", product.path)
    scene = product[keys.get(text, text)]
    name = _chosen(channel or scene.polarisations[0], list(scene.polarisations), "channel", product.path)
    sigma0, nesz, incidence = _read(scene, name, spacing_m)
    facts: dict[str, Any] = {f.name: getattr(scene.metadata, f.name) for f in fields(Metadata)}
    facts["nesz_db"] = 10.0 * np.log10(nesz) if nesz > 0 else None
    return View(
        sigma0,
        name,
        Quantity.SIGMA0,
        (spacing_m, spacing_m),
        incidence,
        Metadata(**facts),
        f"{scene.source}.",
    )


def _read(scene: Scene, polarisation: str, spacing_m: float) -> tuple[NDArray[np.float32], float, NDArray[np.float64]]:
    """sigma0 ``[H, W]``, its mean NESZ (linear) and the incidence of each column in degrees, some rows at a time."""
    from groundswell.products.safe.tiles import cell_counts, read_cells

    height, width = cell_counts(scene, spacing_m)
    sigma0 = np.empty((height, width), dtype=np.float32)
    noise, known, incidence = 0.0, 0, np.zeros(width)
    with progress.bar("read", total=height, unit="rows") as bar:
        for first in range(0, height, _ROWS):
            rows = (first, min(_ROWS, height - first))
            cells = read_cells(scene, [polarisation], spacing_m, "sigma0", denoise=True, filter="box", rows=rows)
            sigma0[first : first + rows[1]] = cells.values[0]
            noise += float(np.nansum(cells.nesz, dtype=np.float64))
            known += int(np.isfinite(cells.nesz).sum())
            incidence += cells.incidence.sum(axis=0, dtype=np.float64) / height
            bar.advance(rows[1])
    return sigma0, noise / known if known else np.nan, incidence


def _chosen(given: str | None, known: list[str], what: str, path: object) -> str:
    if given is None:
        if len(known) != 1:
            shown = ", ".join(known[:8]) + (" ..." if len(known) > 8 else "")
            raise UsageError(f"there are {len(known)} {what}s: name one", where=path, fix=f"one of {shown}")
        return known[0]
    if given not in known and (what != "imagette" or len(known) < _MANY):
        raise UsageError(f"there is no {what} {given!r}", where=path, fix=did_you_mean(given, known))
    return given


def inspect(view: View) -> Inspection:
    """Measure what the picture shows: the level in decibels, the spectrum of modulation, the azimuth cut-off.

    The spectrum of a quick-look has the right shape and not the right level, since the zero of its stretch is lost.

    Raises
    ------
    QuantityError
        When roughness is to become sigma0 and the incidence is not known.
    DataError
        When no pixel is valid.
    """
    pixels = view.pixels[None]
    incidence = None if view.incidence_deg is None else view.incidence_deg[None]
    facts: dict[str, float] = {}
    if view.quantity in _CALIBRATED:
        intensity = convert(pixels, view.quantity, Quantity.SIGMA0, incidence)[0].astype(np.float64)
        shown = convert(pixels, view.quantity, Quantity.SIGMA0_DB, incidence)[0].astype(np.float64)
        unit = "sigma0, dB"
        mean = float(np.nanmean(intensity)) if np.isfinite(intensity).any() else np.nan
        if mean > 0:
            facts["sigma0_db"] = float(10 * np.log10(mean))
            if view.incidence_deg is not None and view.channel.upper() == "VV":
                centre = float(view.incidence_deg.mean())
                facts["wind_at_45_deg"] = float(invert_cmod5n(mean, REFERENCE_PHI_DEG, centre))
    elif view.quantity is Quantity.AMPLITUDE:
        intensity = pixels[0].astype(np.float64) ** 2
        shown = 10.0 * np.log10(np.maximum(intensity, np.finfo(np.float64).tiny))
        unit = "amplitude squared, dB, not calibrated"
    else:
        intensity = shown = pixels[0].astype(np.float64)
        unit = "quick-look, level lost" if view.quantity is Quantity.QUICKLOOK else str(view.quantity.value)
    field = modulation(intensity, view.spacing_m)
    found, cutoff = spectrum(field, view.spacing_m), azimuth_cutoff(field, view.spacing_m[0])
    facts["normalised_variance"] = float(np.nanvar(field))
    facts["peak_wavelength_m"], facts["peak_angle_deg"] = found.peak()
    if cutoff.wavelength_m is not None:
        facts["azimuth_cutoff_m"] = cutoff.wavelength_m
    facts["valid_fraction"] = float(np.isfinite(view.pixels).mean())
    if view.metadata.nesz_db is not None:
        facts["nesz_db"] = float(view.metadata.nesz_db)
    return Inspection(view, shown, unit, found, cutoff, facts)
