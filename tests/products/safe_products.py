"""Small written products for the tests of the reader, and ways to damage one file of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from groundswell.products.safe_writer.laws import Bilinear, Vectors
from groundswell.products.safe_writer.model import Image, Settings, Signal, digital_numbers, truth_of
from groundswell.products.safe_writer.writer import write_wv

SHAPE = (300, 420)  # 1230 m of 1570 m: 24 rows of 31 columns of 50 m
TILTED = Signal(sigma0=0.1, beta=Bilinear(237.0, 2e-4, -5e-5, 1e-7), noise=Bilinear(900.0, 5e-4, -3e-4, 1e-6))


def trapped(number: int, beam: str, **settings: object) -> Image:
    """A tilted imagette whose tables start before the image, stop before its end, and are ragged."""
    pixels = (*range(0, SHAPE[1] - 1, 40), SHAPE[1] - 1)
    ragged = Vectors((-40, 90, 200), (pixels, pixels[::2] + pixels[-1:], (0, 17, 300, 380)))
    tables = {"calibration_at": Vectors.regular((-55, 120, 360), SHAPE[1]), "noise_at": ragged}
    return Image(shape=SHAPE, beam=beam, number=number, signals=(TILTED,), **{**tables, **settings})  # type: ignore[arg-type]


def wave_mode(folder: Path, count: int = 2, settings: Settings | None = None) -> Path:
    """A wave-mode product of ``count`` imagettes of `trapped`, odd ones WV1, even ones WV2."""
    images = [trapped(number, "WV1" if number % 2 else "WV2") for number in range(1, count + 1)]
    return write_wv(folder, images, settings)


def expected(
    image: Image, settings: Settings | None = None, polarisation: str | None = None, lut: str = "sigmaNought"
) -> np.ndarray:
    """(|DN|^2 - eta) / A^2 [lines, samples] from the laws and the written digital numbers, in float64."""
    truth = truth_of(image, settings, polarisation)
    numbers = digital_numbers(image, settings, polarisation).astype(np.float64)
    power = (numbers**2).sum(-1) if truth.geometry.slant else numbers**2
    y, x = np.arange(image.shape[0])[:, None], np.arange(image.shape[1])[None, :]
    eta = 0.0 if settings is not None and settings.denoised else truth.noise(y, x)
    return np.asarray((power - eta) / truth.gain(y, x, lut) ** 2)


def member(product: Path, pattern: str) -> Path:
    """The one file of a product folder that matches."""
    (found,) = product.glob(pattern)
    return found


def replace_bytes(product: Path, pattern: str, change: Callable[[bytes], bytes], *, honest: bool = True) -> Path:
    """Change one file; with ``honest`` the manifest takes its new checksum, as of a product that was made so."""
    path = member(product, pattern)
    before = path.read_bytes()
    after = change(before)
    assert after != before, "the change does nothing"
    path.write_bytes(after)
    if honest and path.name != "manifest.safe":
        manifest = product / "manifest.safe"
        old, new = (hashlib.md5(data, usedforsecurity=False).hexdigest() for data in (before, after))
        text = manifest.read_text()
        assert old in text
        manifest.write_text(text.replace(old, new).replace(f'size="{len(before)}"', f'size="{len(after)}"'))
    return path


def substitute(pattern: str, replacement: str, count: int = 1) -> Callable[[bytes], bytes]:
    """A change of text by regular expression."""
    return lambda data: re.sub(pattern, replacement, data.decode(), count=count, flags=re.DOTALL).encode()
