"""The manifest of a written product: what its files are, who made them when, and where the images lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from groundswell.products.safe_writer.annotation import grid_axes
from groundswell.products.safe_writer.documents import Header, element, stamp
from groundswell.products.safe_writer.laws import Truth

_NAMESPACES = {
    "xfdu": "urn:ccsds:schema:xfdu:1",
    "gml": "http://www.opengis.net/gml",
    "safe": "http://www.esa.int/safe/sentinel-1.0",
    "s1": "http://www.esa.int/safe/sentinel-1.0/sentinel-1",
    "s1sarl1": "http://www.esa.int/safe/sentinel-1.0/sentinel-1/sar/level-1",
}
_SCHEMAS = {
    "annotation": "s1Level1ProductSchema",
    "noise": "s1Level1NoiseSchema",
    "calibration": "s1Level1CalibrationSchema",
    "measurement": "s1Level1MeasurementSchema",
}
_PREFIX = {"annotation": "product", "noise": "noise", "calibration": "calibration", "measurement": ""}


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the product: what it is (a key of the schemas), where, how large, and its MD5 in hex."""

    role: str
    path: str
    size: int
    md5: str

    @property
    def identity(self) -> str:
        """The name by which the manifest's sections point at one another."""
        stem = self.path.rsplit("/", 1)[-1].rsplit(".", 1)[0].removeprefix("noise-").removeprefix("calibration-")
        return _PREFIX[self.role] + stem.replace("-", "")


def manifest_document(
    headers: Sequence[Header], truths: Sequence[Truth], members: Iterable[Member], polarisations: Sequence[str]
) -> bytes:
    """The manifest; headers and truths one a measurement, in the order of their images."""
    members = list(members)
    first, last, truth = headers[0], headers[-1], truths[0]
    _, forward, _ = truth.geometry.track.frame(truth.geometry.seconds)
    swaths = dict.fromkeys(header.swath for header in headers)
    node = timedelta(seconds=2400)  # ascending node before the product's start, as in the annotation
    extension = element(
        "s1:orbitProperties",
        element("s1:pass", "ASCENDING" if forward[2] > 0 else "DESCENDING"),
        element("s1:ascendingNodeTime", stamp(first.product_start - node)),
    )
    orbits = [
        element(f"safe:{tag}", value, type=end)
        for tag, value in (("orbitNumber", first.orbit), ("relativeOrbitNumber", _relative(first)))
        for end in ("start", "stop")
    ]
    seconds = [(time - first.product_start + node).total_seconds() for time in (first.start, last.stop)]
    anx = [element(f"s1:{end}TimeANX", f"{1e3 * t:.6e}") for end, t in zip(("start", "stop"), seconds, strict=True)]
    sections = [
        _wrapped("processing", "PROVENANCE", "PDI", _processing(first)),
        _wrapped(
            "platform",
            "DESCRIPTION",
            "DMD",
            element(
                "safe:platform",
                element("safe:nssdcIdentifier", "0000-000A"),
                element("safe:familyName", "SENTINEL-1"),
                element("safe:number", first.mission[2:]),
                element(
                    "safe:instrument",
                    element("safe:familyName", "Synthetic Aperture Radar", abbreviation="SAR"),
                    element(
                        "safe:extension",
                        element(
                            "s1sarl1:instrumentMode",
                            element("s1sarl1:mode", "SM" if first.mode[0] == "S" else first.mode),
                            *(element("s1sarl1:swath", swath) for swath in swaths),
                        ),
                    ),
                ),
            ),
        ),
        _wrapped(
            "measurementOrbitReference",
            "DESCRIPTION",
            "DMD",
            element(
                "safe:orbitReference",
                *orbits,
                element("safe:cycleNumber", 1),
                element("safe:phaseIdentifier", 1),
                element("safe:extension", extension),
            ),
        ),
        _wrapped(
            "generalProductInformation",
            "DESCRIPTION",
            "DMD",
            element(
                "s1sarl1:standAloneProductInformation",
                element("s1sarl1:instrumentConfigurationID", 1),
                element("s1sarl1:missionDataTakeID", first.datatake),
                *(element("s1sarl1:transmitterReceiverPolarisation", name) for name in polarisations),
                element("s1sarl1:productClass", "S"),
                element("s1sarl1:productClassDescription", "SAR Standard L1 Product"),
                element("s1sarl1:productComposition", "Individual"),
                element("s1sarl1:productType", first.kind),
                element("s1sarl1:productTimelinessCategory", "Fast-24h"),
                element("s1sarl1:sliceProductFlag", "false"),
            ),
        ),
        _wrapped(
            "acquisitionPeriod",
            "DESCRIPTION",
            "DMD",
            element(
                "safe:acquisitionPeriod",
                element("safe:startTime", stamp(first.start)),
                element("safe:stopTime", stamp(last.stop)),
                element("safe:extension", element("s1:timeANX", *anx)),
            ),
        ),
        _wrapped("measurementFrameSet", "DESCRIPTION", "DMD", element("safe:frameSet", *_frames(headers, truths))),
    ]
    described = [m for m in members if m.role != "measurement"]
    units = [_unit("Metadata Unit", m) for m in described]
    units += [_unit("Measurement Data Unit", m, described) for m in members if m.role == "measurement"]
    package = element("xfdu:contentUnit", *units, unitType="SAFE Archive Information Package")
    pointers = [
        element(
            "metadataObject",
            element("dataObjectPointer", dataObjectID=m.identity),
            ID=f"{m.identity}Annotation",
            classification="DESCRIPTION",
            category="DMD",
        )
        for m in described
    ]
    schemas = [
        element(
            "metadataObject",
            element(
                "metadataReference",
                mimeType="text/xml",
                locatorType="URL",
                href=f"./support/s1-level-1-{_PREFIX[role] or role}.xsd",
            ),
            ID=schema,
            classification="SYNTAX",
            category="REP",
        )
        for role, schema in _SCHEMAS.items()
    ]
    names = {f"xmlns:{prefix}": uri for prefix, uri in _NAMESPACES.items()}
    level = f"esa/safe/sentinel-1.0/sentinel-1/sar/level-1/{first.kind.lower()}/standard/{first.mode.lower()}"
    body = element(
        "xfdu:XFDU",
        element("informationPackageMap", package),
        element("metadataSection", *pointers, *sections, *schemas),
        element("dataObjectSection", *map(_object, members)),
        **names,
        version=level + ("dp" if len(polarisations) > 1 else "sp"),
    )
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + body).replace("><", ">\n<").encode()


def _relative(header: Header) -> int:
    """Relative orbit: the offset of each satellite against its 175 orbits of a cycle."""
    return (header.orbit - {"S1A": 73, "S1B": 27, "S1C": 172, "S1D": 1}.get(header.mission, 0)) % 175 + 1


def _processing(header: Header) -> str:
    """The chain of processing steps: the outermost one is the product's, an older version inside is its input's."""

    def step(name: str, version: str, *inside: str) -> str:
        software = element("safe:software", name="Sentinel-1 IPF" if version else "", version=version)
        facility = element("safe:facility", software, name="groundswell", organisation="groundswell")
        stop = stamp(header.product_start + timedelta(hours=3))
        return element("safe:processing", facility, *inside, name=name, start=stop, stop=stop)

    validity = "V20140403T000000_G20140403T000000.SAFE"
    tables = [
        element("safe:resource", name=f"{header.mission}_{role}_{validity}", role=role)
        for role in ("AUX_PP1", "AUX_CAL", "AUX_INS")
    ]
    raw = element("safe:resource", step("L0", ""), name="raw", role="Level-0 Product")
    focused = step("SLC Processing", "002.36", *tables, raw)
    single = element("safe:resource", focused, name="slc", role="Level-1 Intermediate SLC Product")
    return step(f"{header.kind} Post Processing", header.ipf, single)


def _wrapped(identity: str, classification: str, category: str, content: str) -> str:
    data = element("metadataWrap", element("xmlData", content), mimeType="text/xml", vocabularyName="SAFE")
    return element("metadataObject", data, ID=identity, classification=classification, category=category)


def _frames(headers: Sequence[Header], truths: Sequence[Truth]) -> Iterable[str]:
    """One footprint an image: early near, late near, late far, early far corner as ``lat,lon``."""
    for number in dict.fromkeys((header.swath, header.start) for header in headers):
        truth = next(t for h, t in zip(headers, truths, strict=True) if (h.swath, h.start) == number)
        lines, pixels = (axis[:: len(axis) - 1] for axis in grid_axes(truth, (2, 2)))
        lon, lat = truth.geometry.lonlat(
            [lines[0], lines[1], lines[1], lines[0]], [pixels[0], pixels[0], pixels[1], pixels[1]]
        )
        corners = " ".join(f"{y:.6f},{x:.6f}" for x, y in zip(lon, lat, strict=True))
        print_ = element(
            "safe:footPrint",
            element("gml:coordinates", corners),
            srsName="http://www.opengis.net/gml/srs/epsg.xml#4326",
        )
        yield element("safe:frame", print_)


def _unit(kind: str, member: Member, described: Sequence[Member] = ()) -> str:
    own = [m.identity + "Annotation" for m in described if m.identity.endswith(member.identity)]
    extra = {"dmdID": " ".join(own)} if own else {}
    pointer = element("dataObjectPointer", dataObjectID=member.identity)
    return element("xfdu:contentUnit", pointer, unitType=kind, repID=_SCHEMAS[member.role], **extra)


def _object(member: Member) -> str:
    mime = "application/octet-stream" if member.role == "measurement" else "text/xml"
    stream = element(
        "byteStream",
        element("fileLocation", locatorType="URL", href=f"./{member.path}"),
        element("checksum", member.md5, checksumName="MD5"),
        mimeType=mime,
        size=member.size,
    )
    return element("dataObject", stream, ID=member.identity, repID=_SCHEMAS[member.role])
