"""Multilook: the mean intensity over cells of ground, from pixels of any and uneven spacing.

What is averaged is intensity; means of complex values, of amplitude or of decibels are biased. Cells are weighted by
the area that each pixel has in them, so that the mean intensity of a scene is that of its imagette.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from groundswell.errors import DataError

Filter = Literal["box", "kaiser"]

KAISER_WIDTH = 2.5
"""Width of the antialias window, output cells."""
KAISER_BETA = math.pi * math.sqrt(KAISER_WIDTH**2 - 1.0)
"""Shape of the window: its response is first zero at one cycle a cell, the frequency that would alias to the mean."""
_BLOCK = 128  # lines at once: few enough that a block reaches little past the cells it fills


def ground_edges(incidence: NDArray[np.float64], slant_spacing_m: float) -> NDArray[np.float64]:
    """Ground range (m) ``[W + 1]`` of the edges of the pixels, from the near edge of the first.

    Parameters
    ----------
    incidence : float64 [W]
        Degrees at the centres of the pixels.
    slant_spacing_m : float
        Spacing of the pixels in slant range, m.

    Raises
    ------
    DataError
        When an incidence is not between 0 and 90 degrees or the spacing is not positive.

    Source: a pixel of slant spacing p covers p / sin(incidence) of flat ground.
    """
    if not (np.all(incidence > 0.0) and np.all(incidence < 90.0)) or not slant_spacing_m > 0.0:  # NaN fails too
        raise DataError(
            "slant range cannot be laid on the ground",
            why=f"incidence from {np.min(incidence):g} to {np.max(incidence):g} degrees, "
            f"slant spacing {slant_spacing_m:g} m",
        )
    return np.concatenate([[0.0], np.cumsum(slant_spacing_m / np.sin(np.deg2rad(incidence)))])


def weights(edges: NDArray[np.float64], spacing_m: float, filter: Filter = "box") -> Any:
    """How much (m) of each input cell counts in each output cell: a sparse float64 ``[m, n]`` whose rows sum to the
    spacing.

    Parameters
    ----------
    edges : float64 [n + 1]
        Edges of the input cells, m, increasing. The first output cell begins at the first edge.
    spacing_m : float
        Width of an output cell, m. The m whole cells are kept; what is left at the end is dropped.
    filter : "box" or "kaiser"
        ``box`` is the plain mean over the cell, whose response to a wave of spatial frequency f is
        sin(pi f s) / (pi f s). ``kaiser`` is a window `KAISER_WIDTH` cells wide, against aliasing of waves shorter
        than two cells, cut off at the ends of the image.

    Returns
    -------
    scipy.sparse.csr_array

    Raises
    ------
    DataError
        When the edges do not increase, or not one cell fits.
    """
    sound = spacing_m > 0.0 and bool(np.all(np.diff(edges) > 0.0))  # NaN fails too
    count = math.floor((edges[-1] - edges[0]) / spacing_m * (1 + 1e-12)) if sound else 0
    if count < 1:
        raise DataError(
            "no cell of the target spacing fits in the image",
            why=f"{len(edges) - 1} pixels over {edges[-1] - edges[0]:g} m, cells of {spacing_m:g} m",
            fix="ask for a finer spacing",
        )
    half = 0.5 * spacing_m * (1.0 if filter == "box" else KAISER_WIDTH)
    centres = edges[0] + spacing_m * (np.arange(count) + 0.5)
    first = np.searchsorted(edges, centres - half, side="right") - 1
    last = np.searchsorted(edges, centres + half, side="left")  # one past the last input cell
    first, last = first.clip(min=0), last.clip(max=len(edges) - 1)
    lengths = last - first
    starts = np.concatenate([[0], np.cumsum(lengths)])
    row = np.repeat(np.arange(count), lengths)
    column = np.arange(starts[-1]) - starts[row] + first[row]
    below, above = ((edges[column + side] - centres[row]) / half for side in (0, 1))
    kernel = _box if filter == "box" else _kaiser
    values = kernel(above) - kernel(below)
    values *= (spacing_m / np.add.reduceat(values, starts[:-1]))[row]
    return scipy.sparse.csr_array((values, column, starts), shape=(count, len(edges) - 1))


def _box(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """The integral of the box from -1 to ``u`` (half-widths from the centre)."""
    return np.clip(u, -1.0, 1.0)


def _kaiser(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """The integral of the Kaiser window from -1 to ``u`` (half-widths from the centre), by its trapezia."""
    steps = np.linspace(-1.0, 1.0, 2001)
    window = np.i0(KAISER_BETA * np.sqrt(1.0 - steps**2))
    integral = np.concatenate([[0.0], np.cumsum(0.5 * (window[1:] + window[:-1]))])
    return np.asarray(np.interp(u, steps, integral))


class Multilook:
    """The mean intensity in each output cell, of lines that arrive in blocks, in any order, each line once.

    Parameters
    ----------
    rows : sparse [m_y, n_y]
        Weight of each input line in each output row, as of `weights`.
    columns : sparse [m_x, n_x]
        Weight of each input sample in each output column.

    The mean is sum(w_y w_x v I) / sum(w_y w_x v), with v 1 where a pixel is valid and 0 where it is not: what a pixel
    that is not valid holds (NaN too) has no part in it.
    """

    def __init__(self, rows: Any, columns: Any) -> None:
        self._lines = scipy.sparse.csc_array(rows, dtype=np.float32)
        self._columns = scipy.sparse.csr_array(columns, dtype=np.float32)
        self._whole = np.asarray(columns.sum(axis=1), dtype=np.float64)
        self._area = np.outer(np.asarray(rows.sum(axis=1), dtype=np.float64), self._whole)
        self._sum = np.zeros(self._area.shape)
        self._valid = np.zeros(self._area.shape)

    def add(self, first_line: int, intensity: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Take in the lines from ``first_line`` on: intensity ``[k, W]`` of any linear quantity, and what is valid.

        Raises
        ------
        DataError
            When the block is not as wide as the image or reaches past its last line.
        """
        count, width = intensity.shape
        lines, samples = self._lines.shape[1], self._columns.shape[1]
        if width != samples or valid.shape != intensity.shape or first_line < 0 or first_line + count > lines:
            raise DataError(
                "a block of lines does not fit the image",
                why=f"lines {first_line} to {first_line + count} of {lines}, {width} samples of {samples}",
            )
        for start in range(0, count, _BLOCK):
            self._add(first_line + start, intensity[start : start + _BLOCK], valid[start : start + _BLOCK])

    def _add(self, first_line: int, intensity: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        part = self._lines[:, first_line : first_line + len(intensity)]
        if not part.nnz:  # past the last whole cell
            return
        low, high = int(part.indices.min()), int(part.indices.max()) + 1
        dense = part[low:high].toarray()  # a few rows: the dense product is several times faster than the sparse one
        if valid.all():
            self._valid[low:high] += np.outer(dense.sum(axis=1, dtype=np.float64), self._whole)
        else:
            intensity = np.where(valid, intensity, np.float32(0.0))
            self._valid[low:high] += self._along_range(dense @ valid.astype(np.float32))
        self._sum[low:high] += self._along_range(dense @ intensity)

    def _along_range(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray((self._columns @ np.ascontiguousarray(rows.T)).T)

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The mean intensity and the valid fraction of the area, both ``[m_y, m_x]``; NaN mean where nothing is
        valid."""
        # Sums in float32 of an area with nothing valid are exactly 0; of one with a sliver, never.
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(self._valid > 0.0, self._sum / self._valid, np.nan)
        return mean.astype(np.float32), (self._valid / self._area).clip(0.0, 1.0).astype(np.float32)
