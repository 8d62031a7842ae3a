"""Moments and histograms of the archived values, gathered per shard and merged exactly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.physics.imagette import DECIBELS, Quantity

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean, sum of squared deviations and range of valid values; an empty set has mean 0 and an empty range."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    minimum: float = float("inf")
    maximum: float = float("-inf")

    @classmethod
    def of(cls, values: NDArray[Any]) -> Moments:
        """Moments of the finite values of an array of any shape."""
        valid = np.asarray(values, dtype=np.float64).ravel()
        valid = valid[np.isfinite(valid)]
        if valid.size == 0:
            return cls()
        mean = float(valid.mean())
        deviation = valid - mean
        return cls(valid.size, mean, float(deviation @ deviation), float(valid.min()), float(valid.max()))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets together (Chan, Golub and LeVeque 1983, Am. Stat. 37, 242, eq. 2.1)."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * other.count / count,
            self.m2 + other.m2 + delta * delta * self.count * other.count / count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )

    @property
    def std(self) -> float:
        """Population standard deviation; 0 for an empty set."""
        return float(np.sqrt(self.m2 / self.count)) if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Bins:
    """Histogram bins of a quantity: ``count`` equal bins from ``low`` to ``high`` and one open bin at either end.

    Where ``logarithmic``, equal in log10, and everything at or below zero falls in the first open bin.
    """

    low: float
    high: float
    count: int
    logarithmic: bool = False

    def tally(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """int64 ``[count + 2]``: how many finite values fall in each bin; the upper edge belongs to the bin above."""
        valid = values[np.isfinite(values)].astype(np.float64)
        return np.bincount(self.index(valid), minlength=self.count + 2)

    def index(self, valid: NDArray[np.float64]) -> NDArray[np.int64]:
        """Which bin each finite value falls in: 0 and ``count + 1`` are the open ones."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high = np.log10(low), np.log10(high)
            valid = np.log10(np.maximum(valid, 1e-300))
        position = np.floor((valid - low) * (self.count / (high - low)))
        return np.asarray(np.clip(position, -1, self.count).astype(np.int64) + 1)

    def edges(self) -> NDArray[np.float64]:
        """float64 ``[count + 1]``: the edges of the closed bins."""
        if self.logarithmic:
            return np.geomspace(self.low, self.high, self.count + 1)
        return np.linspace(self.low, self.high, self.count + 1)


def bins_of(quantity: Quantity) -> Bins:
    """The bins in which values of a quantity are counted: 0.25 dB, one grey level, or 20 a decade."""
    if quantity in DECIBELS:
        return Bins(-45.0, 45.0, 360)
    if quantity is Quantity.QUICKLOOK:
        return Bins(-0.5, 255.5, 256)
    return Bins(1e-6, 1e6, 240, logarithmic=True)


@dataclass(frozen=True, slots=True)
class ChannelTally:
    """What is known of the values of one channel: moments, histogram, and how many pixels there were in all."""

    quantity: Quantity
    moments: Moments
    histogram: NDArray[np.int64]
    pixels: int

    @classmethod
    def empty(cls, quantity: Quantity) -> ChannelTally:
        """The tally of no pixels."""
        return cls(quantity, Moments(), np.zeros(bins_of(quantity).count + 2, dtype=np.int64), 0)

    @classmethod
    def of(cls, values: NDArray[np.float32], quantity: Quantity) -> ChannelTally:
        """The tally of an array of any shape; NaN counts as a pixel without a value."""
        return cls(quantity, Moments.of(values), bins_of(quantity).tally(values), values.size)

    @classmethod
    def of_counts(cls, values: NDArray[np.float32], counts: NDArray[np.int64], quantity: Quantity) -> ChannelTally:
        """The tally of ``values`` ``[K]`` that occur ``counts`` ``[K]`` times each: exact, and quick for codes."""
        pixels = int(counts.sum())
        seen = (counts > 0) & np.isfinite(values)
        x, n = values[seen].astype(np.float64), counts[seen]
        if x.size == 0:
            return replace(cls.empty(quantity), pixels=pixels)
        mean = float(x @ n / n.sum())
        moments = Moments(int(n.sum()), mean, float(np.square(x - mean) @ n), float(x.min()), float(x.max()))
        bins = bins_of(quantity)
        histogram = np.zeros(bins.count + 2, dtype=np.int64)
        np.add.at(histogram, bins.index(x), n)
        return cls(quantity, moments, histogram, pixels)

    def merge(self, other: ChannelTally) -> ChannelTally:
        """Both together."""
        return ChannelTally(
            self.quantity,
            self.moments.merge(other.moments),
            self.histogram + other.histogram,
            self.pixels + other.pixels,
        )

    def quantile(self, share: float) -> float:
        """The value below which a share (0..1) of the valid pixels lies, to one bin; NaN when there are none."""
        total = int(self.histogram.sum())
        if total == 0:
            return float("nan")
        # The open bins end at the extremes, and no edge lies beyond them.
        inner = bins_of(self.quantity).edges()
        edges = np.clip(
            np.array([self.moments.minimum, *inner, self.moments.maximum]), self.moments.minimum, self.moments.maximum
        )
        cumulative = np.concatenate([[0], np.cumsum(self.histogram)])
        return float(np.interp(share * total, cumulative, edges))

    def to_json(self) -> dict[str, Any]:
        """The sums as JSON; floats survive the round trip exactly."""
        m = self.moments
        extremes = {} if m.count == 0 else {"minimum": m.minimum, "maximum": m.maximum}
        filled = np.flatnonzero(self.histogram)
        return {
            "quantity": self.quantity.value,
            "pixels": self.pixels,
            "count": m.count,
            "mean": m.mean,
            "m2": m.m2,
            **extremes,
            "histogram": {str(i): int(self.histogram[i]) for i in filled},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ChannelTally:
        """The tally that `to_json` wrote."""
        quantity = Quantity(value["quantity"])
        histogram = np.zeros(bins_of(quantity).count + 2, dtype=np.int64)
        for index, count in value["histogram"].items():
            histogram[int(index)] = count
        extremes = (value["minimum"], value["maximum"]) if value["count"] else (float("inf"), float("-inf"))
        return cls(quantity, Moments(value["count"], value["mean"], value["m2"], *extremes), histogram, value["pixels"])

    def summary(self) -> dict[str, Any]:
        """Figures for people and programs: count, mean, std, range, quantiles, valid share."""
        m = self.moments
        known = m.count > 0
        return {
            "quantity": self.quantity.value,
            "count": m.count,
            "valid_fraction": m.count / self.pixels if self.pixels else 0.0,
            "mean": m.mean if known else None,
            "std": m.std if known else None,
            "minimum": m.minimum if known else None,
            "maximum": m.maximum if known else None,
            "quantiles": {f"{share:g}": self.quantile(share) for share in QUANTILES} if known else {},
        }


def merged(tallies: Iterable[ChannelTally], quantity: Quantity) -> ChannelTally:
    """All tallies of one channel together, in the order given."""
    total = ChannelTally.empty(quantity)
    for tally in tallies:
        total = total.merge(tally)
    return total
