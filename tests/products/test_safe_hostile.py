"""Bad and hostile products: each fault has its named error, quickly and within memory, and the rest is still read."""

from __future__ import annotations

import io
import re
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundswell import open_product
from groundswell.errors import GroundswellError, ProductError
from groundswell.products.safe_writer.model import Image, Settings, Signal
from groundswell.products.safe_writer.writer import write_grd, write_wv
from safe_mutants import ARRAYS, Arrays, limited, read, same, sealed


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [Image(shape=(30, 40), number=k, beam=f"WV{2 - k % 2}", grid=(3, 4)) for k in (1, 2, 3)]
    return write_wv(tmp_path_factory.mktemp("wave"), images)


@pytest.fixture(scope="module")
def pristine(wave: Path) -> dict[Any, Arrays]:
    return {key: value for key, value in read(wave).items() if not isinstance(value, GroundswellError)}


@pytest.fixture
def product(wave: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(wave, tmp_path / wave.name))


def the(product: Path, role: str) -> Path:
    """The file of the second imagette."""
    place = {
        "annotation": "annotation/*-002.xml",
        "calibration": "annotation/calibration/calibration-*-002.xml",
        "noise": "annotation/calibration/noise-*-002.xml",
        "measurement": "measurement/*-002.tiff",
    }
    (path,) = product.glob(place[role])
    return path


def change(path: Path, edit: Callable[[bytes], bytes]) -> None:
    """Edit a file, and its checksum in the manifest: the checksum is not what is to be tested."""
    root = next(parent for parent in path.parents if parent.name.endswith(".SAFE"))
    before = path.read_bytes()
    after = edit(before)
    assert after != before
    path.write_bytes(after)
    manifest = root / "manifest.safe"
    if path != manifest:
        manifest.write_bytes(sealed(manifest.read_bytes(), path.relative_to(root).as_posix(), after))


def assert_second_refused(product: Path, pristine: dict[Any, Arrays], reason: str) -> ProductError:
    """The second imagette is refused for ``reason``, with its place and what to do; the others are as before."""
    with limited():
        found = read(product)
    for key, value in pristine.items():
        if key[0] != 2:
            assert same(found[key], value), key
    error = found[2, "VV"]
    assert isinstance(error, ProductError), error
    assert re.search(reason, f"{error.what} {error.why}"), error
    assert error.where is not None
    assert "-002" in error.where
    assert error.fix
    return error


def substitute(pattern: str, new: str, count: int = 1) -> Callable[[bytes], bytes]:
    return lambda data: re.sub(pattern.encode(), new.encode(), data, count=count)


DAMAGE = {
    "number of lines too large": ("annotation", substitute(r"(<numberOfLines>)30", r"\g<1>31"), "size"),
    "number of lines too small": ("annotation", substitute(r"(<numberOfLines>)30", r"\g<1>29"), "size"),
    "number of samples": ("annotation", substitute(r"(<numberOfSamples>)40", r"\g<1>41"), "size"),
    "number of lines huge": ("annotation", substitute(r"(<numberOfLines>)30", r"\g<1>999999999"), "numberOfLines"),
    "no number of lines": ("annotation", substitute(r"<numberOfLines>.*?</numberOfLines>", ""), "numberOfLines"),
    "of another image": ("annotation", substitute(r"(<imageNumber>)002", r"\g<1>003"), "another image"),
    "calibration of another image": ("calibration", substitute(r"(<imageNumber>)002", r"\g<1>003"), "another image"),
    "noise of another beam": ("noise", substitute(r"(<swath>)WV2", r"\g<1>WV1"), "another image"),
    "NaN in a table": ("calibration", substitute(r"(<sigmaNought[^>]*>)\S+", r"\g<1>NaN"), "sigmaNought"),
    "zero in a table": ("calibration", substitute(r"(<sigmaNought[^>]*>)\S+", r"\g<1>0.0"), "sigmaNought"),
    "a table is missing": ("calibration", substitute(r"(?s)<sigmaNought.*?</sigmaNought>", "", 0), "sigmaNought"),
    "a table is empty": (
        "calibration",
        substitute(r"(?s)(<sigmaNought)[^>]*>[^<]*<", r'\g<1> count="0"><'),
        "sigmaNought",
    ),
    "a table is short": ("calibration", substitute(r"(<sigmaNought[^>]*>)\S+ ", r"\g<1>"), "sigmaNought"),
    "no vector": (
        "calibration",
        substitute(r"(?s)<calibrationVector>.*</calibrationVector>", ""),
        "calibrationVectorList",
    ),
    "a vector is lost": (
        "calibration",
        substitute(r"(?s)<calibrationVector>.*?</calibrationVector>", ""),
        "calibrationVectorList",
    ),
    "infinite noise": ("noise", substitute(r"(<noiseRangeLut[^>]*>)\S+", r"\g<1>inf"), "noiseRangeLut"),
    "negative noise": ("noise", substitute(r"(<noiseRangeLut[^>]*>)\S+", r"\g<1>-3.0"), "noiseRangeLut"),
    "a point of the grid is lost": (
        "annotation",
        substitute(r"(?s)<geolocationGridPoint>.*?</geolocationGridPoint>", ""),
        "geolocationGrid",
    ),
    "latitude beyond the pole": ("annotation", substitute(r"(<latitude>)[^<]*", r"\g<1>91.0"), "latitude"),
    "a point of the grid is misplaced": ("annotation", substitute(r"(<longitude>)[^<]*", r"\g<1>-60.0"), "folded"),
    "no XML": ("annotation", lambda data: b"\x89PNG" + data, "XML"),
    "another document": ("annotation", lambda data: b"<html><body>404</body></html>", "html"),
    "cut off": ("calibration", lambda data: data[: len(data) // 2], "XML"),
    "empty": ("noise", lambda data: b"", "XML"),
    "pixels of another size": ("measurement", lambda data: data[:10] + b"\x29" + data[11:], "damaged|size|TIFF"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage(product: Path, pristine: dict[Any, Arrays], name: str) -> None:
    role, edit, reason = DAMAGE[name]
    change(the(product, role), edit)
    assert_second_refused(product, pristine, reason)


@pytest.mark.parametrize("role", ["annotation", "calibration", "measurement"])
def test_a_missing_file(product: Path, pristine: dict[Any, Arrays], role: str) -> None:
    the(product, role).unlink()
    assert_second_refused(product, pristine, "missing")
    assert any("does not hold it" in fault.what for fault in open_product(product).faults)


def test_a_measurement_cut_off_at_any_byte(product: Path, pristine: dict[Any, Arrays]) -> None:
    path = the(product, "measurement")
    whole = path.read_bytes()
    dense = {*range(0, 180, 3), *range(len(whole) - 5, len(whole))}  # the directory, and the last bytes
    lengths = sorted(dense | set(np.linspace(180, len(whole) - 1, 40).astype(int).tolist()))
    seal = product / "manifest.safe"
    manifest = seal.read_bytes()
    for length in lengths:
        path.write_bytes(whole[:length])
        # With a manifest that was written for the stump and, now and then, with the right one.
        for fits in (True, False)[: 2 if length % 20 == 7 else 1]:
            seal.write_bytes(sealed(manifest, f"measurement/{path.name}", whole[:length]) if fits else manifest)
            with pytest.raises(ProductError) as caught, limited():
                open_product(product)[2].to_dataset(None)
            assert path.name in str(caught.value.where), length
    path.write_bytes(whole)
    seal.write_bytes(manifest)
    assert same(read(product)[2, "VV"], pristine[2, "VV"])


BOMB = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 12))
DOCTYPES = {
    "bomb": (f'<!DOCTYPE product [<!ENTITY l0 "lol">{BOMB}]>', "&l11;"),
    "external entity": ('<!DOCTYPE product [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "&x;"),
    "external subset": ('<!DOCTYPE product SYSTEM "http://127.0.0.1:9/x.dtd">', ""),
    "parameter entity": ('<!DOCTYPE product [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x.dtd"> %x;]>', ""),
    "harmless": ("<!DOCTYPE product>", ""),
    "in another case": ("<!doctype product>", ""),
}


@pytest.mark.parametrize(
    ("kind", "role", "encoding"),
    [(kind, "annotation", "utf-8") for kind in DOCTYPES]
    + [("bomb", role, "utf-8") for role in ("calibration", "noise")]
    + [("external entity", "annotation", encoding) for encoding in ("utf-16", "utf-7", "utf-32-le")],
)
def test_document_types_are_refused(
    product: Path, pristine: dict[Any, Arrays], kind: str, role: str, encoding: str
) -> None:
    head, entity = DOCTYPES[kind]

    def edit(data: bytes) -> bytes:
        text = data.decode().replace('encoding="UTF-8"', f'encoding="{encoding}"')
        text = text.replace("?>", "?>" + head, 1).replace("<missionId>", "<missionId>" + entity, 1)
        return text.encode(encoding)

    change(the(product, role), edit)
    error = assert_second_refused(product, pristine, "refused|XML")
    assert "root:" not in str(error)


def test_a_document_type_in_the_manifest_is_a_fault_and_the_files_are_read(
    product: Path, pristine: dict[Any, Arrays]
) -> None:
    change(product / "manifest.safe", substitute(r"\?>", "?>" + DOCTYPES["bomb"][0]))
    with limited():
        opened, found = open_product(product), read(product)
    assert "refused" in opened.faults[0].what
    assert opened.ipf_version is None
    assert all(same(found[key], value, ARRAYS) for key, value in pristine.items())


@pytest.mark.parametrize("version", ["", "9.99", "004.10", "banana", "001.10", "3"])
def test_unknown_versions_of_the_processor_are_noted(product: Path, pristine: dict[Any, Arrays], version: str) -> None:
    change(product / "manifest.safe", substitute(r'(name="Sentinel-1 IPF" version=")003.31', rf"\g<1>{version}"))
    opened = open_product(product)
    assert any("IPF" in note and (version or "not given") in note for note in opened.notes)
    found = read(product)
    assert all(same(found[key], value, ARRAYS) for key, value in pristine.items())


def test_unknown_satellites_are_noted(tmp_path: Path) -> None:
    images = [Image(shape=(30, 40), number=k, beam=f"WV{2 - k % 2}") for k in (1, 2)]
    opened = open_product(write_wv(tmp_path, images, Settings(mission="S1X")))
    assert any("S1X" in note for note in opened.notes)
    assert opened[2].metadata.mission == "S1X"
    assert np.isfinite(opened[1].to_dataset(None)["sigma0"].values).all()


def test_a_missing_image_number(wave: Path, tmp_path: Path) -> None:
    images = [Image(shape=(30, 40), number=k, beam=f"WV{2 - k % 2}") for k in (1, 2, 4)]
    opened = open_product(write_wv(tmp_path, images))
    assert list(opened) == [1, 2, 4]
    assert 3 not in opened
    with pytest.raises(ProductError, match="no image number 3"):
        opened[3]
    with pytest.raises(KeyError):
        opened[3]


def packed(product: Path, path: Path, extra: Callable[[zipfile.ZipFile], object]) -> Path:
    """The product as a zip file, with something beside it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        for file in sorted(p for p in product.rglob("*") if p.is_file()):
            pack.write(file, file.relative_to(product.parent))
        extra(pack)
    return path


@pytest.mark.parametrize(
    "name",
    ["../evil.xml", "{root}/annotation/../../../evil.xml", "/tmp/evil.xml", "C:/evil.xml", "{root}/a\\..\\evil.xml"],
)
def test_zip_traversal(product: Path, pristine: dict[Any, Arrays], tmp_path: Path, name: str) -> None:
    name = name.format(root=product.name)

    def extra(pack: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("evil")
        info.filename = name  # as it is: the constructor would clean it
        pack.writestr(info, b"<product/>")

    path = packed(product, tmp_path / "WV_traversal.zip", extra)
    found, opened = read(path), open_product(path)
    assert all(same(found[key], value) for key, value in pristine.items())
    assert any("leads out" in fault.what for fault in opened.faults)
    assert not list(tmp_path.rglob("evil.xml"))


def test_tar_traversal_and_links(product: Path, pristine: dict[Any, Arrays], tmp_path: Path) -> None:
    target = the(product, "annotation")
    path = tmp_path / "WV_links.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(product, product.name, filter=lambda info: None if info.name.endswith(target.name) else info)
        link = tarfile.TarInfo(f"{product.name}/annotation/{target.name}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        evil = tarfile.TarInfo("../../evil.xml")
        tar.addfile(evil, io.BytesIO(b""))
        tar.addfile(tarfile.TarInfo(f"{product.name}/fifo"), io.BytesIO(b""))
    # The noise and calibration of that image go by the same name: only its annotation may be lost with the link.
    assert_second_refused(path, pristine, "link")


def test_links_out_of_a_folder(product: Path, pristine: dict[Any, Arrays], tmp_path: Path) -> None:
    secret = tmp_path / "secret.xml"
    secret.write_bytes(the(product, "annotation").read_bytes())
    the(product, "annotation").unlink()
    (product / "annotation" / sorted(product.glob("measurement/*-002*"))[0].with_suffix(".xml").name).symlink_to(secret)
    assert_second_refused(product, pristine, "link")


def test_zip_bombs(product: Path, pristine: dict[Any, Arrays], tmp_path: Path) -> None:
    path = the(product, "annotation")
    name = path.relative_to(product.parent).as_posix()
    path.unlink()
    bomb = packed(product, tmp_path / "WV_bomb.zip", lambda pack: pack.writestr(name, bytes(64 * 2**20)))
    assert bomb.stat().st_size < 2**20
    assert_second_refused(bomb, pristine, "large|bomb|limit")
    small = packed(product, tmp_path / "WV_small.zip", lambda pack: pack.writestr(name, bytes(20 * 2**20)))
    assert_second_refused(small, pristine, "bomb|inflate")
    # The same, with a directory that lies about the size.
    data = bytearray(small.read_bytes())
    for place in (m.start() for m in re.finditer(struct.pack("<I", 20 * 2**20), data)):
        data[place : place + 4] = struct.pack("<I", 5000)
    small.write_bytes(data)
    assert_second_refused(small, pristine, "damaged|more than|read|annotation")


def test_a_measurement_that_inflates_to_more_than_it_should(
    product: Path, pristine: dict[Any, Arrays], tmp_path: Path
) -> None:
    path = the(product, "measurement")
    name, whole = path.relative_to(product.parent).as_posix(), path.read_bytes()
    path.unlink()
    pack = packed(product, tmp_path / "WV_tail.zip", lambda pack: pack.writestr(name, whole + bytes(64 * 2**20)))
    assert_second_refused(pack, pristine, "much more than its pixels")


def test_the_same_file_twice(product: Path, pristine: dict[Any, Arrays], tmp_path: Path) -> None:
    path = the(product, "calibration")
    name = path.relative_to(product.parent).as_posix()
    with pytest.warns(UserWarning, match="Duplicate"):
        pack = packed(product, tmp_path / "WV_twice.zip", lambda pack: pack.writestr(name, path.read_bytes()))
    assert_second_refused(pack, pristine, "more than once")


def test_what_is_no_product(wave: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.zip").write_text("not a zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as pack:
        pack.writestr("holiday/beach.jpg", b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "beach.jpg").write_bytes(b"")
    shutil.copytree(wave, tmp_path / "parent" / wave.name)
    cases = {
        "empty": "0 files",
        "text.zip": "no zip",
        "other.zip": "beach.jpg",
        "folder": "beach.jpg",
        "parent": "files",
    }
    for name, found in cases.items():
        with pytest.raises(ProductError, match="no SAFE product") as caught:
            open_product(tmp_path / name)
        error = caught.value
        assert found in str(error.why)
        assert "manifest.safe" in str(error.why)  # what was expected
        assert ".SAFE" in str(error.fix)
    with pytest.raises(ProductError, match="no product"):
        open_product(tmp_path / "absent.SAFE")
    two = write_wv(tmp_path, [Image(shape=(20, 30))], Settings(mission="S1D"))
    both = packed(
        wave, tmp_path / "two.zip", lambda pack: pack.write(two / "manifest.safe", f"{two.name}/manifest.safe")
    )
    with pytest.raises(ProductError, match="no SAFE product") as caught:
        open_product(both)
    assert "2 products" in str(caught.value.why)


def test_one_polarisation_damaged(tmp_path: Path) -> None:
    image = Image(shape=(30, 40), beam="S2", signals=(Signal(), Signal(polarisation="VH", sigma0=0.02)))
    product = write_grd(tmp_path, image)
    (annotation,) = product.glob("annotation/*-vv-*.xml")
    expected = open_product(product)["s2"].to_dataset(None, polarisations="VH")
    (calibration,) = product.glob("annotation/calibration/calibration-*-vv-*.xml")
    change(calibration, substitute(r"(<sigmaNought[^>]*>)\S+", r"\g<1>NaN"))
    for _ in range(2):
        scene = open_product(product)["s2"]
        with pytest.raises(ProductError) as caught:
            scene.to_dataset(None, polarisations="VV")
        assert "-vv-" in str(caught.value.where)
        found = scene.to_dataset(None, polarisations="VH")
        assert np.array_equal(found["sigma0"].values, expected["sigma0"].values)
        annotation.write_bytes(b"<product/>")  # and now its annotation too
