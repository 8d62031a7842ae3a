"""Image files: what was written is what is read, and damaged files are refused with a reason."""

from __future__ import annotations

import io
import pickle
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from mutants import HEIGHT, SAMPLES, WIDTH, changed, speckled, truncated, write_samples
from PIL import Image

from groundswell.errors import DataError
from groundswell.products.folder.files import MAX_PIXELS, ImageFile, inspect_image, read_image


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_samples(tmp_path_factory.mktemp("samples"))


GREY = np.clip(speckled(2)[0] * 1000, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grey.png", GREY[None]),
        ("deep.png", GREY[None].astype(np.uint16) * 200),
        ("rgb.png", GREY[None]),
        ("one.tif", speckled(2)[:1]),
        ("two.tif", speckled(2)),
        ("planar.tif", speckled(2)),
        ("deflate.tif", speckled(2)[:1]),
        ("tiled.tif", speckled(2)[:1]),
        ("lzw.tif", GREY[None]),
        ("one.npy", speckled(2)[:1]),
        ("two.npy", speckled(2)),
        ("classic.nc", speckled(2)),
        ("hdf5.nc", speckled(2)),
    ],
)
def test_pixels_come_back_exactly(samples: dict[str, Path], name: str, expected: np.ndarray) -> None:
    image = read_image(samples[name])
    assert image.pixels.dtype == np.float32
    assert np.array_equal(image.pixels, expected.astype(np.float32))
    facts = inspect_image(samples[name])
    assert (facts.height, facts.width) == (HEIGHT, WIDTH)
    assert facts.bands == (3 if name.startswith("rgb") else len(expected))  # the header cannot know that RGB is grey


@pytest.mark.parametrize("name", ["grey.jpg", "rgb.jpg"])
def test_jpeg_is_grey_and_close(samples: dict[str, Path], name: str) -> None:
    image = read_image(samples[name])
    assert image.pixels.shape == (1, HEIGHT, WIDTH)
    # Quality 95 quantises the coefficients in steps of at most 12 grey levels; noise of 50 levels stays recognisable.
    assert np.corrcoef(image.pixels.ravel(), GREY.ravel())[0, 1] > 0.99


def test_netcdf_names_and_incidence(samples: dict[str, Path]) -> None:
    for name in ("classic.nc", "hdf5.nc"):
        image = read_image(samples[name])
        assert image.facts.names == ("VV", "VH")
        assert image.metadata == {
            "incidence_deg": pytest.approx(30.5),
            "incidence_near_deg": pytest.approx(30.0),
            "incidence_far_deg": pytest.approx(31.0),
        }


def test_netcdf_with_a_polarisation_axis_and_fill_values(tmp_path: Path) -> None:
    import xarray as xr

    pixels = speckled(2)
    pixels[0, 3, 4] = np.nan
    data = xr.Dataset(
        {"sigma0": (("pol", "y", "x"), pixels, {"_FillValue": np.float32(-9)})}, coords={"pol": ["VV", "VH"]}
    )
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    image = read_image(tmp_path / "a.nc")
    assert image.facts.names == ("sigma0_VV", "sigma0_VH")
    assert np.array_equal(image.pixels, pixels, equal_nan=True)


def test_colour_transparency_palette_and_no_data(tmp_path: Path) -> None:
    colour = np.stack([GREY, GREY[::-1], GREY], -1)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    assert np.array_equal(read_image(tmp_path / "colour.png").pixels, np.moveaxis(colour, -1, 0))

    alpha = np.full_like(GREY, 255)
    alpha[:3] = 0
    Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)]).save(tmp_path / "la.png")
    pixels = read_image(tmp_path / "la.png").pixels
    assert np.isnan(pixels[0, :3]).all()
    assert np.array_equal(pixels[0, 3:], GREY[3:])

    Image.fromarray(GREY).convert("P").save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png").pixels, GREY[None])

    holed = speckled()[0]
    holed[2, 5] = -9999
    tifffile.imwrite(tmp_path / "holed.tif", holed, extratags=[(42113, "s", 0, "-9999", True)])
    pixels = read_image(tmp_path / "holed.tif").pixels
    assert np.isnan(pixels[0, 2, 5])
    assert np.isnan(pixels).sum() == 1


def test_band_descriptions_of_a_geotiff(tmp_path: Path) -> None:
    text = "<GDALMetadata>" + "".join(
        f'<Item name="DESCRIPTION" sample="{i}" role="description">{n}</Item>' for i, n in enumerate(("VH", "VV"))
    )
    tifffile.imwrite(
        tmp_path / "named.tif",
        speckled(2),
        planarconfig="separate",
        photometric="minisblack",
        extratags=[(42112, "s", 0, text + "</GDALMetadata>", True)],
    )
    assert inspect_image(tmp_path / "named.tif").names == ("VH", "VV")


def test_channels_last_npy_and_the_ambiguous_one(tmp_path: Path) -> None:
    np.save(tmp_path / "last.npy", np.moveaxis(speckled(2), 0, -1))
    assert np.array_equal(read_image(tmp_path / "last.npy").pixels, speckled(2))
    np.save(tmp_path / "cube.npy", np.zeros((9, 4, 5), np.float32))
    with pytest.raises(DataError, match="channel axis cannot be told"):
        read_image(tmp_path / "cube.npy")


def _refused(path: Path, reason: str) -> None:
    for read in (inspect_image, read_image):
        start = time.monotonic()
        with pytest.raises(DataError, match=reason) as caught:
            read(path)
        assert str(path) in str(caught.value.where)
        assert time.monotonic() - start < 5.0


def test_pickles_and_archives_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None]), allow_pickle=True)
    _refused(tmp_path / "objects.npy", "pickle")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(speckled()))
    _refused(tmp_path / "pickle.npy", "pickle")
    np.savez(tmp_path / "zip.npz", a=speckled())
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    _refused(tmp_path / "zip.npy", "archive")


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    _refused(tmp_path / "empty.png", "empty")
    (tmp_path / "text.png").write_bytes(b"<html>404</html>")
    _refused(tmp_path / "text.png", "no PNG, JPEG")
    np.save(tmp_path / "complex.npy", speckled().astype(np.complex64))
    _refused(tmp_path / "complex.npy", "complex64")
    np.save(tmp_path / "four.npy", np.zeros((1, 1, 4, 4)))
    _refused(tmp_path / "four.npy", "no image")
    np.save(tmp_path / "none.npy", np.zeros((0, 4)))
    _refused(tmp_path / "none.npy", "no pixels")
    tifffile.imwrite(tmp_path / "complex.tif", speckled()[0].astype(np.complex64))
    _refused(tmp_path / "complex.tif", "complex")
    with tifffile.TiffWriter(tmp_path / "pages.tif") as tiff:
        tiff.write(speckled()[0])
        tiff.write(speckled()[0, :5])
    _refused(tmp_path / "pages.tif", "pages differ")
    _refused(tmp_path / "absent.png", "missing")
    cmyk = Image.fromarray(np.stack([GREY] * 4, -1), mode=None).convert("CMYK")
    cmyk.save(tmp_path / "cmyk.jpg")
    _refused(tmp_path / "cmyk.jpg", "CMYK")


def _png(width: int, height: int, bits: int, colour: int, body: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def test_bombs_and_giants_are_refused_before_they_are_inflated(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(_png(60_000, 60_000, 8, 0, bytes(10**6)))
    _refused(tmp_path / "bomb.png", "bomb|samples")
    (tmp_path / "large.png").write_bytes(_png(9000, 9000, 8, 0, bytes(10**6)))
    _refused(tmp_path / "large.png", f"more than {MAX_PIXELS} samples")
    with (tmp_path / "giant.npy").open("wb") as handle:  # sparse: takes no room on the disk
        np.lib.format.write_array_header_1_0(
            handle, {"descr": "<f4", "fortran_order": False, "shape": (100_000, 100_000)}
        )
        handle.truncate(handle.tell() + 4 * 10**10)
    _refused(tmp_path / "giant.npy", "cut a scene into chips")

    # one strip that promises 24 x 20 floats and inflates to 200 MB
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, speckled()[0], compression="zlib", rowsperstrip=HEIGHT)
    content = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        offset_at, count_at = (tiff.pages[0].tags[tag].valueoffset for tag in (273, 279))
    bomb = zlib.compress(bytes(2 * 10**8))
    place = len(content)
    content[offset_at : offset_at + 4] = struct.pack("<I", place)
    content[count_at : count_at + 4] = struct.pack("<I", len(bomb))
    (tmp_path / "bomb.tif").write_bytes(bytes(content) + bomb)
    with pytest.raises(DataError, match="inflates to"):
        read_image(tmp_path / "bomb.tif")


def test_sixteen_bit_colour_png_is_not_halved_silently(tmp_path: Path) -> None:
    body = b"".join(b"\x00" + bytes(6 * 4) for _ in range(4))
    (tmp_path / "deep.png").write_bytes(_png(4, 4, 16, 2, body))
    _refused(tmp_path / "deep.png", "16-bit PNG")


def _read_or_refuse(path: Path) -> ImageFile | None:
    """The image, or None when it was refused with a reason; any other exception fails the test."""
    try:
        return read_image(path)
    except DataError as error:
        if not error.why:
            raise
        return None


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_files_are_refused(samples: dict[str, Path], tmp_path: Path, name: str) -> None:
    content = samples[name].read_bytes()
    accepted = []
    for index, part in enumerate(truncated(content, 40)):
        path = tmp_path / f"{index}{samples[name].suffix}"
        path.write_bytes(part)
        image = _read_or_refuse(path)
        if image is not None:
            accepted.append((len(part), image.pixels))
    # A file may lack bytes that hold no pixels (an end marker, a trailing table): then all pixels must be there.
    whole = read_image(samples[name]).pixels
    assert [length for length, pixels in accepted if not np.array_equal(pixels, whole)] == []
    assert len(accepted) <= 4


@pytest.mark.parametrize("name", SAMPLES)
def test_changed_bytes_never_change_the_shape_silently(samples: dict[str, Path], tmp_path: Path, name: str) -> None:
    content = samples[name].read_bytes()
    whole = read_image(samples[name]).pixels
    start = time.monotonic()
    refused = 0
    for index, (place, mutant) in enumerate(changed(content, 60, seed=len(name))):
        path = tmp_path / f"{index}{samples[name].suffix}"
        path.write_bytes(mutant)
        image = _read_or_refuse(path)
        if image is None:
            refused += 1
            continue
        assert image.pixels.dtype == np.float32
        if name.endswith("jpg"):  # a JPEG has no checksum over the size in its header: it may lie undetected
            continue
        if name.endswith("nc"):  # a variable may be renamed away, which leaves fewer channels, each of them whole
            assert image.pixels.shape[1:] == whole.shape[1:], place
            assert len(image.facts.names or ()) == len(image.pixels)
            continue
        assert image.pixels.shape in (whole.shape, (3, *whole.shape[1:])), place  # grey RGB may turn colour
    assert refused > 0
    assert time.monotonic() - start < 20.0
