"""Look-up tables of calibration: A(line, pixel), bilinear, clamped at the edges of their grid.

sigma0 = |DN|^2 / A^2 with A of ``sigmaNought`` (beta0, gamma0 likewise); the absolute calibration constant is already
inside. Source: Sentinel-1 Level-1 Product Specification and Detailed Algorithm Definition, section on calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from groundswell.products.interpolation import Floats, hat
from groundswell.products.safe.xml import Document

LUTS = {"sigma0": "sigmaNought", "beta0": "betaNought", "gamma0": "gamma", "dn": "dn"}
"""The element that holds the table of each quantity."""
_FARTHEST = 10**7  # lines or pixels: no image is as large
_LARGEST = 1e9
"""Of a table: real calibration is 50 to 2000, real noise up to 1e7; squares stay within float32."""


@dataclass(frozen=True)
class Lut:
    """Vectors of values along range, one at each of several lines.

    Attributes
    ----------
    lines : float64 [n]
        Line of each vector, not decreasing; the first may lie before the image, the last before its end.
    pixels, values : n arrays float64 [k_i]
        Pixels (increasing) and values of each vector. Lengths may differ from vector to vector.
    """

    lines: Floats
    pixels: tuple[Floats, ...]
    values: tuple[Floats, ...]

    def rows(self, pixels: ArrayLike) -> Rows:
        """The vectors at ``pixels [w]``: each interpolated on its own pixels first, which ragged vectors need."""
        at = np.asarray(pixels, dtype=np.float64)
        table = [np.interp(at, p, v) for p, v in zip(self.pixels, self.values, strict=True)]
        return Rows(self.lines, np.stack(table))

    def at(self, lines: ArrayLike, pixels: ArrayLike) -> Floats:
        """Values float64 ``[k, w]`` at lines ``[k]`` and pixels ``[w]``."""
        return self.rows(pixels).at(lines)

    def scaled(self, factor: float) -> Lut:
        """The same table times ``factor``."""
        return Lut(self.lines, self.pixels, tuple(values * factor for values in self.values))


@dataclass(frozen=True)
class Rows:
    """A table whose vectors are already at the pixels of an image: values float64 ``[n, w]`` at lines ``[n]``."""

    lines: Floats
    values: Floats

    @cached_property
    def _single(self) -> NDArray[np.float32]:
        return self.values.astype(np.float32)

    def at(self, lines: ArrayLike) -> Floats:
        """Values float64 ``[k, w]`` at lines ``[k]``."""
        return hat(lines, self.lines, clamp=True) @ self.values

    def block(self, first: int, last: int) -> NDArray[np.float32]:
        """Values float32 ``[last - first, w]`` of whole lines: what `at` gives, in the precision of pixels."""
        weights = hat(np.arange(first, last), self.lines, clamp=True)
        used = np.flatnonzero(weights.any(axis=0))
        part = slice(used[0], used[-1] + 1)
        return weights[:, part].astype(np.float32) @ self._single[part]


@dataclass(frozen=True)
class Calibration:
    """The calibration tables of one polarisation of one image; each is read when it is first asked for."""

    document: Document

    def lut(self, quantity: str) -> Lut:
        """The table of ``sigma0``, ``beta0``, ``gamma0`` or ``dn``.

        Raises
        ------
        ProductError
            When it is absent or incomplete, or holds values that are not positive finite numbers.
        """
        vectors = self.document.items("calibrationVectorList/calibrationVector")
        return read_lut(self.document, vectors, LUTS[quantity], positive=True)

    @property
    def constant(self) -> float:
        """The absolute calibration constant, already inside the tables: for the record only."""
        return self.document.number("calibrationInformation/absoluteCalibrationConstant")


def read_lut(document: Document, vectors: Sequence[Document], element: str, *, positive: bool) -> Lut:
    """The table in ``element`` of ``vectors``, each with its ``line`` and its ``pixel`` list.

    Raises
    ------
    ProductError
        When there is no vector, lines decrease, pixels do not increase, lengths differ or values are not positive
        (with ``positive``) or negative.
    """
    if not vectors:
        raise document.error(f"there is no vector of <{element}>", "the list of vectors is empty or missing")
    lines = np.array([vector.integer("line", -_FARTHEST, _FARTHEST) for vector in vectors], dtype=np.float64)
    if np.any(np.diff(lines) < 0):
        raise document.error(f"the vectors of <{element}> are not in the order of lines", f"lines {_brief(lines)}")
    pixels, values = [], []
    for line, vector in zip(lines, vectors, strict=True):
        at, table = vector.floats("pixel"), vector.floats(element)
        if len(at) != len(table):
            why = f"{len(at)} pixels, {len(table)} values in the vector of line {line:.0f}"
            raise document.error(f"a vector of <{element}> does not fit its pixels", why)
        if np.any(np.diff(at) <= 0):
            raise document.error(f"the pixels of <{element}> do not increase", f"vector of line {line:.0f}")
        if np.any(table <= 0 if positive else table < 0):
            sign = "positive" if positive else "zero or more"
            raise document.error(f"<{element}> holds values that are not {sign}", f"vector of line {line:.0f}")
        if np.any(table > _LARGEST) or (positive and np.any(table < 1.0 / _LARGEST)):
            why = f"from {table.min():g} to {table.max():g} in the vector of line {line:.0f}"
            raise document.error(f"<{element}> holds values beyond all reason", why)
        pixels.append(at)
        values.append(table)
    return Lut(lines, tuple(pixels), tuple(values))


def _brief(values: NDArray[Any]) -> str:
    return ", ".join(f"{value:.0f}" for value in values[:6]) + (" ..." if len(values) > 6 else "")
