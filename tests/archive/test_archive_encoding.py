"""Codes hold physical values to half a step, floors to the floor, NaN to NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from groundswell.archive.encoding import channel_schema, decode, default_dtype, encode, floored
from groundswell.errors import UsageError
from groundswell.physics.imagette import Channel, Quantity

DB = channel_schema(Channel("VV", Quantity.SIGMA0_DB), "uint16")
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).map(lambda side: (1, 1, *side))


def test_decibels_have_the_promised_step_floor_and_range() -> None:
    assert DB.scale_factor <= 0.002
    assert DB.floor_db == DB.add_offset == -45.0
    # 65,534 steps of 0.002 dB above -45 dB; the last code is the fill.
    assert decode(np.array([[[[65534]]]], np.uint16), [DB])[0, 0, 0, 0] == pytest.approx(86.068, abs=1e-4)
    assert np.isnan(decode(np.array([[[[65535]]]], np.uint16), [DB])[0, 0, 0, 0])


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(-45, 86, width=32)))
def test_round_trip_of_decibels_is_within_half_a_step(values: np.ndarray) -> None:
    # Half of 0.002 dB, plus the float32 rounding of a decoded value of up to 131 dB above the offset: 131 * 2^-23.
    assert np.abs(decode(encode(values, [DB], "uint16"), [DB]) - values).max() <= 0.001 + 131 * 2**-23


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32)))
def test_any_decibels_floor_clip_or_stay_nan(values: np.ndarray) -> None:
    back = decode(encode(values, [DB], "uint16"), [DB])
    invalid = np.isnan(values) | np.isposinf(values)
    np.testing.assert_array_equal(np.isnan(back), invalid)
    low, high = values <= -45, (values >= 86.068) & ~invalid
    np.testing.assert_array_equal(floored(values, DB), low)
    assert (back[low] == -45).all()
    np.testing.assert_allclose(back[high], 86.068, atol=1e-4)


@pytest.mark.parametrize("quantity", [Quantity.QUICKLOOK, Quantity.AMPLITUDE])
@given(codes=hnp.arrays(np.uint8, SHAPES))
def test_bytes_survive_in_both_integer_types(quantity: Quantity, codes: np.ndarray) -> None:
    for dtype in ("uint8", "uint16"):
        channel = channel_schema(Channel("intensity", quantity), dtype, eight_bit=True)
        stored = encode(codes.astype(np.float32), [channel], dtype)
        assert stored.dtype == dtype
        np.testing.assert_array_equal(decode(stored, [channel]), codes.astype(np.float32))


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32)))
def test_float32_keeps_every_bit_and_turns_infinity_into_nan(values: np.ndarray) -> None:
    channel = channel_schema(Channel("VV", Quantity.SIGMA0), "float32")
    expected = np.where(np.isfinite(values), values, np.nan)
    np.testing.assert_array_equal(decode(encode(values, [channel], "float32"), [channel]), expected)


def test_channels_are_coded_each_by_its_own_scale() -> None:
    channels = [DB, channel_schema(Channel("q", Quantity.QUICKLOOK), "uint16")]
    values = np.array([-20.0, 130.0], np.float32).reshape(1, 2, 1, 1)
    codes = encode(values, channels, "uint16")
    assert codes.ravel().tolist() == [12500, 130 * 256]  # (-20 + 45) / 0.002; 256 steps a grey level
    np.testing.assert_allclose(decode(codes, channels), values, atol=1e-5)


def test_the_type_follows_from_the_quantities() -> None:
    assert default_dtype([Quantity.SIGMA0_DB, Quantity.ROUGHNESS_DB]) == "uint16"
    assert default_dtype([Quantity.QUICKLOOK]) == "uint8"
    assert default_dtype([Quantity.SIGMA0_DB, Quantity.RATIO]) == "float32"
    assert default_dtype([Quantity.AMPLITUDE]) == "float32"
    assert default_dtype([Quantity.AMPLITUDE], eight_bit=True) == "uint8"
    assert default_dtype([Quantity.SIGMA0], eight_bit=True) == "float32"


@pytest.mark.parametrize(
    ("quantity", "dtype"),
    [
        (Quantity.SIGMA0, "uint16"),
        (Quantity.AMPLITUDE, "uint8"),
        (Quantity.RATIO, "uint16"),
        (Quantity.SIGMA0_DB, "uint8"),
    ],
)
def test_quantities_without_a_fixed_range_are_refused_as_integers(quantity: Quantity, dtype: str) -> None:
    with pytest.raises(UsageError, match="cannot be stored") as error:
        channel_schema(Channel("VV", quantity), dtype)  # type: ignore[arg-type]
    assert "--dtype float32" in str(error.value.fix)
