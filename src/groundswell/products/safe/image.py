"""One polarisation of one image of a SAFE product: its four files, and its pixels calibrated block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from groundswell.products.interpolation import Floats
from groundswell.products.names import MeasurementName
from groundswell.products.safe.annotation import Annotation, check_header, read_annotation
from groundswell.products.safe.border import FIXED_IN, border_noise
from groundswell.products.safe.calibration import Calibration, Lut
from groundswell.products.safe.container import Container
from groundswell.products.safe.measurement import Block, Measurement, open_measurement
from groundswell.products.safe.noise import Noise, mended, parse_ipf, read_noise, reason_to_keep
from groundswell.products.safe.xml import Document, parse

CALIBRATIONS = ("sigma0", "beta0", "gamma0")
_CONTRADICTION = 2.0
"""Factor between mean |DN|^2 and that of the annotation beyond which the pixels are of another image. It is wide: the
specification does not say whether pixels without data count, and the nearer of both ways is taken."""
_BLOCK_PIXELS = 2**19  # a few arrays of a block fit the cache of a core


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one image and polarisation, by their paths in the product; they need not be there."""

    name: MeasurementName
    annotation: str
    calibration: str
    noise: str
    measurement: str


@dataclass(frozen=True, slots=True)
class Denoising:
    """What becomes of thermal noise.

    Attributes
    ----------
    noise : Noise or None
        None where the product has no noise file.
    denoised : bool
        Noise is out of the calibrated pixels, removed here or by the processor of the product.
    subtract : bool
        It is removed here.
    note : str
        Why it is, or why it is not.
    """

    noise: Noise | None
    denoised: bool
    subtract: bool
    note: str


class SafeImage:
    """One polarisation of one image. The annotation is read at once, all else when it is asked for.

    Attributes
    ----------
    power_ratio : float or None
        Mean |DN|^2 over that of the annotation's image statistics, once all pixels have been read.

    Raises
    ------
    ProductError
        When the annotation is missing or damaged; other files when they are first needed.
    """

    power_ratio: float | None = None

    def __init__(self, container: Container, files: Files, ipf_version: str | None) -> None:
        self.container = container
        self.files = files
        self.ipf_version = ipf_version
        self.annotation: Annotation = read_annotation(self._document(files.annotation, "product"), files.name)

    def __getstate__(self) -> dict[str, Any]:
        """Without the parsed documents, which do not go to another process; they are read there again."""
        return {name: self.__dict__[name] for name in ("container", "files", "ipf_version", "annotation")}

    def _document(self, name: str, root: str) -> Document:
        return parse(self.container.read(name), self.container.where(name), root)

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration tables; `ProductError` when the file is missing, damaged or of another image."""
        document = self._document(self.files.calibration, "calibration")
        check_header(document, self.files.name)
        return Calibration(document)

    def lut(self, quantity: str) -> Lut:
        """The calibration table of ``sigma0``, ``beta0``, ``gamma0`` or ``dn``; read once."""
        if quantity not in self._luts:
            self._luts[quantity] = self.calibration.lut(quantity)
        return self._luts[quantity]

    @cached_property
    def _luts(self) -> dict[str, Lut]:
        return {}

    @cached_property
    def measurement(self) -> Measurement:
        """The pixels' file, its header checked; `ProductError` when it is missing, truncated or of another size."""
        a = self.annotation
        return open_measurement(self.container, self.files.measurement, a.lines, a.samples, complex=a.complex)

    @cached_property
    def denoising(self) -> Denoising:
        """Whether thermal noise is to be removed, by file, version, level and schema of its table."""
        header, a = self.annotation.header, self.annotation
        if self.files.noise not in self.container.members and self.files.noise not in self.container.refused:
            note = "already removed by the processor" if a.denoised else "the product has no noise file"
            return Denoising(None, a.denoised, False, note)
        document = self._document(self.files.noise, "noise")
        check_header(document, self.files.name)
        noise, mend = mended(read_noise(document), parse_ipf(self.ipf_version), header.mission, header.swath)
        if a.denoised:
            return Denoising(noise, True, False, "already removed by the processor")
        lines, samples = np.linspace(0, a.lines - 1, 9), np.linspace(0, a.samples - 1, 33)
        nesz = noise.at(lines, samples) / self.lut("sigma0").at(lines, samples) ** 2
        reason = reason_to_keep(noise, nesz, mode=self.files.name.mode, kind=header.kind)
        return Denoising(noise, reason is None, reason is None, reason or mend or "removed")

    @property
    def has_border_noise(self) -> bool:
        """Whether it is a ground-range image of a processor that left small numbers in pixels without data."""
        a, ipf = self.annotation, parse_ipf(self.ipf_version)
        return a.header.kind == "GRD" and not a.denoised and ipf is not None and ipf < FIXED_IN

    @property
    def contradiction(self) -> str | None:
        """What the pixels read say against the image statistics of the annotation, None where they agree."""
        ratio = self.power_ratio
        if ratio is None or 1.0 / _CONTRADICTION < ratio < _CONTRADICTION:
            return None
        return f"mean |DN|^2 is {ratio:.3g} times what the image statistics of the annotation say"

    def nesz(self, lines: ArrayLike, pixels: ArrayLike) -> Floats:
        """Noise-equivalent sigma0, linear, float64 ``[k, w]`` at lines ``[k]`` and pixels ``[w]``.

        NaN where the product has no noise file, or one that is implausible.
        """
        state = self.denoising
        if state.noise is None or "implausible" in state.note:
            return np.full((np.size(lines), np.size(pixels)), np.nan)
        return np.asarray(state.noise.at(lines, pixels) / self.lut("sigma0").at(lines, pixels) ** 2)

    def blocks(
        self, calibration: str | None, denoise: bool, lines: slice | None = None, pixels: slice | None = None
    ) -> Iterator[tuple[int, Block]]:
        """Calibrated pixels of the given lines and pixels (first and last + 1), some lines at a time.

        Parameters
        ----------
        calibration : "sigma0", "beta0", "gamma0" or None
            None leaves |DN|^2, without calibration.
        denoise : bool
            Remove thermal noise where `denoising` says it may be; values below zero stay.

        Yields
        ------
        The first line of the block, and ``(values float32 [k, w], valid bool [k, w])``. What values of pixels that are
        not valid are is left open.

        Source: sigma0 = (|DN|^2 - eta) / A^2, Sentinel-1 thermal denoising of products (ESA, MPC-0392).
        """
        a, m = self.annotation, self.measurement
        lines, pixels = lines or slice(0, a.lines), pixels or slice(0, a.samples)
        whole = (lines, pixels) == (slice(0, a.lines), slice(0, a.samples))
        at = np.arange(pixels.start, pixels.stop)
        gain = None if calibration is None else self.lut(calibration).rows(at)
        subtract = calibration is not None and denoise and self.denoising.subtract
        noise = self.denoising.noise.rows(at) if subtract and self.denoising.noise else None
        edge = self.lut("sigma0").rows(np.arange(a.samples)) if self.has_border_noise else None
        total, count = 0.0, 0
        for first, (power, valid) in m.blocks(
            lines, pixels if edge is None else slice(0, a.samples), max(1, _BLOCK_PIXELS // a.samples)
        ):
            last = first + len(power)
            if edge is not None:
                squares = edge.block(first, last)
                squares *= squares
                valid &= ~border_noise(power / squares)
                power, valid = power[:, pixels], valid[:, pixels]
            if whole:
                total, count = total + float(power.sum()), count + int(np.count_nonzero(valid))
            if noise is not None:
                power -= noise.block(first, last)
            if gain is not None:
                table = gain.block(first, last)
                table *= table
                power /= table
            yield first, (power, valid)
        if whole and a.mean_power and count:
            told = [total / n / a.mean_power for n in (count, a.lines * a.samples)]
            self.power_ratio = min(told, key=lambda ratio: abs(np.log(max(ratio, 1e-30))))
