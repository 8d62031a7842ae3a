"""Bilinear interpolation on grids given by their nodes, by matrices of weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def hat(positions: ArrayLike, nodes: Floats, *, clamp: bool) -> Floats:
    """Weights ``[k, n]`` of linear interpolation from ``n`` nodes to ``k`` positions: at most two a row, of sum 1.

    Parameters
    ----------
    positions : [k]
    nodes : float64 [n]
        Not decreasing. At a node that is there twice the later one counts.
    clamp : bool
        Beyond the nodes take the outermost value; otherwise the line through the outermost two.

    A field given on a grid ``G [n, m]`` has at points of a finer grid the values ``hat(l) @ G @ hat(p).T``.
    """
    x = np.asarray(positions, dtype=np.float64)
    out = np.zeros((len(x), len(nodes)))
    rows = np.arange(len(x))
    if len(nodes) == 1:
        out[:, 0] = 1.0
        return out
    if clamp:
        x = x.clip(nodes[0], nodes[-1])
    left = (np.searchsorted(nodes, x, side="right") - 1).clip(0, len(nodes) - 2)
    width = nodes[left + 1] - nodes[left]
    share = np.where(width > 0.0, (x - nodes[left]) / np.where(width > 0.0, width, 1.0), 1.0)
    out[rows, left] = 1.0 - share
    out[rows, left + 1] = share
    return out
