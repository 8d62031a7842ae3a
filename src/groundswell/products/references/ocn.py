"""Level-2 ocean (OCN) wave-mode products: one NetCDF file an imagette, read as labels.

Classic files (to IPF 3.3x) and NetCDF-4 alike. Names of variables are those of the Sentinel-1 product specification;
the traps come from a real file: fill values of -999 in the raw numbers, unused swell partitions as -999, -1 or NaN,
and a wind (`owi`) inverted with a wrong platform heading.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import DataError, GroundswellError
from groundswell.physics.imagette import Label
from groundswell.products.names import MeasurementName, parse_measurement

HEADING_TOLERANCE_DEG = 5.0
"""The wind of the product is refused where its heading departs further from that of the wave spectrum."""
KEYS = ("mission", "orbit", "datatake", "image_number")
"""What names an imagette in a level-1 and in a level-2 product alike."""
_PARTITIONS = 5
_LARGEST = 100_000  # numbers in a variable of labels; the cross spectra have 71,040
_NEEDED = ("oswLon", "oswLat", "oswHeading", "oswIncidenceAngle", "oswHs", "oswWl", "oswDirmet")


@dataclass(frozen=True, slots=True)
class Partition:
    """A swell system: wave height (m), peak wavelength (m), direction (degrees from north, from which it comes), and
    quality (0 very good to 4 poor)."""

    hs_m: float
    wavelength_m: float | None
    direction_deg: float | None
    quality: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OceanProduct:
    """What a level-2 file says of its imagette; None where it says nothing.

    Attributes
    ----------
    name : MeasurementName
        Mission, beam, polarisation, times, orbit, datatake and image number, which the level-1 product shares.
    partitions : tuple of Partition
        Swell beyond the azimuth cut-off, in the order of the file. Their sum is no total wave height.
    total_hs_m, wind_sea_hs_m : float
        Significant wave height of everything and of the wind sea, m.
    azimuth_cutoff_m : float
    wind_speed, ecmwf_wind_speed : float
        Of the wave algorithm and of the model it was given, m/s; directions (from) in degrees from north.
    owi_wind_speed, owi_wind_direction_deg : float
        Mean of the wind cells that are sea. None where refused, with the reason in ``owi_refused``.
    nrcs_db, nesz_db : float
        Mean of the wind cells that are sea, dB; ``nrcs_db`` less the noise. ``osw_nrcs_db`` has the noise in it.
    land_fraction, ice_fraction : float
        Of the imagette, and of the wind cells.
    quality : int
        0 good to 3 poor.
    """

    path: Path
    name: MeasurementName
    ipf_version: str | None
    processed: str | None
    lon: float | None
    lat: float | None
    heading_deg: float | None
    incidence_deg: float | None
    partitions: tuple[Partition, ...]
    total_hs_m: float | None
    wind_sea_hs_m: float | None
    wave_age: float | None
    azimuth_cutoff_m: float | None
    normalised_variance: float | None
    skewness: float | None
    kurtosis: float | None
    wind_speed: float | None
    wind_direction_deg: float | None
    ecmwf_wind_speed: float | None
    ecmwf_wind_direction_deg: float | None
    owi_heading_deg: float | None
    owi_wind_speed: float | None
    owi_wind_direction_deg: float | None
    owi_refused: str | None
    osw_nrcs_db: float | None
    nrcs_db: float | None
    nesz_db: float | None
    land_fraction: float | None
    ice_fraction: float | None
    quality: int | None

    @property
    def id(self) -> str:
        """The stem of the file, as the product names it."""
        return self.name.stem

    @property
    def time(self) -> datetime:
        """Middle of the acquisition, UTC."""
        return self.name.start + (self.name.stop - self.name.start) / 2

    def labels(self) -> dict[str, Label]:
        """Label name (without ``label_``) to value; ``hs_1``, ``wl_1``, ``dir_1`` ... are of the partitions."""
        labels: dict[str, Label] = {}
        for i in range(_PARTITIONS):
            part = self.partitions[i] if i < len(self.partitions) else None
            for short, field in (
                ("hs", "hs_m"),
                ("wl", "wavelength_m"),
                ("dir", "direction_deg"),
                ("quality", "quality"),
            ):
                labels[f"{short}_{i + 1}"] = None if part is None else getattr(part, field)
        return labels | {
            "hs_total": self.total_hs_m,
            "hs_windsea": self.wind_sea_hs_m,
            "wave_age": self.wave_age,
            "azimuth_cutoff": self.azimuth_cutoff_m,
            "nv": self.normalised_variance,
            "skewness": self.skewness,
            "kurtosis": self.kurtosis,
            "wind_speed_osw": self.wind_speed,
            "wind_dir_osw": self.wind_direction_deg,
            "wind_speed_ecmwf": self.ecmwf_wind_speed,
            "wind_dir_ecmwf": self.ecmwf_wind_direction_deg,
            "wind_speed_owi": self.owi_wind_speed,
            "wind_dir_owi": self.owi_wind_direction_deg,
            "owi_refused": self.owi_refused,
            "nrcs_osw_db": self.osw_nrcs_db,
            "nrcs_db": self.nrcs_db,
            "land_fraction": self.land_fraction,
            "ice_fraction": self.ice_fraction,
            "quality": self.quality,
        }


def open_ocn(path: str | Path, content: bytes | None = None) -> OceanProduct:
    """Read one level-2 wave-mode file, classic NetCDF or NetCDF-4.

    Parameters
    ----------
    path : path
        Its name tells which imagette it is of.
    content : bytes, optional
        What the file holds, where that does not lie on disk.

    Raises
    ------
    DataError
        When the name is not that of a level-2 wave-mode file, or the file is damaged, truncated or another.
    """
    path = Path(path)
    name = parse_measurement(path.name)
    if name is None or name.kind != "OCN" or name.mode != "WV":
        raise DataError(
            "this is no level-2 wave-mode file",
            where=path,
            why="its name says which imagette it is of, and reads s1?-wv?-ocn-vv-START-STOP-ORBIT-DATATAKE-NUMBER.nc",
            fix="keep the name that the file has in the measurement folder of its product",
        )
    try:
        return _product(path, name, _File(path, path.read_bytes() if content is None else content))
    except GroundswellError:
        raise
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except Exception as error:  # whatever a parser makes of damaged bytes
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error


class _File:
    """The variables of a NetCDF file by name, as float64 with NaN for fill values and -999."""

    def __init__(self, path: Path, content: bytes) -> None:
        if content[:3] == b"CDF":
            from scipy.io import netcdf_file

            file: Any = netcdf_file(io.BytesIO(content), mmap=False)
            self._variables: Any = {n: (v.data, v._attributes) for n, v in file.variables.items()}
            self.attributes = dict(file._attributes)
        elif content[:4] == b"\x89HDF":
            import h5py

            with h5py.File(io.BytesIO(content), "r") as hdf:
                self._variables = {
                    name: (item[()], dict(item.attrs))
                    for name, item in hdf.items()
                    if name.startswith(("osw", "owi")) and isinstance(item, h5py.Dataset) and item.size <= _LARGEST
                }
                self.attributes = dict(hdf.attrs)
        else:
            raise _unreadable(path, "it is neither classic NetCDF nor NetCDF-4" if content else "it is empty")
        missing = [name for name in _NEEDED if name not in self._variables]
        if missing:
            raise _unreadable(path, f"it has no variable {', '.join(missing)}")
        if np.size(self._variables["oswHeading"][0]) != 1:
            raise _unreadable(path, "it has a grid of wave spectra where a wave-mode file has one")

    def values(self, name: str) -> NDArray[np.float64]:
        """A variable, float64 with NaN where it is filled; one NaN where the file has no such variable."""
        data, attributes = self._variables.get(name, (np.nan, {}))
        raw = np.atleast_1d(np.asarray(data))
        if raw.dtype.kind not in "fiu":
            raise ValueError(f"{name} holds no numbers")
        with np.errstate(invalid="ignore"):  # signalling NaNs of damaged bytes
            values = raw.astype(np.float64)
        filled = (values == -999.0) | ~np.isfinite(values)
        for key in ("_FillValue", "missing_value"):
            for fill in np.atleast_1d(attributes.get(key, [])):
                filled |= raw == fill
        if "scale_factor" in attributes or "add_offset" in attributes:
            scale, offset = (np.ravel(attributes.get(k, d))[0] for k, d in (("scale_factor", 1), ("add_offset", 0)))
            values = values * float(scale) + float(offset)
        return np.where(filled, np.nan, values)

    def one(self, name: str, low: float = -np.inf, high: float = np.inf) -> float | None:
        """The first number of a variable; None where it is filled or not from ``low`` to ``high``."""
        return _known(float(self.values(name).flat[0]), low, high)

    def text(self, *names: str) -> str | None:
        for name in names:
            value = self.attributes.get(name)
            if value is not None:
                text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
                return text.strip() or None
        return None


def _product(path: Path, name: MeasurementName, file: _File) -> OceanProduct:
    heading = file.one("oswHeading", -360.0, 360.0)
    refused, owi_heading = _refused(file, heading)
    mask, speed, direction = (file.values(n) for n in ("owiMask", "owiWindSpeed", "owiWindDirection"))
    sea = mask == 0 if np.isfinite(mask).any() else np.ones(mask.shape, dtype=bool)  # no land, ice or missing data
    windy = sea & (speed >= 0.0) & np.isfinite(direction) & (refused is None)

    def level(name: str) -> float | None:
        """The mean of a backscatter over the sea, dB."""
        values = file.values(name)
        values = values[..., 0] if values.ndim == mask.ndim + 1 else values  # the last axis is the polarisation
        return _decibels(_mean(values[sea & np.isfinite(values)]))

    land = file.one("oswLandCoverage", 0.0, 100.0)
    quality = file.one("oswQualityFlag", 0.0)
    return OceanProduct(
        path=path,
        name=name,
        ipf_version=(file.text("IPFversion", "IPFVersion") or "").lstrip("0") or None,
        processed=file.text("processingStartTime"),
        lon=file.one("oswLon", -180.0, 360.0),
        lat=file.one("oswLat", -90.0, 90.0),
        heading_deg=heading,
        incidence_deg=file.one("oswIncidenceAngle", 0.0, 90.0),
        partitions=_partitions(file),
        total_hs_m=file.one("oswTotalHs", 0.0),
        wind_sea_hs_m=file.one("oswWindSeaHs", 0.0),
        wave_age=file.one("oswWaveAge", 0.0),
        azimuth_cutoff_m=file.one("oswAzCutoff", 0.0),
        normalised_variance=file.one("oswNv", 0.0),
        skewness=file.one("oswSkew"),
        kurtosis=file.one("oswKurt"),
        wind_speed=file.one("oswWindSpeed", 0.0),
        wind_direction_deg=file.one("oswWindDirection", -360.0, 360.0),
        ecmwf_wind_speed=file.one("oswEcmwfWindSpeed", 0.0),
        ecmwf_wind_direction_deg=file.one("oswEcmwfWindDirection", -360.0, 360.0),
        owi_heading_deg=owi_heading,
        owi_wind_speed=_mean(speed[windy]),
        owi_wind_direction_deg=_mean_direction(direction[windy]),
        owi_refused=refused,
        osw_nrcs_db=file.one("oswNrcs"),
        nrcs_db=level("owiNrcsNeszCorr"),
        nesz_db=level("owiNesz"),
        land_fraction=None if land is None else land / 100.0,
        ice_fraction=_mean((mask[np.isfinite(mask)].astype(np.int64) & 2 > 0).astype(np.float64)),
        quality=None if quality is None else int(quality),
    )


def _partitions(file: _File) -> tuple[Partition, ...]:
    heights, lengths, directions = (file.values(n).ravel()[:_PARTITIONS] for n in ("oswHs", "oswWl", "oswDirmet"))
    qualities = file.values("oswQualityFlagPartition").ravel()
    found = []
    for i, (height, length, direction) in enumerate(zip(heights, lengths, directions, strict=True)):
        if (hs := _known(height, 0.0)) is None:
            continue
        quality = _known(qualities[i], 0.0) if qualities.size == heights.size else None
        wavelength = _known(length, 1e-3)
        found.append(
            Partition(hs, wavelength, _known(direction, 0.0, 360.0), None if quality is None else int(quality))
        )
    return tuple(found)


def _refused(file: _File, heading: float | None) -> tuple[str | None, float | None]:
    """Why the wind of the product is not to be used (None where it is), and the heading it was made with."""
    values = file.values("owiHeading")
    owi = _mean_direction(values[np.isfinite(values)])
    if owi is None or heading is None:
        return "the heading used for the wind, or that of the platform, is not in the file", owi
    difference = abs((owi - heading + 180.0) % 360.0 - 180.0)
    if difference < HEADING_TOLERANCE_DEG:
        return None, owi
    return f"inverted with heading {owi:.1f} where the platform flew {heading:.1f} degrees", owi


def _known(value: float, low: float = -np.inf, high: float = np.inf) -> float | None:
    return float(value) if np.isfinite(value) and low <= value <= high else None


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None


def _mean_direction(degrees: NDArray[np.float64]) -> float | None:
    """The mean of directions as unit vectors, 0 to 360."""
    if not degrees.size:
        return None
    return float(np.rad2deg(np.angle(np.exp(1j * np.deg2rad(degrees)).mean())) % 360.0)


def _decibels(linear: float | None) -> float | None:
    return None if linear is None or linear <= 0.0 else float(10.0 * np.log10(linear))


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(
        "a level-2 wave-mode file could not be read", where=path, why=why, fix="fetch it again, or leave it out"
    )
