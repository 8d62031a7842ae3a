"""Damaged copies of written SAFE products, what may come of reading them, and an oracle that reads them naively.

A mutant changes one file of a tiny product. Reading it must end in one of three ways, or it is a violation:

- *Refused*: a `GroundswellError` for the image whose file it is, and the other images as they were. Only a mutant of
  the manifest may take the whole product down.
- *As before*: every array and fact exactly as from the undamaged product. This is all that a change of **structure**
  may end in: a file cut off, elements or lines lost, doubled or exchanged, a count that is not true, a tag renamed, a
  token that is no finite number, a TIFF cut off.
- *As it says*: a change of **value** leaves a well-formed file that is as complete as before and holds another finite
  number (a flipped digit of a table, a flipped bit of a pixel). No reader can tell it from a true one, so the numbers
  must be those that the changed file says, as an independent oracle in this file computes them.

Which of the two a mutant is, `is_value` decides by comparing the trees of both documents, not by how it was made. The
oracle takes the pixels of a TIFF from where they were written, so that no change of its header may move them.

The manifest holds an MD5 of every file. Most mutants come with a manifest that was renewed to fit (*sealed*), so that
it is the parsers that stand the test; the others must be refused, or change nothing, unless it is pixels that changed
(whose checksum is not compared in a folder, for speed). Damaged zip files must do so too: they hold checksums.

What is not caught: a value that another part of the product contradicts (spacing against time, table against
incidence) may be believed; facts that are no arrays are not compared for changes of value; two changes in two files.
The tables of these products are rough, so that a vector that is lost, doubled or taken for its neighbour shows.
"""

from __future__ import annotations

import hashlib
import re
import resource
import signal
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from groundswell import open_product
from groundswell.errors import GroundswellError
from groundswell.products.safe_writer.laws import AzimuthBlock, Bilinear, Vectors
from groundswell.products.safe_writer.model import Image, Settings, Signal
from groundswell.products.safe_writer.writer import write_grd, write_wv

SECONDS = 10.0
"""A case that takes longer hangs; a sound one takes about 0.05 s."""
MEMORY = 2 * 2**30
"""Bytes that one case may take beyond what the process has; the images have a few kB."""
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
ODD = ("nan", "inf", "-inf", "1e999", "1e30", "-1", "0", "", "1_0", "0x10", "9" * 40, "٣", "true", "1,5", "1e-320")
Arrays = dict[str, Any]
Read = Callable[[Path], dict[Any, Arrays | GroundswellError]]


class Rough(Bilinear):
    """A table in which no vector or node can be had from its neighbours."""

    __slots__ = ()

    def __call__(self, line: Any, pixel: Any) -> np.ndarray:
        y, x = np.asarray(line, float), np.asarray(pixel, float)
        return self.level * (1.0 + 0.3 * np.sin(12.9898 * y + 78.233 * x))


def write_products(folder: Path) -> dict[str, Path]:
    """A wave-mode product of two tiny imagettes, and a GRD product of two polarisations with azimuth noise."""
    at, shape = Vectors.regular((-5, 12, 20, 45), 48, 16), (40, 48)
    signal = Signal(beta=Rough(237.0), noise=Rough(900.0))
    images = [
        Image(shape=shape, beam=beam, number=k, signals=(signal,), calibration_at=at, noise_at=at, grid=(3, 4))
        for k, beam in ((1, "WV1"), (2, "WV2"))
    ]
    blocks = (AzimuthBlock("IW1", (0, 39), (0, 20), 1.2, 1e-3), AzimuthBlock("IW2", (0, 39), (21, 47), 0.9, -2e-3))
    cross = Signal(polarisation="VH", sigma0=0.02, beta=Rough(237.0), noise=Rough(500.0))
    scene = Image(
        shape=shape,
        beam="IW",
        signals=(signal, cross),
        calibration_at=at,
        noise_at=at,
        grid=(3, 4),
        blocks=blocks,
    )
    return {"wave": write_wv(folder, images), "ground": write_grd(folder, scene, Settings(mission="S1A"))}


# ---------------------------------------------------------------------------------------------- making mutants


@dataclass(frozen=True)
class Mutant:
    """New ``content`` for the file at ``path`` (from the product's root), how it was made, if its MD5 is new."""

    path: str
    content: bytes
    how: str
    sealed: bool = True


def target(root: Path) -> str:
    """The stem of the image that is damaged: the first by its number."""
    return min((path.stem for path in (root / "measurement").iterdir()), key=lambda stem: stem[-3:])


def mutants(root: Path, count: int, seed: int) -> Iterator[Mutant]:
    """``count`` mutants of the files of one image (and of the manifest, each twelfth)."""
    stem, deep = target(root), "annotation/calibration"
    paths = [f"annotation/{stem}.xml", f"{deep}/calibration-{stem}.xml", f"{deep}/noise-{stem}.xml"]
    paths += [f"measurement/{stem}.tiff"]
    contents = {path: (root / path).read_bytes() for path in [*paths, "manifest.safe"]}
    rng = np.random.default_rng(seed)
    operators = list(XML_OPERATORS.items())
    for index in range(count):
        path = "manifest.safe" if index % 12 == 11 else paths[index % 4]
        data = contents[path]
        content, name = data, ""
        while content == data:
            if path.endswith(".tiff"):
                name, content = _tiff(data, rng)
            else:
                name, operator = operators[int(rng.integers(len(operators)))]
                content = operator(data, rng)
        yield Mutant(path, content, f"{index}: {name} of {path.rsplit('/', 1)[-1]}", sealed=index % 9 != 8)


def sealed(manifest: bytes, path: str, content: bytes) -> bytes:
    """The manifest with the size and checksum of ``content`` for the file at ``path``."""
    pattern = (
        rb'size="\d+">\s*(<fileLocation[^>]*href="\./' + re.escape(path.encode()) + rb'"[^>]*>\s*<checksum[^>]*>)\w+'
    )
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    renewed, count = re.subn(pattern, rf'size="{len(content)}">\g<1>{digest}'.encode(), manifest)
    assert count == 1
    return renewed


def _flip(data: bytes, rng: np.random.Generator, reach: int | None = None) -> bytes:
    content = bytearray(data)
    for place in rng.integers(0, reach or len(data), rng.integers(1, 4)):
        content[place] ^= int(rng.integers(1, 256))
    return bytes(content)


def _flip_digits(data: bytes, rng: np.random.Generator) -> bytes:
    content = bytearray(data)
    digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57]
    for place in rng.choice(digits, rng.integers(1, 3)):
        content[place] = 48 + int(rng.integers(10))
    return bytes(content)


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def _drop_line(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.splitlines(keepends=True)
    first = int(rng.integers(len(lines)))
    return b"".join(lines[:first] + lines[first + int(rng.integers(1, 3)) :])


def _siblings(root: ET.Element) -> list[tuple[ET.Element, int]]:
    """Every element that is not the root, as its parent and place."""
    return [(parent, place) for parent in root.iter() for place in range(len(parent))]


def _tree(change: Callable[[ET.Element, int, np.random.Generator], None]) -> Callable[[bytes, Any], bytes]:
    """An operator that changes the children of one element; half of the time of a list, where it does most harm."""

    def operator(data: bytes, rng: np.random.Generator) -> bytes:
        root = ET.fromstring(data)
        places = _siblings(root)
        in_lists = [(parent, place) for parent, place in places if parent.get("count") is not None]
        pool = in_lists if in_lists and rng.random() < 0.5 else places
        parent, place = pool[int(rng.integers(len(pool)))]
        change(parent, place, rng)
        return ET.tostring(root)

    return operator


def _swap(parent: ET.Element, place: int, rng: np.random.Generator) -> None:
    other = int(rng.integers(len(parent)))
    parent[place], parent[other] = parent[other], parent[place]


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    """One number, anywhere, for something odd."""
    root = ET.fromstring(data)
    holders = [e for e in root.iter() if e.text and NUMBER.fullmatch(e.text.split()[0] if e.text.split() else "")]
    if not holders:
        return data
    element = holders[int(rng.integers(len(holders)))]
    tokens = (element.text or "").split()
    tokens[int(rng.integers(len(tokens)))] = ODD[int(rng.integers(len(ODD)))]
    element.text = " ".join(tokens)
    return ET.tostring(root)


def _token(data: bytes, rng: np.random.Generator) -> bytes:
    """One number of a vector lost or doubled; or, in all vectors of a list, the last one."""
    root = ET.fromstring(data)
    vectors = [
        e for e in root.iter() if len((e.text or "").split()) > 1 and NUMBER.fullmatch((e.text or "").split()[0])
    ]
    if not vectors:
        return data
    element = vectors[int(rng.integers(len(vectors)))]
    chosen = [e for e in vectors if e.tag == element.tag] if rng.random() < 0.3 else [element]
    for vector in chosen:
        tokens = (vector.text or "").split()
        place = len(tokens) - 1 if len(chosen) > 1 else int(rng.integers(len(tokens)))
        tokens[place : place + 1] = [] if rng.random() < 0.5 else [tokens[place]] * 2
        vector.text = " ".join(tokens)
    return ET.tostring(root)


def _count(data: bytes, rng: np.random.Generator) -> bytes:
    root = ET.fromstring(data)
    counted = [e for e in root.iter() if e.get("count") is not None]
    if not counted:
        return data
    element = counted[int(rng.integers(len(counted)))]
    element.set(
        "count", ("0", "1", "-1", "", "nan", str(10**12), str(int(element.get("count", "0")) + 1))[rng.integers(7)]
    )
    return ET.tostring(root)


def _rename(parent: ET.Element, place: int, rng: np.random.Generator) -> None:
    parent[place].tag = (parent[place].tag + "x", parent.tag, "line")[rng.integers(3)]


XML_OPERATORS: dict[str, Callable[[bytes, Any], bytes]] = {
    "bytes flipped": _flip,
    "digits flipped": _flip_digits,
    "cut off": _cut,
    "lines lost": _drop_line,
    "element lost": _tree(lambda parent, place, rng: parent.remove(parent[place])),
    "element doubled": _tree(lambda parent, place, rng: parent.insert(place, parent[place])),
    "elements exchanged": _tree(_swap),
    "odd number": _number,
    "token lost or doubled": _token,
    "false count": _count,
    "tag renamed": _tree(_rename),
}


def _tiff(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    kind, header = int(rng.integers(6)), 8 + 2 + 13 * 12
    if kind == 0:
        return "cut off", _cut(data, rng)
    if kind == 1:
        return "bytes flipped", _flip(data, rng)
    if kind == 2:
        return "header flipped", _flip(data, rng, header)
    if kind == 3:
        return "appended", data + bytes(rng.integers(0, 256, rng.integers(1, 99), dtype=np.uint8))
    content, start = bytearray(data), 4 * int(rng.integers(1, 200))
    word = (0, 1, 2**31 - 1, 2**32 - 1, len(data))[rng.integers(5)] if kind == 4 else int(rng.integers(2**32))
    content[start : start + 4] = word.to_bytes(4, "little")
    return "word replaced", bytes(content)


# ------------------------------------------------------------------------------------- what a mutant must give


def is_value(pristine: bytes, mutant: bytes) -> bool:
    """Whether the documents differ in finite numbers (or times) alone: same elements, attributes, count of tokens."""
    try:
        before, after = list(_parsed(pristine).iter()), list(_parsed(mutant).iter())
    except (ET.ParseError, ValueError):
        return False
    if [(e.tag, e.attrib, len(e)) for e in before] != [(e.tag, e.attrib, len(e)) for e in after]:
        return False
    changed = [
        pair for a, b in zip(before, after, strict=True) for pair in _tokens(a.text, b.text) if pair[0] != pair[1]
    ]
    return bool(changed) and all((_finite(a) and _finite(b)) or (_time(a) and _time(b)) for a, b in changed)


def _parsed(data: bytes) -> ET.Element:
    """The document as UTF-8, whatever encoding it declares: product metadata has no other."""
    return ET.fromstring(re.sub(rb"^<\?xml[^>]*\?>", b"", data))


def _tokens(before: str | None, after: str | None) -> list[tuple[str, str]]:
    a, b = (before or "").split(), (after or "").split()
    return list(zip(a, b, strict=True)) if len(a) == len(b) else [("", "other")]


def _finite(token: str) -> bool:
    return token.isascii() and bool(NUMBER.fullmatch(token)) and bool(np.isfinite(float(token)))


def _time(token: str) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", token))


@dataclass(frozen=True)
class Layout:
    """Where the pixels of the undamaged measurement lie: (lines, samples), first byte, numbers a pixel."""

    shape: tuple[int, int]
    offset: int
    parts: int

    @staticmethod
    def of(root: Path, stem: str) -> Layout:
        document = ET.parse(root / "annotation" / f"{stem}.xml")
        shape = (int(document.findtext(".//numberOfLines", "")), int(document.findtext(".//numberOfSamples", "")))
        parts = 2 if "-slc-" in stem else 1
        size = (root / "measurement" / f"{stem}.tiff").stat().st_size
        return Layout(shape, size - shape[0] * shape[1] * 2 * parts, parts)


def oracle(root: Path, stem: str, layout: Layout) -> Arrays | None:
    """What the files say, read plainly: raw, noise, gain [lines, samples]; nodes of the grid. None where ambiguous.

    Interpolates with numpy.interp, vector by vector and then column by column; clamps; knows the present noise schema.
    """
    lines, samples = layout.shape
    y, x = np.arange(lines), np.arange(samples)
    kind = "<i2" if layout.parts == 2 else "<u2"
    count = lines * samples * layout.parts
    numbers = np.fromfile(root / "measurement" / f"{stem}.tiff", kind, count, offset=layout.offset).astype(float)
    calibration = _parsed((root / "annotation/calibration" / f"calibration-{stem}.xml").read_bytes())
    noise = _parsed((root / "annotation/calibration" / f"noise-{stem}.xml").read_bytes())
    annotation = _parsed((root / "annotation" / f"{stem}.xml").read_bytes())

    def table(vectors: list[ET.Element], tag: str) -> np.ndarray | None:
        at = np.array([float(v.findtext("line", "nan")) for v in vectors])
        rows = np.stack([np.interp(x, _floats(v, "pixel"), _floats(v, tag)) for v in vectors])
        if np.any(np.diff(at) <= 0):
            return None
        return np.stack([np.interp(y, at, column) for column in rows.T], axis=1)

    gain = table(calibration.findall(".//calibrationVector"), "sigmaNought")
    eta = table(noise.findall(".//noiseRangeVector"), "noiseRangeLut")
    if gain is None or eta is None:
        return None
    for vector in noise.findall(".//noiseAzimuthVector"):
        top, bottom, left, right = (
            int(vector.findtext(name, ""))
            for name in ("firstAzimuthLine", "lastAzimuthLine", "firstRangeSample", "lastRangeSample")
        )
        inside = ((y >= top) & (y <= bottom))[:, None] & (x >= left) & (x <= right)
        factor = np.interp(y, _floats(vector, "line"), _floats(vector, "noiseAzimuthLut"))
        eta = np.where(inside, eta * factor[:, None], eta)
    points = annotation.findall(".//geolocationGridPoint")
    nodes = {
        name: np.array([float(p.findtext(name, "nan")) for p in points])
        for name in ("line", "pixel", "longitude", "latitude", "incidenceAngle")
    }
    raw = np.square(numbers.reshape(lines, samples, layout.parts)).sum(-1)
    return {"raw": raw, "noise": eta, "gain": gain, "nodes": nodes}


def _floats(element: ET.Element, tag: str) -> np.ndarray:
    return np.array([float(token) for token in element.findtext(tag, "").split()])


def differs_from_oracle(found: Arrays, expected: Arrays) -> str | None:
    """What disagrees, or None. ``found`` holds sigma0, nesz, incidence, lon, lat [lines, samples] and ``denoised``."""
    area = expected["gain"] ** 2
    eta = expected["noise"] if found["denoised"] else 0.0
    sigma0 = (expected["raw"] - eta) / area
    # float32 arithmetic: a few ulp of the larger of the two terms that are subtracted.
    scale = (expected["raw"] + expected["noise"]) / area
    zero = np.pad(expected["raw"] == 0, ((0, 0), (1, 1)), constant_values=True)
    valid = ~(zero[:, 1:-1] & (zero[:, :-2] | zero[:, 2:]))  # a lone zero is a dark pixel
    if not np.array_equal(valid, found["valid"]):
        return "valid"
    wrong = np.abs(found["sigma0"] - sigma0) > 1e-5 * scale + 1e-30
    if np.any(wrong & valid) or np.any(np.isnan(found["sigma0"]) & valid):
        return "sigma0"
    if not np.allclose(found["nesz"], expected["noise"] / area, rtol=1e-5, atol=1e-30):
        return "nesz"
    nodes = expected["nodes"]
    row, column = nodes["line"].astype(int), nodes["pixel"].astype(int)
    inside = (row >= 0) & (row < valid.shape[0]) & (column >= 0) & (column < valid.shape[1])
    inside &= (row == nodes["line"]) & (column == nodes["pixel"])
    for name, node in (("incidence", "incidenceAngle"), ("lon", "longitude"), ("lat", "latitude")):
        away = found[name][row[inside], column[inside]] - nodes[node][inside]
        if name == "lon":
            away = (away + 180.0) % 360.0 - 180.0
        if np.any(np.abs(away) > 1e-4):
            return name
    return None


def same(a: Arrays | GroundswellError, b: Arrays | GroundswellError, names: Iterable[str] | None = None) -> bool:
    """Bit for bit the same arrays and facts (or those named); an error is the same as nothing."""
    if isinstance(a, GroundswellError) or isinstance(b, GroundswellError):
        return False
    if names is None and a.keys() != b.keys():
        return False
    return all(np.array_equal(a[k], b[k], equal_nan=np.asarray(a[k]).dtype.kind == "f") for k in names or a)


# --------------------------------------------------------------------------------------------- running mutants


class Hang(BaseException):
    """A case took longer than `SECONDS`; no handler of the program may swallow it."""


@contextmanager
def limited() -> Iterator[None]:
    """An alarm after `SECONDS`, and no more than `MEMORY` bytes beyond what the process has."""

    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Verdict:
    """What came of the mutants: counts of ``refused``, ``as before``, ``as it says``; every violation in words."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, how: str, outcome: str) -> None:
        """Count one mutant."""
        if outcome in ("refused", "as before", "as it says"):
            self.counts[outcome] += 1
        else:
            self.violations.append(f"{how}: {outcome}")


def read(root: Path) -> dict[Any, Arrays | GroundswellError]:
    """Every image and polarisation of a product on its native grid, all variables, coordinates and facts; or its error.

    Raises
    ------
    GroundswellError
        When there is no product.
    """
    product = open_product(root)
    out: dict[Any, Arrays | GroundswellError] = {}
    for key, polarisation in [("iw", "VV"), ("iw", "VH")] if "_GRD" in product.id else [(k, "VV") for k in (1, 2, 3)]:
        if isinstance(key, int) and key > 2 and key not in product:
            continue
        try:
            dataset = product[key].to_dataset(None, polarisations=polarisation)
        except GroundswellError as error:
            out[key, polarisation] = error
            continue
        arrays = {str(name): variable.values for name, variable in dataset.variables.items()}
        out[key, polarisation] = {**arrays, **dataset.attrs, "valid": arrays["valid"] == 1}
    return out


OWN = ("sigma0", "nesz", "valid")
"""What belongs to one polarisation; place and facts are the scene's."""
ARRAYS = (*OWN, "incidence", "lon", "lat", "time")
"""All that must not change with the manifest; without one the version of the processor is said to be unknown."""


def attack(root: Path, count: int, seed: int, read: Read = read, only: str = "") -> Verdict:
    """Read ``count`` mutants of the product at ``root`` (which is put back each time) and judge every one.

    With ``only``, those of files with that in their path, for controls.
    """
    pristine, verdict = read(root), Verdict()
    place = (target(root), Layout.of(root, target(root)))
    seal = root / "manifest.safe"
    for mutant in mutants(root, count, seed):
        if only not in mutant.path:
            continue
        path = root / mutant.path
        original, manifest = path.read_bytes(), seal.read_bytes()
        path.write_bytes(mutant.content)
        if mutant.sealed and path != seal:
            seal.write_bytes(sealed(manifest, mutant.path, mutant.content))
        try:
            verdict.add(mutant.how, _judge(root, read, mutant, original, pristine, place))
        finally:
            path.write_bytes(original)
            seal.write_bytes(manifest)
    return verdict


def attack_archive(path: Path, count: int, seed: int, read: Read = read) -> Verdict:
    """The same for the bytes of a zip file, which must end as refused or as before (or say that noise is missing)."""
    pristine, verdict, original = read(path), Verdict(), path.read_bytes()
    rng = np.random.default_rng(seed)
    for index in range(count):
        content = _cut(original, rng) if index % 4 == 0 else _flip(original, rng)
        path.write_bytes(content)
        try:
            with limited():
                found = read(path)
            outcome = "as before"
            for key, value in found.items():
                if isinstance(value, GroundswellError):
                    outcome = "refused" if outcome == "as before" else outcome
                elif not value["denoised"] and "no noise file" in value["denoise_note"]:
                    outcome = "as it says"  # its name was damaged in the archive's directory
                elif not same(value, pristine[key], ARRAYS):  # without its manifest a product says so
                    outcome = f"silently other numbers in {key}"
        except GroundswellError:
            outcome = "refused"
        except Hang:
            outcome = f"no end after {SECONDS} s"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        finally:
            path.write_bytes(original)
        verdict.add(f"{index}", outcome)
    return verdict


def _judge(
    root: Path,
    read: Read,
    mutant: Mutant,
    original: bytes,
    pristine: dict[Any, Arrays | GroundswellError],
    place: tuple[str, Layout],
) -> str:
    manifest, tiff = mutant.path == "manifest.safe", mutant.path.endswith(".tiff")
    try:
        with limited():
            found = read(root)
    except GroundswellError as error:
        return "refused" if manifest else f"the whole product is refused: {error}"
    except Hang:
        return f"no end after {SECONDS} s"
    except Exception as error:  # a crash, whatever it is
        return f"{type(error).__name__}: {error}"
    key, *others = pristine
    for other in others:
        expected, value = pristine[other], found[other]
        names = OWN if key[0] == other[0] else ARRAYS if manifest else None
        # Polarisations of one scene that differ in size may be refused together.
        excused = manifest or key[0] == other[0]
        if not (isinstance(value, GroundswellError) and excused) and not same(value, expected, names):
            return f"another image changed: {other}"
    value, before = found[key], pristine[key]
    if isinstance(value, GroundswellError):
        return "refused" if value.why and value.where else f"refused without place and reason: {value}"
    if same(value, before, ARRAYS if manifest else None):
        return "as before"
    # Whatever the header of a TIFF says: the pixels are where they were written.
    if not (len(mutant.content) >= len(original) if tiff else is_value(original, mutant.content)):
        return "silently other numbers"
    if manifest:
        return "as it says"
    if not (mutant.sealed or tiff):
        return "other numbers against the checksum"
    says = oracle(root, *place)
    wrong = None if says is None else differs_from_oracle(value, says)
    return "as it says" if wrong is None else f"{wrong} is not what the file says"
