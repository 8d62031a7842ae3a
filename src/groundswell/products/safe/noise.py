"""Thermal noise eta(line, pixel) in units of DN^2, and whether it may be subtracted.

From IPF 2.90 on, eta is a range vector times an azimuth vector that holds inside its box; before, one vector alone.
Source: Sentinel-1 thermal denoising of products (ESA, MPC-0392); wave-mode fault of IPF 2.90 and 2.91: MPCS-2007.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundswell.products.interpolation import Floats
from groundswell.products.safe.calibration import Lut, Rows, read_lut
from groundswell.products.safe.xml import Document

NESZ_GATE_DB = (-35.0, -17.0)
"""Noise-equivalent sigma0 of a sound noise table; one outside is not subtracted."""
WAVE_MODE_EXCESS_DB = {("S1A", "WV1"): 38.13, ("S1A", "WV2"): 36.84, ("S1B", "WV1"): 39.30, ("S1B", "WV2"): 37.44}
"""How much too high IPF 2.90 and 2.91 wrote the noise of wave mode, by satellite and beam, for HH and VV."""
_FAULTY_IPF = ((2, 90), (2, 91))

Eta = TypeVar("Eta", NDArray[np.float32], NDArray[np.float64])


def parse_ipf(version: str | None) -> tuple[int, int] | None:
    """(major, minor) of an IPF version such as ``003.31``; None when it is unknown or not of that form."""
    match = re.fullmatch(r"0*(\d{1,3})\.(\d{1,2})", version or "", re.ASCII)
    return None if match is None else (int(match[1]), int(match[2].ljust(2, "0")))


@dataclass(frozen=True)
class AzimuthBox:
    """Azimuth noise: factors at lines, for the lines and samples of a box (edges inclusive)."""

    first_line: int
    last_line: int
    first_sample: int
    last_sample: int
    lines: Floats
    values: Floats

    def at(self, lines: Floats) -> Floats:
        """Factors ``[k]`` at lines inside the box."""
        return np.asarray(np.interp(lines, self.lines, self.values))


@dataclass(frozen=True)
class Noise:
    """The noise of one polarisation of one image."""

    range_noise: Lut
    boxes: tuple[AzimuthBox, ...]

    def rows(self, pixels: ArrayLike) -> NoiseRows:
        """The noise at ``pixels [w]``, ready for blocks of lines."""
        at = np.asarray(pixels, dtype=np.float64)
        return NoiseRows(self.range_noise.rows(at), at, self.boxes)

    def at(self, lines: ArrayLike, pixels: ArrayLike) -> Floats:
        """eta float64 ``[k, w]`` at lines ``[k]`` and pixels ``[w]``; beyond the range vectors the nearest one."""
        return self.rows(pixels).at(np.asarray(lines, dtype=np.float64))


@dataclass(frozen=True)
class NoiseRows:
    """Noise at the pixels of an image."""

    range_noise: Rows
    pixels: Floats
    boxes: tuple[AzimuthBox, ...]

    def at(self, lines: Floats) -> Floats:
        """eta float64 ``[k, w]`` at lines ``[k]``."""
        return self._with_azimuth(self.range_noise.at(lines), lines)

    def block(self, first: int, last: int) -> NDArray[np.float32]:
        """eta float32 ``[last - first, w]`` of whole lines."""
        eta = self.range_noise.block(first, last)
        return self._with_azimuth(eta, np.arange(first, last, dtype=np.float64))

    def _with_azimuth(self, eta: Eta, lines: Floats) -> Eta:
        for box in self.boxes:
            inside = np.flatnonzero((lines >= box.first_line - 0.5) & (lines < box.last_line + 0.5))
            columns = np.flatnonzero((self.pixels >= box.first_sample - 0.5) & (self.pixels < box.last_sample + 0.5))
            if inside.size and columns.size:
                part = np.s_[inside[0] : inside[-1] + 1, columns[0] : columns[-1] + 1]
                eta[part] *= box.at(lines[part[0]]).astype(eta.dtype)[:, None]
        return eta


def read_noise(document: Document) -> Noise:
    """The noise of a file of either schema.

    Raises
    ------
    ProductError
        When vectors are absent, incomplete, negative, not finite, or boxes overlap.
    """
    vectors = document.items("noiseRangeVectorList/noiseRangeVector")
    if vectors:
        table = read_lut(document, vectors, "noiseRangeLut", positive=False)
        document.one("noiseAzimuthVectorList")  # empty where there is none, but never absent
    else:
        table = read_lut(document, document.items("noiseVectorList/noiseVector"), "noiseLut", positive=False)
    boxes = tuple(_box(document, v) for v in document.items("noiseAzimuthVectorList/noiseAzimuthVector"))
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart = one.first_line > other.last_line or other.first_line > one.last_line
            if not apart and one.first_sample <= other.last_sample and other.first_sample <= one.last_sample:
                raise document.error("boxes of azimuth noise overlap", f"lines {one.first_line} to {one.last_line}")
    return Noise(table, boxes)


def _box(document: Document, vector: Document) -> AzimuthBox:
    corners = ("firstAzimuthLine", "lastAzimuthLine", "firstRangeSample", "lastRangeSample")
    if not any(vector.all(name) for name in corners):  # as for modes with one box, the whole image
        top, bottom, left, right = -(10**7), 10**7, -(10**7), 10**7
    else:
        top, bottom, left, right = (vector.integer(name, -(10**7), 10**7) for name in corners)
    lines, values = vector.floats("line"), vector.floats("noiseAzimuthLut")
    sound = bool(np.all((values > 1e-3) & (values < 1e3)))  # real factors are 0.5 to 2
    if not sound or len(lines) != len(values) or np.any(np.diff(lines) < 0) or top > bottom or left > right:
        why = f"{len(lines)} lines and {len(values)} values in the box from line {top}, sample {left}"
        raise document.error("a vector of azimuth noise is damaged", why)
    return AzimuthBox(top, bottom, left, right, lines, values)


def mended(noise: Noise, ipf: tuple[int, int] | None, mission: str, beam: str) -> tuple[Noise, str | None]:
    """The noise without the wave-mode fault of IPF 2.90 and 2.91, and a note where it was mended."""
    excess = WAVE_MODE_EXCESS_DB.get((mission, beam)) if ipf in _FAULTY_IPF else None
    if excess is None:
        return noise, None
    note = f"noise of {mission} {beam} lowered by {excess} dB: IPF 2.90 and 2.91 wrote it too high (MPCS-2007)"
    return Noise(noise.range_noise.scaled(10.0 ** (-excess / 10.0)), noise.boxes), note


def reason_to_keep(noise: Noise, nesz: Floats, *, mode: str, kind: str) -> str | None:
    """Why noise must not be subtracted from an image, or None where it may.

    Parameters
    ----------
    nesz : float64 [...]
        Samples of the noise-equivalent sigma0 over the image, linear.
    """
    level = float(np.median(nesz))
    level_db = 10.0 * np.log10(level) if level > 0.0 else -np.inf
    low, high = NESZ_GATE_DB
    if not low <= level_db <= high:
        return f"the noise table is implausible: NESZ {level_db:.1f} dB, outside {low:g} to {high:g}"
    if kind == "GRD" and mode in ("IW", "EW") and not noise.boxes:
        return f"{mode} products from before IPF 2.90 have no noise along azimuth"
    return None
