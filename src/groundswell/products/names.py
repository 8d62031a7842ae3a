"""What a Sentinel-1 file or product name tells: mission, beam, polarisation, time, orbit, datatake, image number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

_TIME = "%Y%m%dt%H%M%S"
_LAUNCH_YEAR = 2014  # of Sentinel-1A: an earlier time is a damaged name
_MEASUREMENT = re.compile(
    r"(?P<mission>s1[a-z])-(?P<beam>wv[12]?|iw[1-3]?|ew[1-5]?|s[1-6]|n[1-6])-(?P<kind>slc|grd|ocn|ql)-"
    r"(?P<polarisation>hh|hv|vh|vv)-(?P<start>\d{8}t\d{6})-(?P<stop>\d{8}t\d{6})-"
    r"(?P<orbit>\d{6})-(?P<datatake>[0-9a-f]{6})-(?P<number>\d{3})(?=$|[^0-9a-z])",
    re.IGNORECASE | re.ASCII,
)
_PRODUCT = re.compile(
    r"(?P<mission>S1[A-Z])_(?P<mode>WV|IW|EW|S[1-6]|N[1-6])_(?P<kind>RAW|SLC|GRD|OCN)[FHM_]_[012A][SA](?:SH|SV|DH|DV|HH|HV|VV|VH)_"
    r"(?P<start>\d{8}T\d{6})_(?P<stop>\d{8}T\d{6})_(?P<orbit>\d{6})_(?P<datatake>[0-9A-F]{6})_[0-9A-F]{4}",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class MeasurementName:
    """The fields of a Sentinel-1 measurement name, in the capitals of the annotation (``S1A``, ``WV1``, ``SLC``).

    ``start`` and ``stop`` are UTC; ``image_number`` is the last field, which alone tells the imagettes of one
    wave-mode product apart (never the beam: all imagettes of a beam share it).
    """

    mission: str
    beam: str
    kind: str
    polarisation: str
    start: datetime
    stop: datetime
    orbit: int
    datatake: str
    image_number: int

    @property
    def mode(self) -> str:
        """``WV``, ``IW``, ``EW``, or ``SM`` for the stripmap beams."""
        return _mode(self.beam)

    @property
    def stem(self) -> str:
        """The name again, without an extension."""
        kind = self.kind if self.kind == "QL" else self.kind.lower()  # quick-looks carry theirs in capitals
        start, stop = self.start.strftime(_TIME), self.stop.strftime(_TIME)
        head = f"{self.mission}-{self.beam}-".lower() + f"{kind}-{self.polarisation.lower()}"
        return f"{head}-{start}-{stop}-{self.orbit:06d}-{self.datatake.lower()}-{self.image_number:03d}"


def parse_measurement(name: str) -> MeasurementName | None:
    """The fields of a measurement's file name (SLC, GRD, OCN or quick-look, any satellite), or None for another name.

    Whatever follows the image number after a separator (an extension, ``_crop2``) is left out of account.
    """
    match = _MEASUREMENT.match(name)
    if match is None:
        return None
    times = _times(match["start"].lower(), match["stop"].lower())
    if times is None:
        return None
    return MeasurementName(
        match["mission"].upper(),
        match["beam"].upper(),
        match["kind"].upper(),
        match["polarisation"].upper(),
        *times,
        int(match["orbit"]),
        match["datatake"].upper(),
        int(match["number"]),
    )


def metadata_from_path(path: str) -> dict[str, object]:
    """The fields of `Metadata` (all but ``id``) that a path tells, by its file name and the product folders above it.

    ``time`` is the middle of the acquisition. ``group`` is the datatake, since its neighbours share weather.
    """
    facts: dict[str, object] = {}
    *folders, name = path.replace("\\", "/").split("/")
    for folder in folders:
        product = folder.removesuffix(".SAFE")
        match = _PRODUCT.fullmatch(product)
        times = None if match is None else _times(match["start"].lower(), match["stop"].lower())
        if match is not None and times is not None:
            facts = {
                "product_id": product,
                "mission": match["mission"],
                "mode": _mode(match["mode"]),
                "time": times[0] + (times[1] - times[0]) / 2,
                "orbit": int(match["orbit"]),
                "datatake": match["datatake"],
            }
    measurement = parse_measurement(name)
    if measurement is not None:
        facts |= {
            "mission": measurement.mission,
            "beam": measurement.beam,
            "mode": measurement.mode,
            "polarisations": measurement.polarisation,
            "time": measurement.start + (measurement.stop - measurement.start) / 2,
            "orbit": measurement.orbit,
            "datatake": measurement.datatake,
            "image_number": measurement.image_number,
        }
    if facts:
        # The datatake counter of each satellite starts at one: it names a datatake only beside the mission.
        facts["group"] = f"{facts['mission']}-{facts['datatake']}"
    return facts


def _mode(beam: str) -> str:
    return "SM" if beam[0] in "SN" else beam[:2]


def _times(start: str, stop: str) -> tuple[datetime, datetime] | None:
    try:
        first, last = (datetime.strptime(text, _TIME).replace(tzinfo=UTC) for text in (start, stop))
    except ValueError:  # digits that are no date
        return None
    return (first, last) if first.year >= _LAUNCH_YEAR and first <= last else None
