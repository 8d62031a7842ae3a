"""Look-up tables and noise: bilinear against scipy, clamped, ragged, boxes, and the gates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator

from groundswell.products.interpolation import hat
from groundswell.products.safe.calibration import Lut
from groundswell.products.safe.noise import AzimuthBox, Noise, mended, parse_ipf, reason_to_keep


def lut(seed: int = 0) -> Lut:
    rng = np.random.default_rng(seed)
    lines, pixels = np.array([-100.0, 40.0, 300.0]), np.array([0.0, 40.0, 80.0, 97.0])
    return Lut(lines, (pixels,) * 3, tuple(rng.uniform(300, 400, (3, 4))))


@settings(max_examples=50)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8, unique=True),
    st.lists(st.floats(-2e3, 2e3), min_size=1, max_size=10),
)
def test_hat_is_linear_interpolation(nodes: list[float], positions: list[float]) -> None:
    at = np.sort(nodes)
    weights = hat(positions, at, clamp=True)
    values = np.sin(at)
    np.testing.assert_allclose(weights @ values, np.interp(positions, at, values), atol=1e-9)
    np.testing.assert_allclose(weights.sum(1), 1.0)
    assert ((weights != 0).sum(1) <= 2).all()


def test_hat_goes_on_in_a_line_where_it_is_not_clamped() -> None:
    np.testing.assert_allclose(
        hat([-3.0, 0.5, 14.0], np.array([0.0, 1.0, 10.0]), clamp=False) @ [5.0, 7.0, 25.0], [-1, 6, 33]
    )


def test_a_node_that_is_there_twice_is_a_step() -> None:
    weights = hat([4.0, 5.0, 6.0, 10.0], np.array([0.0, 5.0, 5.0, 10.0]), clamp=True)
    np.testing.assert_allclose(weights @ [0.0, 1.0, 3.0, 4.0], [0.8, 3.0, 3.2, 4.0])


def test_bilinear_inside_clamped_outside() -> None:
    table = lut()
    lines, pixels = np.arange(-150, 420, 7), np.arange(0, 120)
    reference = RegularGridInterpolator((table.lines, table.pixels[0]), np.stack(table.values))
    y, x = np.meshgrid(lines.clip(-100, 300), pixels.clip(0, 97), indexing="ij")
    np.testing.assert_allclose(table.at(lines, pixels), reference((y, x)), rtol=1e-12)


def test_blocks_are_the_table_in_single_precision() -> None:
    table, pixels = lut(), np.arange(100)
    rows = table.rows(pixels)
    for first, last in ((0, 10), (30, 50), (250, 340), (500, 501)):
        block = rows.block(first, last)
        assert block.dtype == np.float32
        np.testing.assert_allclose(block, table.at(np.arange(first, last), pixels), rtol=2e-7)


def test_ragged_vectors_are_interpolated_along_range_first() -> None:
    table = Lut(
        np.array([0.0, 10.0]),
        (np.array([0.0, 100.0]), np.array([0.0, 50.0, 60.0, 100.0])),
        (np.array([1.0, 3.0]), np.array([10.0, 20.0, 40.0, 50.0])),
    )
    found = table.at([0, 5, 10], [25, 55, 100])
    np.testing.assert_allclose(found, [[1.5, 2.1, 3.0], [8.25, 16.05, 26.5], [15.0, 30.0, 50.0]])


def flat(level: float, *boxes: AzimuthBox) -> Noise:
    pixels = np.array([0.0, 99.0])
    return Noise(Lut(np.array([0.0]), (pixels,), (np.full(2, level),)), boxes)


def test_azimuth_noise_holds_inside_its_box_alone() -> None:
    box = AzimuthBox(10, 19, 20, 39, np.array([10.0, 15.0]), np.array([2.0, 3.0]))
    wanted = np.full((30, 100), 5.0)
    wanted[10:20, 20:40] *= np.interp(np.arange(10, 20), [10, 15], [2, 3])[:, None]
    np.testing.assert_allclose(flat(5.0, box).at(np.arange(30), np.arange(100)), wanted)
    rows = flat(5.0, box).rows(np.arange(30, 60))  # a window, in blocks
    blocks = np.concatenate([rows.block(first, first + 6) for first in range(0, 30, 6)])
    np.testing.assert_allclose(blocks, wanted[:, 30:60], rtol=1e-6)
    np.testing.assert_allclose(flat(5.0, box).at([9.4, 9.6, 19.4, 19.6], [30]).ravel(), [5.0, 10.0, 15.0, 5.0])


@pytest.mark.parametrize(
    ("version", "parsed"),
    [
        ("003.31", (3, 31)),
        ("002.90", (2, 90)),
        ("2.9", (2, 90)),
        ("4.0", (4, 0)),
        ("", None),
        (None, None),
        ("v3", None),
    ],
)
def test_versions(version: str | None, parsed: tuple[int, int] | None) -> None:
    assert parse_ipf(version) == parsed


@pytest.mark.parametrize(("mission", "beam", "db"), [("S1A", "WV1", 38.13), ("S1B", "WV2", 37.44)])
def test_the_fault_of_two_versions_is_mended_for_wave_mode_alone(mission: str, beam: str, db: float) -> None:
    for version, swath, factor in (
        ((2, 90), beam, 10 ** (-db / 10)),
        ((2, 91), beam, 10 ** (-db / 10)),
        ((2, 92), beam, 1.0),
        ((2, 84), beam, 1.0),
        (None, beam, 1.0),
        ((2, 90), "IW1", 1.0),
    ):
        noise, note = mended(flat(1000.0), version, mission, swath)
        np.testing.assert_allclose(noise.at([0], [0, 50]), 1000.0 * factor)
        assert (note is None) == (factor == 1.0)


@pytest.mark.parametrize(
    ("level_db", "kept"), [(-36.0, False), (-34.0, True), (-22.0, True), (-17.5, True), (-16.0, False)]
)
def test_gate_of_the_noise_equivalent_sigma0(level_db: float, kept: bool) -> None:
    nesz = np.full((3, 4), 10 ** (level_db / 10))
    nesz[0, 0] = 1.0  # the median is asked, not the worst
    assert (reason_to_keep(flat(1.0), nesz, mode="WV", kind="SLC") is None) == kept
