"""Complete small Sentinel-1 products whose calibrated result is known in closed form: SLC wave mode, and GRD.

Every element is generated here; no file of a real product is copied. `model` holds what is
written and what a right reader must find in it.
"""

from __future__ import annotations

import binascii
import hashlib
import math
import re
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from groundswell.errors import UsageError
from groundswell.files import replacing, replacing_folder
from groundswell.products.safe_writer.annotation import annotation_document, grid_axes
from groundswell.products.safe_writer.documents import Header, calibration_document, noise_document
from groundswell.products.safe_writer.laws import Truth
from groundswell.products.safe_writer.manifest import Member, manifest_document
from groundswell.products.safe_writer.model import NOISE_FAULT_DB, Image, Settings, chunks, truth_of


def write_wv(folder: str | Path, images: Sequence[Image], settings: Settings | None = None) -> Path:
    """Write a wave-mode SLC product with one imagette for each of ``images``; the path of the folder, zip or tar.

    Raises
    ------
    UsageError
        When the images do not make a wave-mode product.
    DataError
        When digital numbers pass 16 bits.
    """
    settings, bands = settings or Settings(), {signal.polarisation for image in images for signal in image.signals}
    if not images or len(bands) != 1 or any(len(i.signals) != 1 or i.beam not in ("WV1", "WV2") for i in images):
        raise UsageError("a wave-mode product holds imagettes of WV1 and WV2, each in the one same polarisation")
    return _write(Path(folder), sorted(images, key=lambda image: image.number), settings, "SLC")


def write_grd(folder: str | Path, image: Image, settings: Settings | None = None) -> Path:
    """Write a GRD product (IW, EW or a stripmap beam) of one image in one or more polarisations; as `write_wv`."""
    if image.beam in ("WV1", "WV2") or not image.signals:
        raise UsageError("a GRD product is of IW, EW or a stripmap beam", where=image.beam)
    return _write(Path(folder), [image], settings or Settings(), "GRD")


def _write(folder: Path, images: list[Image], settings: Settings, kind: str) -> Path:
    if not re.fullmatch("S1[A-Z]", settings.mission):
        raise UsageError("a mission is S1 and a letter", where=settings.mission)
    plan = [
        (image, truth_of(image, settings, signal.polarisation), signal.polarisation, image.number + k)
        for image in images
        for k, signal in enumerate(image.signals)
    ]
    headers = [_header(settings, kind, *entry) for entry in plan]
    documents = []
    for header, (image, truth, *_) in zip(headers, plan, strict=True):
        release = float(settings.ipf)
        excess = NOISE_FAULT_DB.get((settings.mission, image.beam), 0.0) if release in (2.90, 2.91) else 0.0
        noise = noise_document(header, truth, azimuth=release >= 2.9, excess_db=excess)
        documents.append((calibration_document(header, truth), noise))
    name = _name(headers, settings, kind, binascii.crc_hqx(b"".join(map(b"".join, documents)), 0xFFFF))
    with replacing_folder(folder / f"{name}.SAFE") as root:
        members = []
        for sub in ("annotation/calibration", "measurement"):
            (root / sub).mkdir(parents=True)
        for header, (image, truth, polarisation, _), (calibration, noise) in zip(headers, plan, documents, strict=True):
            measurement, statistics = _write_measurement(root, header, image, truth, settings, polarisation)
            annotation = annotation_document(
                header, truth, denoised=settings.denoised, statistics=statistics, grid=image.grid
            )
            stem, deep = header.stem, "annotation/calibration"
            members += [
                _write_member(root, "annotation", f"annotation/{stem}.xml", annotation),
                _write_member(root, "noise", f"{deep}/noise-{stem}.xml", noise),
                _write_member(root, "calibration", f"{deep}/calibration-{stem}.xml", calibration),
                measurement,
            ]
        names = [signal.polarisation for signal in images[0].signals]
        truths = [truth for _, truth, *_ in plan]
        (root / "manifest.safe").write_bytes(manifest_document(headers, truths, members, names))
    return _packed(folder / f"{name}.SAFE", settings.container)


def _header(settings: Settings, kind: str, image: Image, truth: Truth, polarisation: str, number: int) -> Header:
    start = settings.start + timedelta(seconds=truth.geometry.seconds)
    stop = start + timedelta(seconds=(image.shape[0] - 1) * truth.geometry.line_interval_s)
    return Header(
        settings.mission,
        kind,
        polarisation,
        "WV" if image.beam.startswith("WV") else image.beam,
        image.beam,
        start,
        stop,
        settings.orbit,
        settings.datatake,
        number,
        settings.ipf,
        settings.start,
    )


def _name(headers: list[Header], settings: Settings, kind: str, crc: int) -> str:
    first, pols = headers[0], {header.polarisation for header in headers}
    resolution = "_" if kind == "SLC" else "M" if first.mode == "EW" else "H"
    code = ("D" + first.polarisation[0]) if len(pols) > 1 else {"VV": "SV", "HH": "SH"}.get(first.polarisation, "SV")
    times = (first.start, max(header.stop for header in headers))
    begin, end = (time.strftime("%Y%m%dT%H%M%S") for time in times)
    tail = f"{settings.orbit:06d}_{settings.datatake:06X}_{crc:04X}"
    return f"{settings.mission}_{first.mode}_{kind}{resolution}_1S{code}_{begin}_{end}_{tail}"


def _write_member(root: Path, role: str, path: str, content: bytes) -> Member:
    (root / path).write_bytes(content)
    return Member(role, path, len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())


def _write_measurement(
    root: Path, header: Header, image: Image, truth: Truth, settings: Settings, polarisation: str
) -> tuple[Member, tuple[complex, complex]]:
    path = f"measurement/{header.stem}.tiff"
    md5, total, squares = hashlib.md5(usedforsecurity=False), 0j, 0j
    with (root / path).open("wb") as handle:
        head = _tiff_head(image, truth)
        handle.write(head)
        md5.update(head)
        for chunk in chunks(image, settings, truth, polarisation):
            content = np.ascontiguousarray(chunk).data
            handle.write(content)
            md5.update(content)
            parts = chunk.reshape(-1, 2 if truth.geometry.slant else 1).astype(np.float64)
            moments = [np.resize(m, 2) * (1, truth.geometry.slant) for m in (parts.sum(0), np.square(parts).sum(0))]
            total, squares = total + complex(*moments[0]), squares + complex(*moments[1])
        size = handle.tell()
    mean, square = total / math.prod(image.shape), squares / math.prod(image.shape)
    spread = [math.sqrt(max(s - m * m, 0.0)) for s, m in ((square.real, mean.real), (square.imag, mean.imag))]
    return Member("measurement", path, size, md5.hexdigest()), (mean, complex(*spread))


def _tiff_head(image: Image, truth: Truth) -> bytes:
    """Header of a TIFF with one row a strip, uncompressed, the strips in one piece behind it, and its tie points."""
    (lines, samples), slant = image.shape, truth.geometry.slant
    stride = samples * (4 if slant else 2)
    rows, columns = grid_axes(truth, image.grid)
    y, x = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
    lon, lat = truth.geometry.lonlat(y, x)
    ties = np.stack((x, y, np.zeros(y.size), lon, lat, np.zeros(y.size)), axis=-1)
    keys = (1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326)  # geographic, WGS 84
    tags: list[tuple[int, str, NDArray[np.generic]]] = [
        (256, "<u4", np.array([samples])),
        (257, "<u4", np.array([lines])),
        (258, "<u2", np.array([32 if slant else 16])),
        (259, "<u2", np.array([1])),
        (262, "<u2", np.array([1])),
        (273, "<u4", np.arange(lines, dtype=np.int64) * stride),
        (277, "<u2", np.array([1])),
        (278, "<u2", np.array([1])),
        (279, "<u4", np.full(lines, stride)),
        (284, "<u2", np.array([1])),
        (339, "<u2", np.array([5 if slant else 1])),  # complex integer, unsigned integer
        (33922, "<f8", ties.ravel()),
        (34735, "<u2", np.array(keys)),
    ]
    place = 8 + 2 + 12 * len(tags) + 4
    sizes = [values.size * np.dtype(form).itemsize for _, form, values in tags]
    end = place + sum(size + size % 2 for size in sizes if size > 4)
    entries, outside = [], []
    for (code, form, values), size in zip(tags, sizes, strict=True):
        content = (values + end if code == 273 else values).astype(form).tobytes()
        kind = {"<u2": 3, "<u4": 4, "<f8": 12}[form]
        entry = struct.pack("<HHI", code, kind, values.size)
        if size <= 4:
            entries.append(entry + content.ljust(4, b"\0"))
            continue
        entries.append(entry + struct.pack("<I", place))
        outside.append(content + b"\0" * (size % 2))
        place += size + size % 2
    return b"".join((b"II*\0", struct.pack("<IH", 8, len(tags)), *entries, bytes(4), *outside))


def _packed(folder: Path, container: str) -> Path:
    """The product as it was asked for: the folder itself, or its zip or tar, the folder gone."""
    if container == "folder":
        return folder
    target = folder.with_suffix(f".{container}")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder.parent).as_posix() for path in files]
    with replacing(target) as handle:
        if container == "zip":
            with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as pack:
                for path, name in zip(files, names, strict=True):
                    pack.write(path, name)
        else:
            with tarfile.open(fileobj=handle, mode="w") as tar:
                for path, name in zip(files, names, strict=True):
                    tar.add(path, name)
    shutil.rmtree(folder)
    return target
