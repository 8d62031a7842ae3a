"""Standardisation with the statistics of the training rows, shared by every probe."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def standardisation(features: NDArray[np.floating]) -> tuple[Array, Array]:
    """Mean and scale of each column of float ``[N, D]``: two float64 ``[D]``.

    The scale is the population standard deviation, or 1 where a column is constant to rounding (a dead unit of a
    random network must not be blown up into noise).
    """
    mean = features.mean(axis=0, dtype=np.float64)
    deviation = np.sqrt(np.square(features - mean).mean(axis=0, dtype=np.float64))
    rounding = 10 * np.finfo(features.dtype).eps * np.abs(mean)
    return mean, np.where(deviation > rounding, deviation, 1.0)
