"""The annotation of one image of a written product, element by element.

Layout after the Sentinel-1 Product Specification (S1-RS-MDA-52-7441); only what readers use is filled with meaning.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import numpy as np

from groundswell.physics.geometry import EARTH_RADIUS_M, PLATFORM_VELOCITY_M_S, RADAR_FREQUENCY_HZ
from groundswell.products.safe_writer.documents import (
    Header,
    document,
    edges,
    element,
    header_element,
    listed,
    number,
    row,
    stamp,
)
from groundswell.products.safe_writer.laws import ANGULAR_VELOCITY, ORBIT_RADIUS_M, AzimuthBlock, Truth

LIGHT_M_S = 299_792_458.0


def annotation_document(
    header: Header, truth: Truth, *, denoised: bool, statistics: tuple[complex, complex], grid: tuple[int, int]
) -> bytes:
    """The annotation of one image; ``statistics`` are mean and deviation of its pixels, ``grid`` the geolocation's."""
    return document(
        "product",
        header_element(header),
        element("qualityInformation", number("productQualityIndex", 0.0), listed("qualityDataList", ())),
        element("generalAnnotation", *_general(header, truth)),
        element("imageAnnotation", *_image(header, truth, denoised, statistics)),
        element("dopplerCentroid", listed("dcEstimateList", [_doppler(header, truth)])),
        element("antennaPattern", listed("antennaPatternList", [_antenna(header, truth)])),
        element(
            "swathTiming",
            element("linesPerBurst", 0),
            element("samplesPerBurst", 0),
            listed("burstList", ()),
        ),
        element("geolocationGrid", listed("geolocationGridPointList", _points(header, truth, grid))),
        element("coordinateConversion", listed("coordinateConversionList", _conversions(header, truth))),
        element("swathMerging", listed("swathMergeList", _merges(header, truth))),
    )


def _general(header: Header, truth: Truth) -> list[str]:
    geometry, middle = truth.geometry, truth.shape[0] / 2 * truth.geometry.line_interval_s
    _, forward, _ = geometry.track.frame(geometry.seconds + middle)
    information = element(
        "productInformation",
        element("pass", "Ascending" if forward[2] > 0 else "Descending"),
        element("timelinessCategory", "Fast-24h"),
        number("platformHeading", geometry.track.heading(geometry.seconds + middle)),
        element("projection", "Slant Range" if geometry.slant else "Ground Range"),
        number(
            "rangeSamplingRate", LIGHT_M_S / 2.0 / geometry.range_spacing_m if geometry.slant else 6.434523812571428e7
        ),
        number("radarFrequency", RADAR_FREQUENCY_HZ),
        number("azimuthSteeringRate", 0.0),
    )
    orbits = []
    for second in range(-60, 80, 10):
        up, along, _ = geometry.track.frame(geometry.seconds + second)
        orbits.append(
            element(
                "orbit",
                element("time", stamp(header.start + timedelta(seconds=second))),
                element("frame", "Earth Fixed"),
                element("position", *map(number, "xyz", ORBIT_RADIUS_M * up)),
                element("velocity", *map(number, "xyz", PLATFORM_VELOCITY_M_S * along)),
            )
        )
    return [
        information,
        listed("downlinkInformationList", ()),
        listed("orbitList", orbits),
        listed("attitudeList", ()),
        listed("rawDataAnalysisList", ()),
        listed("replicaInformationList", ()),
        listed("noiseList", ()),
        listed("terrainHeightList", ()),
        listed("azimuthFmRateList", [_fm_rate(header, truth)]),
    ]


def _fm_rate(header: Header, truth: Truth) -> str:
    """The rate -2 V v_ground / (wavelength R) of a circular orbit, a parabola in slant range time."""
    geometry, x = truth.geometry, np.linspace(0, truth.shape[1] - 1, 21)
    ground = ANGULAR_VELOCITY * EARTH_RADIUS_M * np.cos(geometry.earth_angle(x))
    distance = geometry.slant_range(x)
    rate = -2.0 * PLATFORM_VELOCITY_M_S * ground * RADAR_FREQUENCY_HZ / LIGHT_M_S / distance
    time = 2.0 * distance / LIGHT_M_S
    scale = max(time[-1] - time[0], 1e-12)
    fit = np.polynomial.polynomial.polyfit((time - time[0]) / scale, rate, 2) / scale ** np.arange(3)
    return element(
        "azimuthFmRate",
        element("azimuthTime", header.at(truth, truth.shape[0] / 2)),
        number("t0", time[0]),
        row("azimuthFmRatePolynomial", fit, "%.15e"),
    )


def _doppler(header: Header, truth: Truth) -> str:
    return element(
        "dcEstimate",
        element("azimuthTime", header.at(truth, 0)),
        number("t0", 2.0 * truth.geometry.near_range_m / LIGHT_M_S),
        *(row(tag, np.zeros(3)) for tag in ("geometryDcPolynomial", "dataDcPolynomial")),
        number("dataDcRmsError", 0.0),
        element("dataDcRmsErrorAboveThreshold", "false"),
        element("fineDceAzimuthStartTime", stamp(header.start)),
        element("fineDceAzimuthStopTime", stamp(header.stop)),
        listed("fineDceList", ()),
    )


def _antenna(header: Header, truth: Truth) -> str:
    """A flat pattern (gain 1): it is corrected for in the pixels."""
    geometry, x = truth.geometry, np.linspace(0, truth.shape[1] - 1, 11)
    incidence = geometry.incidence(x)
    elevation = incidence - np.rad2deg(geometry.earth_angle(x))
    return element(
        "antennaPattern",
        element("swath", _inner_swath(header)),
        element("azimuthTime", header.at(truth, 0)),
        row("slantRangeTime", 2.0 * geometry.slant_range(x) / LIGHT_M_S, "%.15e"),
        row("elevationAngle", elevation),
        row("elevationPattern", np.tile((1.0, 0.0), x.size)),
        row("incidenceAngle", incidence),
        number("terrainHeight", 0.0),
        number("roll", 29.45),
    )


def _image(header: Header, truth: Truth, denoised: bool, statistics: tuple[complex, complex]) -> list[str]:
    geometry, (lines, samples) = truth.geometry, truth.shape
    detected, interval = not geometry.slant, geometry.line_interval_s
    moments = [
        element(tag, element("re", f"{value.real:.6e}"), element("im", f"{value.imag:.6e}"))
        for tag, value in zip(("outputDataMean", "outputDataStdDev"), statistics, strict=True)
    ]
    return [
        element(
            "imageInformation",
            element("productFirstLineUtcTime", stamp(header.start)),
            element("productLastLineUtcTime", stamp(header.stop)),
            element("ascendingNodeTime", stamp(header.product_start - timedelta(seconds=2400))),
            element("anchorTime", stamp(header.product_start)),
            element("productComposition", "Individual"),
            element("sliceNumber", 0),
            listed("sliceList", ()),
            number("slantRangeTime", 2.0 * geometry.near_range_m / LIGHT_M_S),
            element("pixelValue", "Detected" if detected else "Complex"),
            element("outputPixels", "16 bit Unsigned Integer" if detected else "16 bit Signed Integer"),
            element("rangePixelSpacing", f"{geometry.range_spacing_m:.6e}"),
            element("azimuthPixelSpacing", f"{geometry.azimuth_spacing_m:.6e}"),
            number("azimuthTimeInterval", interval),
            number("azimuthFrequency", 1.0 / interval),
            element("numberOfSamples", samples),
            element("numberOfLines", lines),
            number("zeroDopMinusAcqTime", 0.0),
            number("incidenceAngleMidSwath", float(geometry.incidence((samples - 1) / 2))),
            element("imageStatistics", *moments),
        ),
        element(
            "processingInformation",
            element("srgrConversionApplied", str(detected).lower()),
            element("detectionPerformed", str(detected).lower()),
            element("thermalNoiseCorrectionPerformed", str(denoised).lower()),
            listed("swathProcParamsList", ()),
            listed("inputDimensionsList", ()),
            number("referenceRange", 8e5),
            element("ellipsoidName", "Sphere"),
            number("ellipsoidSemiMajorAxis", EARTH_RADIUS_M),
            number("ellipsoidSemiMinorAxis", EARTH_RADIUS_M),
        ),
    ]


def grid_axes(truth: Truth, grid: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Lines and pixels of the geolocation grid: the image's edges and even steps between."""
    lines, pixels = (
        np.unique(np.linspace(0, count - 1, points).round().astype(int)).tolist()
        for count, points in zip(truth.shape, grid, strict=True)
    )
    return lines, pixels


def _points(header: Header, truth: Truth, grid: tuple[int, int]) -> Iterable[str]:
    geometry = truth.geometry
    lines, pixels = grid_axes(truth, grid)
    lon, lat = geometry.lonlat(np.array(lines)[:, None], np.array(pixels)[None, :])
    times = 2.0 * geometry.slant_range(pixels) / LIGHT_M_S
    incidence = geometry.incidence(pixels)
    elevation = incidence - np.rad2deg(geometry.earth_angle(pixels))
    for i, line in enumerate(lines):
        moment = element("azimuthTime", header.at(truth, line))
        for j, pixel in enumerate(pixels):
            yield element(
                "geolocationGridPoint",
                moment,
                number("slantRangeTime", times[j]),
                element("line", line),
                element("pixel", pixel),
                number("latitude", lat[i, j]),
                number("longitude", lon[i, j]),
                number("height", 0.0),
                number("incidenceAngle", incidence[j]),
                number("elevationAngle", elevation[j]),
            )


def _conversions(header: Header, truth: Truth) -> Iterable[str]:
    """Ground range images only: slant range from ground range and back, polynomials of degree 8 fitted to the law."""
    geometry = truth.geometry
    if geometry.slant:
        return
    x = np.linspace(0, truth.shape[1] - 1, 200)
    ground, distance = x * geometry.range_spacing_m, geometry.slant_range(x)
    away = distance - distance[0]
    fits = []
    for argument, value in ((away, ground), (ground, distance)):
        fit = np.polynomial.polynomial.polyfit(argument / argument[-1], value, 8) / argument[-1] ** np.arange(9)
        fits.append(fit)
    for line in (0, truth.shape[0] - 1):
        yield element(
            "coordinateConversion",
            element("azimuthTime", header.at(truth, line)),
            number("slantRangeTime", 2.0 * distance[0] / LIGHT_M_S),
            number("sr0", distance[0]),
            row("srgrCoefficients", fits[0], "%.15e"),
            number("gr0", 0.0),
            row("grsrCoefficients", fits[1], "%.15e"),
        )


def _merges(header: Header, truth: Truth) -> Iterable[str]:
    """Ground range images only: the bounds of the azimuth noise blocks, else those of the image."""
    lines, samples = truth.shape
    whole = AzimuthBlock(_inner_swath(header), (0, lines - 1), (0, samples - 1))
    blocks = () if truth.geometry.slant else truth.blocks or (whole,)
    for swath in dict.fromkeys(block.swath for block in blocks):
        bounds = [
            element("swathBounds", element("azimuthTime", header.at(truth, block.lines[0])), *edges(block))
            for block in blocks
            if block.swath == swath
        ]
        yield element("swathMerge", element("swath", swath), listed("swathBoundsList", bounds))


def _inner_swath(header: Header) -> str:
    return header.swath + "1" * (header.swath in ("IW", "EW"))
