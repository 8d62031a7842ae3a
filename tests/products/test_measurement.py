"""Pixels of a measurement: right from every layout, and never wrong from a damaged file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from safe_products import member, wave_mode

from groundswell.errors import ProductError
from groundswell.products.safe.container import open_container
from groundswell.products.safe.measurement import Measurement, open_measurement
from groundswell.products.safe_writer.model import Image, digital_numbers
from groundswell.products.safe_writer.writer import write_grd, write_wv

SHAPE = (37, 53)


def product(folder: Path, *, complex: bool) -> tuple[Path, np.ndarray]:
    """A small product folder and |DN|^2 [lines, samples] of its pixels."""
    image = Image(shape=SHAPE, beam="WV1" if complex else "IW", grid=(2, 2))
    path = write_wv(folder, [image]) if complex else write_grd(folder, image)
    numbers = digital_numbers(image).astype(np.float64)
    return path, (numbers**2).sum(-1) if complex else numbers**2


def opened(path: Path, *, complex: bool, shape: tuple[int, int] = SHAPE) -> Measurement:
    name = member(path, "measurement/*.tiff").relative_to(path).as_posix()
    return open_measurement(open_container(path), name, *shape, complex=complex)


def power(m: Measurement, lines: slice = slice(0, 37), samples: slice = slice(0, 53), height: int = 8) -> np.ndarray:
    blocks = dict(m.blocks(lines, samples, height))
    assert list(blocks) == list(range(lines.start, lines.stop, height))
    return np.concatenate([values for values, _ in blocks.values()])


@pytest.mark.parametrize("complex", [True, False])
@pytest.mark.parametrize("height", [1, 8, 100])
def test_power_of_whole_images_and_windows(tmp_path: Path, complex: bool, height: int) -> None:
    path, wanted = product(tmp_path, complex=complex)
    m = opened(path, complex=complex)
    np.testing.assert_allclose(power(m, height=height), wanted, rtol=1e-7)
    np.testing.assert_allclose(power(m, slice(5, 30), slice(7, 20), height), wanted[5:30, 7:20], rtol=1e-7)


def test_extreme_numbers_do_not_overflow(tmp_path: Path) -> None:
    path, _ = product(tmp_path, complex=True)
    file = member(path, "measurement/*.tiff")
    data = bytearray(file.read_bytes())
    data[-8:] = np.array([-32768, -32768, 32767, -32768], "<i2").tobytes()
    file.write_bytes(bytes(data))
    assert power(opened(path, complex=True))[-1, -2:].tolist() == [
        2.0 * 32768**2,
        float(np.float32(32767**2 + 32768**2)),
    ]


def test_gaps_are_runs_of_zeros_and_a_lone_zero_is_dark(tmp_path: Path) -> None:
    path, _ = product(tmp_path, complex=True)
    file = member(path, "measurement/*.tiff")
    data = bytearray(file.read_bytes())
    pixels = np.full((*SHAPE, 2), 7, "<i2")
    pixels[3, 10] = 0  # lone
    pixels[4, 10:12] = 0  # two
    pixels[5, 0] = 0  # at the edge
    pixels[6] = 0  # a line
    pixels[7, 20] = (0, 7)  # half
    data[-pixels.nbytes :] = pixels.tobytes()
    file.write_bytes(bytes(data))
    wanted = np.ones(SHAPE, bool)
    wanted[4, 10:12] = wanted[5, 0] = wanted[6] = False
    m = opened(path, complex=True)
    for samples in (slice(0, 53), slice(10, 11), slice(11, 40)):  # the neighbour may lie outside the window
        found = np.concatenate([valid for _, (_, valid) in m.blocks(slice(0, 37), samples, 8)])
        np.testing.assert_array_equal(found, wanted[:, samples])


@pytest.mark.parametrize(
    "layout",
    [
        {"rowsperstrip": 5},
        {"rowsperstrip": 37},
        {"rowsperstrip": 5, "compression": "zlib"},
        {"tile": (16, 32)},
        {"tile": (16, 32), "compression": "zlib"},
        {"tile": (16, 32), "compression": "zlib", "predictor": True},  # as of cloud-optimised products
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
    ids=str,
)
def test_other_layouts_of_ground_range_images(tmp_path: Path, layout: dict[str, object]) -> None:
    path, wanted = product(tmp_path, complex=False)
    file = member(path, "measurement/*.tiff")
    tifffile.imwrite(file, np.sqrt(wanted).astype(np.uint16), **layout)  # type: ignore[arg-type]
    np.testing.assert_allclose(power(opened(path, complex=False)), wanted, rtol=1e-7)
    np.testing.assert_allclose(power(opened(path, complex=False), slice(9, 30), slice(30, 53), 4), wanted[9:30, 30:53])


def test_other_size_or_type_than_the_annotation_says(tmp_path: Path) -> None:
    path, _ = product(tmp_path, complex=True)
    for shape in ((36, 53), (38, 53), (37, 52), (53, 37)):
        with pytest.raises(ProductError, match="does not have the size"):
            opened(path, complex=True, shape=shape)
    with pytest.raises(ProductError, match="other pixels"):
        opened(path, complex=False)


def test_a_file_cut_off_while_it_is_read(tmp_path: Path) -> None:
    path = wave_mode(tmp_path, 1)
    m = opened(path, complex=True, shape=(300, 420))
    file = member(path, "measurement/*.tiff")
    blocks = m.blocks(slice(0, 300), slice(0, 420), 8)
    next(blocks)
    file.write_bytes(file.read_bytes()[:300_000])
    with pytest.raises(ProductError, match="truncated"):
        list(blocks)


@pytest.fixture(scope="module", params=[True, False], ids=["complex", "detected"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, np.ndarray]:
    """A measurement file, its bytes, and |DN|^2."""
    path, wanted = product(tmp_path_factory.mktemp("whole"), complex=request.param)
    file = member(path, "measurement/*.tiff")
    return file, file.read_bytes(), wanted


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_truncated_at_any_byte(whole: tuple[Path, bytes, np.ndarray], data: st.DataObject) -> None:
    file, content, _ = whole
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ProductError):
        opened(file.parents[1], complex="wv1" in file.name)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_changed_header_gives_the_same_pixels_or_a_named_error(
    whole: tuple[Path, bytes, np.ndarray], data: st.DataObject
) -> None:
    file, content, wanted = whole
    complex = "wv1" in file.name
    changed = bytearray(content)
    head = len(content) - wanted.size * (4 if complex else 2)
    for _ in range(data.draw(st.integers(1, 2))):
        changed[data.draw(st.integers(0, head - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(changed))
    try:
        found = power(opened(file.parents[1], complex=complex))
    except ProductError:
        return
    np.testing.assert_allclose(found, wanted, rtol=1e-7)


def test_strips_that_overlap_are_refused(tmp_path: Path) -> None:
    # The second line read twice: sizes and lengths all fit, the picture would be wrong.
    path, _ = product(tmp_path, complex=True)
    file = member(path, "measurement/*.tiff")
    data = bytearray(file.read_bytes())
    with tifffile.TiffFile(file) as tiff:
        tag = tiff.pages[0].tags[273]
        offset = tag.value[1]
    data[tag.valueoffset + 8 : tag.valueoffset + 12] = offset.to_bytes(4, "little")
    file.write_bytes(bytes(data))
    with pytest.raises(ProductError, match="overlap"):
        opened(path, complex=True)


def test_unknown_compression_is_named(tmp_path: Path) -> None:
    path, _ = product(tmp_path, complex=True)
    file = member(path, "measurement/*.tiff")
    data = bytearray(file.read_bytes())
    with tifffile.TiffFile(file) as tiff:
        at = tiff.pages[0].tags[259].valueoffset
    data[at : at + 2] = (5).to_bytes(2, "little")
    file.write_bytes(bytes(data))
    with pytest.raises(ProductError, match="compressed in a way") as caught:
        opened(path, complex=True)
    assert "convert" in str(caught.value.fix)


def test_the_product_of_the_tests_is_uncompressed(tmp_path: Path) -> None:
    m = opened(wave_mode(tmp_path, 1), complex=True, shape=(300, 420))
    assert m.compression == 1
    assert m.chunk == (1, 420)
