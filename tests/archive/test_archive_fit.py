"""Crop, pad and resize: pixels, masks, boxes and metadata follow one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import box as rectangle
from shapely import wkb

from groundswell.archive.fit import (
    Placement,
    column_incidence,
    fit_boxes,
    fit_mask,
    fit_metadata,
    fit_pixels,
    place,
    ring_median,
)
from groundswell.physics.imagette import Box, Metadata, Quantity

SIDES = st.integers(1, 24)
SIZES = st.tuples(SIDES, SIDES)
QUICKLOOK = [Quantity.QUICKLOOK]


def placed(source: tuple[int, int], size: tuple[int, int], fit: str) -> Placement:
    placement = place(source, size, fit)  # type: ignore[arg-type]
    assert isinstance(placement, Placement)
    return placement


def numbered(size: tuple[int, int]) -> np.ndarray:
    """An image in which every pixel has a number of its own."""
    return np.arange(1, size[0] * size[1] + 1, dtype=np.float32).reshape(1, *size)


@given(SIZES, SIZES)
def test_crop_takes_the_centre_or_refuses(source: tuple[int, int], size: tuple[int, int]) -> None:
    placement = place(source, size, "crop")
    if source[0] < size[0] or source[1] < size[1]:
        assert isinstance(placement, str)
        assert f"{source[0]} x {source[1]}" in placement
        return
    assert isinstance(placement, Placement)
    image = numbered(source)
    fitted, measured = fit_pixels(image, placement, QUICKLOOK)
    top, left = (source[0] - size[0]) // 2, (source[1] - size[1]) // 2
    np.testing.assert_array_equal(fitted[0], image[0, top : top + size[0], left : left + size[1]])
    assert measured.all()
    # As many pixels are cut on either side, but for one.
    assert abs((source[0] - size[0] - top) - top) <= 1


@given(SIZES, SIZES)
def test_padding_keeps_pixels_and_masks_together(source: tuple[int, int], size: tuple[int, int]) -> None:
    placement = placed(source, size, "pad")
    image = numbered(source)
    mask = (image[0] % 2).astype(np.uint8)
    fitted, measured = fit_pixels(image, placement, QUICKLOOK)
    fitted_mask = fit_mask(mask, placement)
    assert fitted.shape == (1, *size)
    assert measured.sum() == min(source[0], size[0]) * min(source[1], size[1])
    # Where measured, the mask still says of each pixel what it said; outside it is unknown, and the fill is the median.
    np.testing.assert_array_equal(fitted_mask[measured[0]], (fitted[0][measured[0]] % 2).astype(np.uint8))
    assert (fitted_mask[~measured[0]] == 255).all()
    assert (fitted[~measured] == np.float32(ring_median(image[0]))).all()


def test_ring_median_is_of_the_outermost_ring_alone() -> None:
    image = np.full((5, 7), 1000.0, np.float32)
    image[0], image[-1], image[:, 0], image[:, -1] = 1, 2, 3, 4
    # The ring has 20 pixels: rows 0 and 4 without their corners, then the columns with them.
    ring = [1.0] * 5 + [2.0] * 5 + [3.0] * 5 + [4.0] * 5
    assert ring_median(image) == np.median(ring)
    image[0], image[-1], image[:, 0], image[:, -1] = np.nan, np.nan, np.nan, np.nan
    assert ring_median(image) == 1000.0


@given(SIZES, SIZES, st.integers(0, 2**32))
def test_resize_keeps_the_mean_and_splits_masks_by_area(
    source: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).gamma(4.0, 0.25, (1, *source)).astype(np.float32)
    placement = placed(source, size, "resize")
    fitted, measured = fit_pixels(image, placement, [Quantity.SIGMA0])
    # Areas partition the image, so the mean is kept; float32 rounding of each pixel is 6e-8 of its value.
    assert fitted.mean(dtype=np.float64) == pytest.approx(image.mean(dtype=np.float64), rel=2e-7)
    assert measured.all()
    mask = (image[0] > 1.0).astype(np.uint8)
    cover, _ = fit_pixels(mask[None].astype(np.float32), placement, [Quantity.RATIO])
    clear = np.abs(cover[0] - 0.5) > 1e-6
    np.testing.assert_array_equal(fit_mask(mask, placement)[clear], (cover[0] > 0.5)[clear])


def test_resize_by_a_whole_number_is_the_block_mean_in_power() -> None:
    power = np.random.default_rng(0).gamma(4.0, 0.25, (6, 8))
    blocks = power.reshape(3, 2, 4, 2).mean(axis=(1, 3))
    placement = placed((6, 8), (3, 4), "resize")
    for quantity, forth, back in (
        (Quantity.SIGMA0, lambda x: x, lambda x: x),
        (Quantity.SIGMA0_DB, lambda x: 10 * np.log10(x), lambda x: 10 ** (x / 10)),
        (Quantity.AMPLITUDE, np.sqrt, np.square),
    ):
        fitted, _ = fit_pixels(forth(power)[None].astype(np.float32), placement, [quantity])
        # float32 decibels of up to 10 dB: 1e-6 dB, that is 2e-7 of the power; float32 input adds as much.
        np.testing.assert_allclose(back(fitted[0].astype(np.float64)), blocks, rtol=1e-6)


def test_resize_leaves_out_invalid_pixels() -> None:
    image = np.array([[[1.0, np.nan, 5.0, 7.0], [3.0, 5.0, np.nan, np.nan]]], np.float32)
    fitted, measured = fit_pixels(image, placed((2, 4), (1, 2), "resize"), [Quantity.SIGMA0])
    np.testing.assert_allclose(fitted[0], [[3.0, 6.0]])  # means of 1, 3, 5 and of 5, 7: at least half is valid
    image[0, 0, 2] = np.nan
    fitted, measured = fit_pixels(image, placed((2, 4), (1, 2), "resize"), [Quantity.SIGMA0])
    assert np.isnan(fitted[0, 0, 1])
    assert measured.tolist() == [[[True, False]]]


@given(SIZES, SIZES, st.sampled_from(["crop", "pad"]), st.data())
def test_a_box_drawn_in_the_pixels_moves_with_them(
    source: tuple[int, int], size: tuple[int, int], fit: str, data: st.DataObject
) -> None:
    placement = place(source, size, fit)  # type: ignore[arg-type]
    if isinstance(placement, str):
        return
    y, x = data.draw(st.integers(0, source[0] - 1)), data.draw(st.integers(0, source[1] - 1))
    height, width = data.draw(st.integers(1, source[0] - y)), data.draw(st.integers(1, source[1] - x))
    image = np.zeros((1, *source), np.float32)
    image[0, y : y + height, x : x + width] = 1.0
    boxes, dropped = fit_boxes([Box("ship", x, y, width, height)], placement)
    fitted, measured = fit_pixels(image, placement, QUICKLOOK)
    inside = (fitted == 1.0) & measured
    if inside.sum() < 0.3 * height * width:
        assert (boxes, dropped) == ([], 1)
        return
    (kept,) = boxes
    assert dropped == 0
    rows, columns = np.nonzero(inside[0])
    assert (kept.y, kept.x) == (rows.min(), columns.min())
    assert (kept.height, kept.width) == (np.ptp(rows) + 1, np.ptp(columns) + 1)


def test_a_box_is_dropped_below_thirty_percent() -> None:
    placement = placed((10, 20), (10, 10), "crop")  # columns 5 to 15
    assert fit_boxes([Box("ship", -2.0 + 0.0, 0, 10, 4)], placement)[1] == 0  # 3 of 10 columns: just enough
    assert fit_boxes([Box("ship", -2.1, 0, 10, 4)], placement) == ([], 1)
    (clipped,), _ = fit_boxes([Box("ship", -2.0, 0, 10, 4)], placement)
    assert clipped == Box("ship", 0.0, 0.0, 3.0, 4.0)


def test_resized_boxes_and_spacings_scale() -> None:
    placement = placed((40, 60), (20, 20), "resize")
    assert fit_boxes([Box("ship", 6, 4, 9, 8)], placement)[0] == [Box("ship", 2.0, 2.0, 3.0, 4.0)]
    metadata = Metadata(id="a", azimuth_spacing_m=10.0, range_spacing_m=12.0)
    fitted = fit_metadata(metadata, placement, (40, 60))
    assert (fitted.azimuth_spacing_m, fitted.range_spacing_m) == (20.0, 36.0)


@given(st.integers(2, 40), st.integers(2, 40))
def test_incidence_follows_the_columns(columns: int, width: int) -> None:
    metadata = Metadata(id="a", incidence_deg=23.0, incidence_near_deg=22.0, incidence_far_deg=24.0)
    incidence = column_incidence(metadata, columns)
    assert incidence is not None
    placement = placed((5, columns), (5, width), "pad")
    fitted = column_incidence(fit_metadata(metadata, placement, (5, columns)), width)
    assert fitted is not None
    kept = slice(max(placement.left, 0), min(placement.left + width, columns))
    inside = slice(kept.start - placement.left, kept.stop - placement.left)
    np.testing.assert_allclose(fitted[inside], incidence[kept], atol=1e-9)
    # Resized, each column has the incidence of its middle: linear in ground range, so that of the averaged columns.
    if columns % width == 0:
        resized = fit_metadata(metadata, placed((5, columns), (5, width), "resize"), (5, columns))
        blocks = incidence.reshape(width, columns // width).mean(axis=1)
        np.testing.assert_allclose(column_incidence(resized, width), blocks, atol=1e-9)


def test_footprint_covers_what_is_left() -> None:
    metadata = Metadata(id="a", footprint=wkb.dumps(rectangle(10.0, 20.0, 10.4, 20.2)))
    half = fit_metadata(metadata, placed((40, 40), (20, 20), "crop"), (40, 40))
    assert half.footprint is not None
    assert wkb.loads(half.footprint).bounds == pytest.approx((10.1, 20.05, 10.3, 20.15))
    assert fit_metadata(metadata, placed((40, 40), (20, 40), "crop"), (40, 40)).footprint is None
    assert fit_metadata(metadata, placed((40, 40), (20, 20), "resize"), (40, 40)).footprint == metadata.footprint
