"""The annotation of one image and polarisation, as far as pixels, place and calibration need it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from groundswell.products.names import MeasurementName
from groundswell.products.safe.geolocation import Geolocation, read_geolocation
from groundswell.products.safe.xml import Document

LARGEST = 200_000
"""Lines or samples of an image, at most; the largest real ones have about 37,000."""


@dataclass(frozen=True, slots=True)
class Header:
    """What every XML file of one image and polarisation repeats, in the capitals of the annotation; times in UTC."""

    mission: str
    kind: str
    polarisation: str
    mode: str
    swath: str
    start: datetime
    stop: datetime
    orbit: int
    datatake: int
    image_number: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """One image: its size, spacing, time and place.

    Attributes
    ----------
    header : Header
    orbit_pass : str
        ``ascending`` or ``descending``.
    heading_deg : float
        Of the platform, degrees from north, 0 to 360.
    slant : bool
        Range is slant range (SLC), not ground range (GRD).
    complex : bool
        Pixels are complex.
    lines, samples : int
    range_spacing_m, azimuth_spacing_m : float
        Of samples (in slant or ground range) and lines.
    first_line : datetime
    line_interval_s : float
    slant_range_time_s : float
        Two-way time to the first sample.
    radar_frequency_hz : float
    denoised : bool
        Thermal noise was already removed.
    mean_power : float or None
        Mean |DN|^2 of the pixels by the image statistics; None where they are absent or zero.
    bursts : int
        Bursts of a TOPS SLC image, which overlap; 0 for all else.
    geolocation : Geolocation
    """

    header: Header
    orbit_pass: str
    heading_deg: float
    slant: bool
    complex: bool
    lines: int
    samples: int
    range_spacing_m: float
    azimuth_spacing_m: float
    first_line: datetime
    line_interval_s: float
    slant_range_time_s: float
    radar_frequency_hz: float
    denoised: bool
    mean_power: float | None
    bursts: int
    geolocation: Geolocation


def read_header(document: Document) -> Header:
    """The header of an annotation, calibration or noise file; `ProductError` when a field is missing."""
    header = document.one("adsHeader")
    return Header(
        header.text("missionId").upper(),
        header.text("productType").upper(),
        header.text("polarisation").upper(),
        header.text("mode").upper(),
        header.text("swath").upper(),
        header.time("startTime"),
        header.time("stopTime"),
        header.integer("absoluteOrbitNumber", 0, 10**7),
        header.integer("missionDataTakeId", 0, 2**32),
        header.integer("imageNumber", 0, 10**5),
    )


def check_header(document: Document, name: MeasurementName) -> Header:
    """The header of ``document``, which must be that of the image called ``name``.

    Raises
    ------
    ProductError
        When the file is of another image, beam, polarisation or time: data must never meet a foreign calibration.
    """
    header = read_header(document)
    told = (
        *(name.mission, name.kind, name.polarisation, name.beam),
        *(name.image_number, name.orbit, int(name.datatake, 16)),
    )
    held = (
        *(header.mission, header.kind, header.polarisation, header.swath),
        *(header.image_number, header.orbit, header.datatake),
    )
    if told != held or abs((header.start - name.start).total_seconds()) > 2.0:
        raise document.error(
            "a file of the product is of another image than its name says",
            f"the name says {told} from {name.start:%H:%M:%S}, its header {held} from {header.start:%H:%M:%S}",
        )
    return header


def read_annotation(document: Document, name: MeasurementName) -> Annotation:
    """The annotation of the image called ``name``.

    Raises
    ------
    ProductError
        When an element is missing, no number or out of range, or the file is of another image; it is named.
    """
    header = check_header(document, name)
    general = document.one("generalAnnotation/productInformation")
    image = document.one("imageAnnotation/imageInformation")
    processing = document.one("imageAnnotation/processingInformation")
    lines, samples = image.integer("numberOfLines", 1, LARGEST), image.integer("numberOfSamples", 1, LARGEST)
    return Annotation(
        header=header,
        orbit_pass=_one_of(general, "pass", ("ascending", "descending")),
        heading_deg=general.number("platformHeading", -360.0, 360.0) % 360.0,
        slant=_one_of(general, "projection", ("slant range", "ground range")) == "slant range",
        complex=_one_of(image, "pixelValue", ("complex", "detected")) == "complex",
        lines=lines,
        samples=samples,
        range_spacing_m=image.number("rangePixelSpacing", 0.01, 1000.0),
        azimuth_spacing_m=image.number("azimuthPixelSpacing", 0.01, 1000.0),
        first_line=image.time("productFirstLineUtcTime"),
        line_interval_s=image.number("azimuthTimeInterval", 1e-6, 1.0),
        slant_range_time_s=image.number("slantRangeTime", 1e-3, 1e-1),
        radar_frequency_hz=general.number("radarFrequency", 1e8, 1e11),
        denoised=processing.flag("thermalNoiseCorrectionPerformed"),
        mean_power=_mean_power(image),
        bursts=len(document.items("swathTiming/burstList/burst")),
        geolocation=read_geolocation(document, lines, samples),
    )


def _mean_power(image: Document) -> float | None:
    """E|z|^2 = |mean|^2 + variances: of detected images the imaginary parts are zero."""
    parts = [
        f"imageStatistics/{name}/{part}" for name in ("outputDataMean", "outputDataStdDev") for part in ("re", "im")
    ]
    if not image.all("imageStatistics"):
        return None
    return sum(image.number(part, -1e6, 1e6) ** 2 for part in parts) or None


def _one_of(document: Document, path: str, known: tuple[str, ...]) -> str:
    text = document.text(path).lower()
    if text not in known:
        raise document.error(f"<{path}> is {text[:40]!r}", f"expected one of {', '.join(known)}")
    return text
