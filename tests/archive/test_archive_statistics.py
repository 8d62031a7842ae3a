"""Merged moments equal those of numpy on everything at once; histograms and quantiles to one bin."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from groundswell.archive.statistics import Bins, ChannelTally, Moments, bins_of, merged
from groundswell.physics.imagette import Quantity

VALUES = hnp.arrays(np.float32, st.integers(0, 30), elements=st.floats(-100, 100, width=32) | st.just(np.nan))


@given(st.lists(VALUES, max_size=5))
def test_merged_moments_are_those_of_all_values(parts: list[np.ndarray]) -> None:
    total = Moments()
    for part in parts:
        total = total.merge(Moments.of(part))
    everything = np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float64)
    everything = everything[~np.isnan(everything)]
    assert total.count == everything.size
    if everything.size:
        # 150 values of up to 100: sums round to below 150 * 100 * 2^-53 = 2e-12, squares to 100 times that.
        assert total.mean == pytest.approx(everything.mean(), abs=1e-11)
        assert total.m2 == pytest.approx(np.square(everything - everything.mean()).sum(), rel=1e-9, abs=1e-9)
        assert (total.minimum, total.maximum) == (everything.min(), everything.max())
        assert total.std == pytest.approx(everything.std(), rel=1e-9, abs=1e-6)


def test_variance_survives_a_large_offset() -> None:
    # The textbook sum of squares loses everything here (1e9^2 * 2^-53 = 111); the parallel update does not.
    x = 1e9 + np.random.default_rng(0).normal(size=10_000)
    total = Moments.of(x[:3000]).merge(Moments.of(x[3000:]))
    assert total.std == pytest.approx(x.std(), rel=1e-9)


@given(VALUES.filter(lambda v: v.size > 0), st.sampled_from(list(Quantity)))
def test_histogram_counts_as_numpy_does(values: np.ndarray, quantity: Quantity) -> None:
    bins = bins_of(quantity)
    valid = values[~np.isnan(values)].astype(np.float64)
    edges = bins.edges()
    # A value within rounding of an edge may fall on either side of it.
    near = np.abs(valid[:, None] - edges[None]) <= 1e-9 * np.maximum(np.abs(edges), np.diff(edges).min())
    valid = valid[~near.any(axis=1)]
    expected = [(valid < edges[0]).sum(), *np.histogram(valid, edges)[0], (valid > edges[-1]).sum()]
    assert bins.tally(valid).tolist() == expected


@pytest.mark.parametrize("quantity", [Quantity.SIGMA0_DB, Quantity.SIGMA0, Quantity.QUICKLOOK])
def test_quantiles_to_one_bin(quantity: Quantity) -> None:
    sigma0 = np.random.default_rng(1).gamma(4.0, 0.02, 20_000)
    values = {"sigma0": sigma0, "sigma0_db": 10 * np.log10(sigma0), "quicklook": np.clip(sigma0 * 1000, 0, 255)}[
        quantity
    ]
    tally = merged((ChannelTally.of(part.astype(np.float32), quantity) for part in np.split(values, 4)), quantity)
    for share in (0.01, 0.25, 0.5, 0.99):
        exact = np.quantile(values, share)
        bin_width = {"sigma0": exact * (10**0.05 - 1), "sigma0_db": 0.25, "quicklook": 1.0}[quantity]
        assert tally.quantile(share) == pytest.approx(exact, abs=bin_width)
    assert tally.quantile(0.0) == pytest.approx(values.min(), rel=1e-6)
    assert tally.quantile(1.0) == pytest.approx(values.max(), rel=1e-6)


@given(VALUES, st.sampled_from(list(Quantity)))
def test_tally_survives_json(values: np.ndarray, quantity: Quantity) -> None:
    tally = ChannelTally.of(values, quantity)
    back = ChannelTally.from_json(json.loads(json.dumps(tally.to_json(), allow_nan=False)))
    assert back.moments == tally.moments
    assert back.pixels == tally.pixels == values.size
    np.testing.assert_array_equal(back.histogram, tally.histogram)
    json.dumps(tally.summary(), allow_nan=False)


def test_what_lies_outside_falls_in_the_open_bins() -> None:
    assert Bins(0.0, 10.0, 5).tally(np.array([-1.0, 0.0, 9.9, 10.0, 50.0, np.nan, np.inf])).tolist() == [
        1,
        1,
        0,
        0,
        0,
        1,
        2,
    ]
    logarithmic = Bins(0.1, 10.0, 2, logarithmic=True)
    assert logarithmic.tally(np.array([-5.0, 0.0, 0.5, 5.0, 20.0])).tolist() == [2, 1, 1, 1]


@given(hnp.arrays(np.int64, 12, elements=st.integers(0, 1000)), st.sampled_from(list(Quantity)))
def test_counted_values_tally_as_the_values_themselves(counts: np.ndarray, quantity: Quantity) -> None:
    values = np.linspace(-30, 25, 12, dtype=np.float32)
    values[3] = np.nan
    counted, plain = (
        ChannelTally.of_counts(values, counts, quantity),
        ChannelTally.of(np.repeat(values, counts), quantity),
    )
    np.testing.assert_array_equal(counted.histogram, plain.histogram)
    assert (counted.pixels, counted.moments.count) == (plain.pixels, plain.moments.count)
    assert (counted.moments.minimum, counted.moments.maximum) == (plain.moments.minimum, plain.moments.maximum)
    # Sums of up to 12,000 values of up to 30: 12,000 * 30 * 2^-53 = 4e-11.
    assert counted.moments.mean == pytest.approx(plain.moments.mean, abs=1e-10)
    assert counted.moments.m2 == pytest.approx(plain.moments.m2, rel=1e-9, abs=1e-8)
