"""What a written product shows: its images, their settings, the truth about them and their digital numbers.

The traps of real products are settings: look-up tables that start before the image or stop before its end
(`Image.calibration_at`, `Image.noise_at`), ragged noise vectors, azimuth noise blocks, the older noise schema and the
noise fault of IPF 2.90 and 2.91 (`Settings.ipf`), black borders, missing image numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError, UsageError, did_you_mean
from groundswell.products.safe_writer.laws import AzimuthBlock, Bilinear, Field, Geometry, Track, Truth, Vectors, cells

WV_REPEAT_S = 14.7
"""Seconds from one imagette of a wave-mode product to the next (the other beam)."""
BEAMS = {"WV1": (22.85, 1.4976, 4.1), "WV2": (36.24, 2.73, 4.1), "IW": (30.3, 10.0, 10.0), "EW": (18.9, 40.0, 40.0)} | {
    f"S{k + 1}": (near, 10.0, 10.0) for k, near in enumerate((19.9, 23.5, 29.0, 35.1, 41.5, 41.5))
}
"""Incidence of the first sample (degrees), range spacing (slant for wave mode, else ground) and azimuth spacing (m)."""
NOISE_FAULT_DB = {("S1A", "WV1"): 38.13, ("S1A", "WV2"): 36.84, ("S1B", "WV1"): 39.30, ("S1B", "WV2"): 37.44}
"""How much too high IPF 2.90 and 2.91 write the noise of wave mode (ESA ticket MPCS-2007)."""
_CHUNK = 1 << 20  # pixels computed at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One polarisation: the imaged sigma0, the law of betaNought, the law of the noise in DN^2.

    Without ``noise`` the noise-equivalent sigma0 is ``nesz_db`` in the middle of the swath.
    """

    polarisation: str = "VV"
    sigma0: Field = 0.1
    beta: Bilinear = field(default_factory=lambda: Bilinear(237.0))
    noise: Bilinear | None = None
    nesz_db: float = -22.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One imagette of a wave-mode product, or the image of a GRD product; None stands for the beam's usual value.

    Attributes
    ----------
    shape : (lines, samples)
    beam : str
        A key of `BEAMS`.
    signals : tuple of Signal
        One for wave mode, one or more for GRD.
    number : int
        Image number: last field of the names; of the first polarisation for GRD.
    seconds : float, optional
        Time of the first line after the product's start.
    near_deg, range_spacing_m, azimuth_spacing_m : float, optional
    calibration_at, noise_at : Vectors, optional
        Where the look-up tables are sampled (every second and every 40 samples, less where samples are coarse).
    blocks : tuple of AzimuthBlock
        Azimuth noise and swath bounds of a TOPS GRD image.
    border : (top, bottom, left, right)
        Lines and samples that hold DN 0.
    border_dn : int
        Of a GRD image: the border holds random DN from 0 to this instead, as that of processors before IPF 2.90.
    grid : (lines, samples)
        Points of the geolocation grid.
    """

    shape: tuple[int, int]
    beam: str = "WV1"
    signals: tuple[Signal, ...] = (Signal(),)
    number: int = 1
    seconds: float | None = None
    near_deg: float | None = None
    range_spacing_m: float | None = None
    azimuth_spacing_m: float | None = None
    calibration_at: Vectors | None = None
    noise_at: Vectors | None = None
    blocks: tuple[AzimuthBlock, ...] = ()
    border: tuple[int, int, int, int] = (0, 0, 0, 0)
    border_dn: int = 0
    grid: tuple[int, int] = (11, 21)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all images of a product share.

    ``speckle`` draws complex Gaussian (SLC) or ``looks``-fold gamma (GRD) speckle with E|DN|^2 = sigma0 A^2 + eta
    from ``seed``; without it the pixels are the nearest digital numbers. ``denoised`` leaves eta out and says so.
    """

    mission: str = "S1B"
    start: datetime = datetime(2021, 4, 3, 8, 30, 25, tzinfo=UTC)
    orbit: int = 26300
    datatake: int = 0x032390
    ipf: str = "003.31"
    track: Track = field(default_factory=Track)
    speckle: bool = True
    looks: float = 4.4
    seed: int = 0
    denoised: bool = False
    container: Literal["folder", "zip", "tar"] = "folder"


def imagette_of(
    sigma0: NDArray[np.floating],
    spacing_m: float,
    *,
    beam: str = "WV1",
    number: int = 1,
    polarisation: str = "VV",
    near_deg: float | None = None,
    nesz_db: float = -22.0,
    level: float = 2370.0,
    per_cell: int = 4,
) -> Image:
    """The wave-mode image that gives ``sigma0 [rows, columns]`` back when it is averaged over cells of ``spacing_m``.

    It has ``per_cell`` lines and at least as many samples a cell instead of the 12 of a real one, which makes small
    files, and one line and sample more than the cells need. A sample that straddles two cells has the value of one: in
    range, where spacing is uneven, cells mix with their neighbours by up to half a sample. Write it without speckle
    where ``sigma0`` has its own. A ``level`` above that of real products keeps the rounding of digital numbers small.
    """
    rows, columns = sigma0.shape
    near = BEAMS[beam][0] if near_deg is None else near_deg
    across, along = spacing_m / per_cell * math.sin(math.radians(near)), spacing_m / per_cell
    geometry = Geometry(Track(), 0.0, near, across, along, slant=True)
    samples = columns * per_cell
    while geometry.ground_range(samples - 0.5) < columns * spacing_m:
        samples += 1
    signal = Signal(polarisation=polarisation, sigma0=cells(sigma0, spacing_m), beta=Bilinear(level), nesz_db=nesz_db)
    shape = (rows * per_cell + 1, samples + 1)
    return Image(
        shape=shape,
        beam=beam,
        signals=(signal,),
        number=number,
        near_deg=near,
        range_spacing_m=across,
        azimuth_spacing_m=along,
    )


def truth_of(image: Image, settings: Settings | None = None, polarisation: str | None = None) -> Truth:
    """What a right reader finds in ``image`` (of its first polarisation unless one is named)."""
    settings, slant = settings or Settings(), image.beam.startswith("WV")
    if image.beam not in BEAMS:
        raise UsageError(f"no beam is called {image.beam!r}", fix=did_you_mean(image.beam, BEAMS))
    signal = next(s for s in image.signals if polarisation in (None, s.polarisation))
    near, across, along = BEAMS[image.beam]
    geometry = Geometry(
        settings.track,
        WV_REPEAT_S * (image.number - 1) * slant if image.seconds is None else image.seconds,
        near if image.near_deg is None else image.near_deg,
        across if image.range_spacing_m is None else image.range_spacing_m,
        along if image.azimuth_spacing_m is None else image.azimuth_spacing_m,
        slant,
    )
    lines, samples = image.shape
    every = max(1, min(round(1.0 / geometry.line_interval_s), lines - 1))
    rows = np.arange(0, lines - 1 + every, every)  # the last vector lies at the last line or beyond
    regular = Vectors.regular(rows, samples, step=max(1, min(40, round(600 / geometry.range_spacing_m))))
    sine = math.sin(math.radians(float(geometry.incidence((samples - 1) / 2))))
    level = 10 ** (signal.nesz_db / 10) * signal.beta.level**2 / sine
    return Truth(
        geometry,
        signal.sigma0,
        image.shape,
        signal.beta,
        signal.noise or Bilinear(level),
        image.calibration_at or regular,
        image.noise_at or regular,
        image.blocks,
    )


def digital_numbers(
    image: Image, settings: Settings | None = None, polarisation: str | None = None
) -> NDArray[np.int16] | NDArray[np.uint16]:
    """The written pixels: int16 [lines, samples, (real, imaginary)] for SLC, uint16 [lines, samples] for GRD."""
    settings = settings or Settings()
    return np.concatenate(list(chunks(image, settings, truth_of(image, settings, polarisation), polarisation)))


def chunks(
    image: Image, settings: Settings, truth: Truth, polarisation: str | None
) -> Iterator[NDArray[np.int16] | NDArray[np.uint16]]:
    """The pixels of `digital_numbers`, some lines at a time; ``truth`` as `truth_of` gives it."""
    lines, samples = image.shape
    top, bottom, left, right = image.border
    names = [signal.polarisation for signal in image.signals]
    rng = np.random.default_rng((settings.seed, image.number, names.index(polarisation or names[0])))
    step, x = max(1, _CHUNK // samples), np.arange(samples)[None, :]
    for first in range(0, lines, step):
        y = np.arange(first, min(first + step, lines))[:, None]
        power = truth.sigma0(y[:, 0]) * truth.gain(y, x) ** 2
        if not settings.denoised:
            power = power + truth.noise(y, x)
        if not np.isfinite(power).all() or power.min() < 0:
            raise DataError("sigma0 plus noise must be finite and not negative", where=f"image {image.number}")
        dn = _complex(power, rng, settings.speckle) if truth.geometry.slant else _amplitude(power, rng, settings)
        limit = np.iinfo(np.int16 if truth.geometry.slant else np.uint16).max
        if np.abs(dn).max() > limit:
            raise DataError(f"a digital number passes {limit}", fix="lower the level of beta", where=image.beam)
        empty = (y < top) | (y >= lines - bottom) | (x < left) | (x >= samples - right)
        dn[empty] = 0
        if image.border_dn and not truth.geometry.slant:
            dn[empty] = rng.integers(0, image.border_dn, int(empty.sum()), endpoint=True)
        yield dn.astype("<i2" if truth.geometry.slant else "<u2")


def _complex(power: NDArray[np.float64], rng: np.random.Generator, speckle: bool) -> NDArray[np.floating]:
    """[n, samples, 2]; without speckle the real part takes most and the imaginary part the rest of the power."""
    if speckle:
        normal = rng.standard_normal((*power.shape, 2), dtype=np.float32)
        return np.asarray(np.rint(normal * np.sqrt(power / 2.0).astype(np.float32)[..., None]))
    real = np.floor(np.sqrt(power))
    return np.stack((real, np.rint(np.sqrt(power - real**2))), axis=-1)


def _amplitude(power: NDArray[np.float64], rng: np.random.Generator, settings: Settings) -> NDArray[np.floating]:
    if settings.speckle:
        power = power * rng.gamma(settings.looks, 1.0 / settings.looks, power.shape)
    return np.asarray(np.rint(np.sqrt(power)))
