"""Sentinel-1 Level-1 products in SAFE format: a mapping from image number or swath to scene.

Items are told apart by what their file names say, never by beam alone: all imagettes of one wave-mode beam share it.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from groundswell.errors import ProductError, did_you_mean
from groundswell.products.names import MeasurementName, parse_measurement
from groundswell.products.safe.container import Container, open_container
from groundswell.products.safe.image import Files
from groundswell.products.safe.noise import parse_ipf
from groundswell.products.safe.scene import Scene
from groundswell.products.safe.xml import Document, parse

WRITER = "groundswell"
"""Organisation that a written product names as its maker; a real one names a ground segment."""
_KNOWN_MISSIONS = ("S1A", "S1B", "S1C", "S1D")
_KNOWN_IPF = ((2, 0), (4, 0))  # from, to before
_PLACES = {
    "annotation": re.compile(r"annotation/([^/]+)\.xml"),
    "calibration": re.compile(r"annotation/calibration/calibration-([^/]+)\.xml"),
    "noise": re.compile(r"annotation/calibration/noise-([^/]+)\.xml"),
    "measurement": re.compile(r"measurement/([^/]+)\.tiff?"),
}


class MissingItemError(ProductError, KeyError):
    """The product has no image of that number, or no such swath."""

    __str__ = ProductError.__str__


@dataclass(frozen=True, slots=True)
class Fault:
    """Something about a file of the product that is not as it should be."""

    file: str
    what: str


class Product(Mapping[int | str, Scene]):
    """A product as a mapping: image number (wave mode) or swath (``iw``, ``iw1``, ``ew``, ``s3``) to `Scene`.

    Attributes
    ----------
    id : str
        Name of the product, without ``.SAFE``.
    ipf_version : str or None
        Version of the processor, from the manifest.
    faults : tuple of Fault
        Where manifest and files disagree, and files that are refused. An item with a fault raises its error when it
        is opened or its pixels are read; all others work.
    notes : tuple of str
        What is unusual but no fault: an unknown satellite or processor version.
    simulated : bool
        `groundswell.products.safe_writer.writer` made it: no radar has seen this.
    bytes : int
        Size of its files, as they are packed.
    """

    def __init__(self, container: Container) -> None:
        self.id = container.product
        self.path = container.path
        listed, self.ipf_version, self.simulated, problem = _manifest(container)
        self.bytes = sum(member.packed for member in container.members.values())
        checksums = {name: entry.md5 for name, entry in listed.items() if entry.md5}
        self._container = dataclasses.replace(container, checksums=checksums)
        self._items, doubles = _index({*container.members, *container.refused, *listed})
        self.faults = (*problem, *doubles, *_compare(container, listed))
        self.notes = tuple(self._unusual())
        if not self._items:
            raise ProductError(
                "the product holds no image that can be read",
                where=container.path,
                why=f"none of its {len(container.members)} files has the name of a Level-1 SLC or GRD annotation"
                + (f"; {self.faults[0].file}: {self.faults[0].what}" if self.faults else ""),
                fix="give a Level-1 SLC or GRD product: annotation/s1a-wv1-slc-vv-...-001.xml and so on",
            )

    def __getitem__(self, key: int | str) -> Scene:
        key = key.lower() if isinstance(key, str) else key
        files = self._items.get(key)
        if files is None:
            kind = "image number" if isinstance(next(iter(self._items)), int) else "swath"
            raise MissingItemError(
                f"the product has no {kind} {key!r}",
                where=self.path,
                fix=did_you_mean(str(key), map(str, self._items)),
            )
        return Scene(self._container, key, files, self.ipf_version, simulated=self.simulated)

    def names(self, key: int | str) -> tuple[MeasurementName, ...]:
        """What the names of the files of one image say, by polarisation; no file is opened."""
        return tuple(files.name for files in self._items[key])

    def __iter__(self) -> Iterator[int | str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return (key.lower() if isinstance(key, str) else key) in self._items

    def __repr__(self) -> str:
        keys = list(self._items)
        shown = ", ".join(map(repr, keys[:4])) + (f", ... {keys[-1]!r}" if len(keys) > 4 else "")
        faults = f", {len(self.faults)} faults" if self.faults else ""
        return f"<Product {self.id}: {len(keys)} images ({shown}){faults}>"

    def _unusual(self) -> Iterator[str]:
        ipf = parse_ipf(self.ipf_version)
        if ipf is None or not _KNOWN_IPF[0] <= ipf < _KNOWN_IPF[1]:
            yield f"IPF version {self.ipf_version or 'not given'}: unknown, read as the newest that is known"
        for mission in sorted({f.name.mission for files in self._items.values() for f in files}):
            if mission not in _KNOWN_MISSIONS:
                yield f"satellite {mission}: unknown, read as Sentinel-1A to D are"


def open_product(path: str | os.PathLike[str]) -> Product:
    """Open a Sentinel-1 Level-1 product (SLC or GRD): a SAFE folder, or a SAFE inside a zip or tar file.

    Nothing is unpacked, no pixel is read, and annotations are parsed item by item, when an item is asked for. Folders
    and plain tar files are fastest. A gzipped tar is inflated from its start for every file that is read, which is slow
    for a whole product; to unpack it is better.

    Raises
    ------
    ProductError
        When there is no product at ``path``; what was found and what was expected is said.
    """
    return Product(open_container(path))


@dataclass(frozen=True, slots=True)
class _Listed:
    size: int | None
    md5: str | None


def _manifest(container: Container) -> tuple[dict[str, _Listed], str | None, bool, tuple[Fault, ...]]:
    """The files that the manifest lists, the processor's version, whether it is ours, and what is wrong."""
    name = "manifest.safe"
    try:
        document = parse(container.read(name), container.where(name), "XFDU")
    except ProductError as error:
        return {}, None, False, (Fault(name, f"{error.what}: {error.why}"),)
    listed = {}
    for stream in document.all("dataObjectSection/dataObject/byteStream"):
        href = (stream.get("fileLocation", "href") or "").removeprefix("./")
        size = stream.get("", "size")
        checksum = stream.get("checksum") if stream.get("checksum", "checksumName") == "MD5" else None
        valid = checksum is not None and re.fullmatch(r"[0-9a-fA-F]{32}", checksum)
        known = int(size) if size and re.fullmatch(r"[0-9]{1,15}", size) else None
        listed[href] = _Listed(known, checksum.lower() if checksum and valid else None)
    return listed, *_processor(document), ()


def _processor(document: Document) -> tuple[str | None, bool]:
    """Version and maker (us?) of the outermost processing step: those nested in it tell of older steps."""
    path = "metadataWrap/xmlData/processing/facility"
    for entry in document.all("metadataSection/metadataObject"):
        if entry.get("", "ID") == "processing":
            ours = any(facility.get("", "organisation") == WRITER for facility in entry.all(path))
            for software in entry.all(f"{path}/software"):
                if software.get("", "name") == "Sentinel-1 IPF":
                    return software.get("", "version"), ours
            return None, ours
    return None, False


def _index(names: set[str]) -> tuple[dict[int | str, list[Files]], list[Fault]]:
    """Image number or swath to the files of its polarisations, from file names alone."""
    found: dict[MeasurementName, dict[str, str]] = {}
    faults = []
    for name in sorted(names):
        for role, pattern in _PLACES.items():
            match = pattern.fullmatch(name)
            measurement = parse_measurement(match[1]) if match else None
            if measurement is not None and measurement.kind in ("SLC", "GRD"):
                roles = found.setdefault(measurement, {})
                if role in roles:
                    faults.append(Fault(name, f"a second {role} of the same image: {roles[role]} is used"))
                roles.setdefault(role, name)
    items: dict[int | str, dict[str, Files]] = {}
    for measurement, roles in found.items():
        key = measurement.image_number if measurement.mode == "WV" else measurement.beam.lower()
        stem = measurement.stem
        files = Files(
            measurement,
            roles.get("annotation", f"annotation/{stem}.xml"),
            roles.get("calibration", f"annotation/calibration/calibration-{stem}.xml"),
            roles.get("noise", f"annotation/calibration/noise-{stem}.xml"),
            roles.get("measurement", f"measurement/{stem}.tiff"),
        )
        channels = items.setdefault(key, {})
        if measurement.polarisation in channels:
            other = channels[measurement.polarisation].name.stem
            faults.append(Fault(files.annotation, f"a second image under the same key: {other} is used"))
        channels.setdefault(measurement.polarisation, files)
    ordered = sorted(items, key=lambda key: (isinstance(key, str), key))
    return {key: list(items[key].values()) for key in ordered}, faults


def _compare(container: Container, listed: dict[str, _Listed]) -> Iterator[Fault]:
    """Files refused; listed but not there; there but of another size; there but not listed (of those that matter)."""
    for name, reason in container.refused.items():
        yield Fault(name, reason)
    for name, entry in listed.items():
        member = container.members.get(name)
        if member is None:
            if name not in container.refused:
                yield Fault(name, "the manifest lists it, the product does not hold it")
        elif entry.size is not None and member.size != entry.size:
            yield Fault(name, f"{member.size} bytes where the manifest says {entry.size}")
    if listed:
        for name in container.names:
            if name not in listed and any(pattern.fullmatch(name) for pattern in _PLACES.values()):
                yield Fault(name, "the product holds it, the manifest does not list it")
