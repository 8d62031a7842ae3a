"""The calibration and noise files of a written product, and what all its XML is made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import ArrayLike

from groundswell.products.safe_writer.laws import AzimuthBlock, Truth

ABSOLUTE_CALIBRATION = 1.393
"""Already inside the look-up tables: a reader that applies it again is wrong by 1.4 dB."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the documents of one image and polarisation share; times of the first and last line in UTC."""

    mission: str
    kind: str
    polarisation: str
    mode: str
    swath: str
    start: datetime
    stop: datetime
    orbit: int
    datatake: int
    number: int
    ipf: str
    product_start: datetime

    @property
    def stem(self) -> str:
        """The name of the measurement without its extension."""
        first, last = (time.strftime("%Y%m%dt%H%M%S") for time in (self.start, self.stop))
        head = f"{self.mission}-{self.swath}-{self.kind}-{self.polarisation}".lower()
        return f"{head}-{first}-{last}-{self.orbit:06d}-{self.datatake:06x}-{self.number:03d}"

    def at(self, truth: Truth, line: float) -> str:
        """UTC of a line."""
        return stamp(self.start + timedelta(seconds=float(line) * truth.geometry.line_interval_s))


def stamp(time: datetime) -> str:
    """Time as the documents write it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.%f")


def element(tag: str, *content: object, **attributes: object) -> str:
    """One XML element; its content is text or elements."""
    head = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<{tag}{head}>{''.join(map(str, content))}</{tag}>" if content else f"<{tag}{head}/>"


def listed(tag: str, items: Iterable[str]) -> str:
    """A list element with its count."""
    items = list(items)
    return element(tag, *items, count=len(items))


def row(tag: str, values: ArrayLike, form: str = "%.6e") -> str:
    """A vector: numbers parted by blanks, with their count."""
    numbers = np.atleast_1d(np.asarray(values)).tolist()
    return element(tag, " ".join([form % number for number in numbers]), count=len(numbers))


def number(tag: str, value: float) -> str:
    """One number to double precision."""
    return element(tag, f"{value:.15e}")


def document(root: str, *parts: str) -> bytes:
    """A whole file: one element a line."""
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + element(root, *parts)).replace("><", ">\n<").encode()


def header_element(header: Header) -> str:
    """The header that annotation, calibration and noise share."""
    return element(
        "adsHeader",
        element("missionId", header.mission),
        element("productType", header.kind),
        element("polarisation", header.polarisation),
        element("mode", header.mode),
        element("swath", header.swath),
        element("startTime", stamp(header.start)),
        element("stopTime", stamp(header.stop)),
        element("absoluteOrbitNumber", header.orbit),
        element("missionDataTakeId", header.datatake),
        element("imageNumber", f"{header.number:03d}"),
    )


def calibration_document(header: Header, truth: Truth) -> bytes:
    """The calibration file: sigmaNought, betaNought, gamma and dn at the vectors of the truth."""
    vectors = []
    for line, pixels in zip(truth.calibration_at.lines, truth.calibration_at.pixels, strict=True):
        x = np.asarray(pixels)
        beta = truth.gain(line, x, "betaNought")
        vectors.append(
            element(
                "calibrationVector",
                element("azimuthTime", header.at(truth, line)),
                element("line", line),
                row("pixel", x, "%d"),
                row("sigmaNought", truth.gain(line, x)),
                row("betaNought", beta),
                row("gamma", truth.gain(line, x, "gamma")),
                row("dn", beta / np.sqrt(ABSOLUTE_CALIBRATION)),
            )
        )
    constant = element("calibrationInformation", element("absoluteCalibrationConstant", f"{ABSOLUTE_CALIBRATION:.6e}"))
    return document("calibration", header_element(header), constant, listed("calibrationVectorList", vectors))


def noise_document(header: Header, truth: Truth, *, azimuth: bool, excess_db: float, step: int = 10) -> bytes:
    """The noise file: range vectors, and from IPF 2.90 on (``azimuth``) the azimuth blocks every ``step`` lines.

    ``excess_db`` is how much too high the range vectors are written: the fault of IPF 2.90 and 2.91.
    """
    tags = ("noiseRangeVectorList", "noiseRangeVector", "noiseRangeLut")
    tags = tags if azimuth else ("noiseVectorList", "noiseVector", "noiseLut")
    vectors = [
        element(
            tags[1],
            element("azimuthTime", header.at(truth, line)),
            element("line", line),
            row("pixel", pixels, "%d"),
            row(tags[2], truth.range_noise(line, np.asarray(pixels)) * 10.0 ** (excess_db / 10.0)),
        )
        for line, pixels in zip(truth.noise_at.lines, truth.noise_at.pixels, strict=True)
    ]
    blocks = []
    for block in truth.blocks:
        lines = np.unique(np.append(np.arange(*block.lines, step), block.lines[1]))
        blocks.append(
            element(
                "noiseAzimuthVector",
                element("swath", block.swath),
                *edges(block),
                row("line", lines, "%d"),
                row("noiseAzimuthLut", block(lines)),
            )
        )
    lists = [listed(tags[0], vectors)] + ([listed("noiseAzimuthVectorList", blocks)] if azimuth else [])
    return document("noise", header_element(header), *lists)


def edges(block: AzimuthBlock) -> Iterable[str]:
    """The elements that bound a block."""
    yield element("firstAzimuthLine", block.lines[0])
    yield element("firstRangeSample", block.samples[0])
    yield element("lastAzimuthLine", block.lines[1])
    yield element("lastRangeSample", block.samples[1])
