"""Folders, zip and tar files as products: the same bytes, and nothing read that must not be."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundswell.errors import ProductError
from groundswell.products.safe.container import METADATA_LIMIT, Container, open_container

NAME = "S1A_WV_SLC__1SSV_20210403T083025_20210403T084452_026300_032390_D542.SAFE"
CONTENT = {
    "manifest.safe": b"<XFDU/>",
    "annotation/a.xml": b"<product>" + b"x" * 5000 + b"</product>",
    "measurement/a.tiff": os.urandom(70_000),
}


def write(folder: Path, kind: str, extra: dict[str, bytes] | None = None, root: str = f"{NAME}/") -> Path:
    """The content as a folder, a stored or deflated zip, or a tar, plain or gzipped."""
    files = {root + name: data for name, data in CONTENT.items()} | (extra or {})
    if kind == "folder":
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder / root
    path = folder / {"stored": "p.zip", "zip": "p.zip", "tar": "p.tar", "gz": "p.tar.gz"}[kind]
    if kind in ("stored", "zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if kind == "zip" else zipfile.ZIP_STORED) as pack:
            for name, data in files.items():
                pack.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if kind == "gz" else "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


KINDS = ("folder", "stored", "zip", "tar", "gz")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_files_and_bytes_from_every_kind(tmp_path: Path, kind: str) -> None:
    container = open_container(write(tmp_path, kind))
    assert container.names == tuple(sorted(CONTENT))
    assert container.product == NAME.removesuffix(".SAFE")
    assert not container.refused
    for name, data in CONTENT.items():
        assert container.size(name) == len(data)
        assert container.read(name) == data
        with container.open(name) as one, container.open(name) as two:  # which share nothing
            one.seek(5000 % len(data))
            assert two.read(7) == data[:7]
            assert one.read(100) == data[5000 % len(data) :][:100]
            one.seek(0)
            assert one.read() == data
        with container.stream(name) as stream:
            stream.seek(3)
            assert stream.read(len(data)) == data[3:]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_product_at_the_top_of_an_archive(tmp_path: Path, kind: str) -> None:
    container = open_container(write(tmp_path, kind, root=""))
    assert container.names == tuple(sorted(CONTENT))
    assert container.product == "p"


@pytest.mark.parametrize("kind", ["zip", "gz"])
def test_a_packed_file_is_compared_with_the_manifest_at_its_end(tmp_path: Path, kind: str) -> None:
    container = open_container(write(tmp_path, kind))
    false = Container(
        container.path, container.product, container.kind, container.members, {}, {"measurement/a.tiff": "0" * 32}
    )
    with false.stream("measurement/a.tiff") as stream:
        stream.seek(10)
        assert stream.read(4) == CONTENT["measurement/a.tiff"][10:14]
        with pytest.raises(ProductError, match="not what the manifest says"):
            stream.finish()


EVIL = (
    "../evil.xml", "/etc/evil.xml", f"{NAME}/../../evil.xml", "C:/evil.xml", f"{NAME}\\annotation\\evil.xml",
    f"{NAME}/annotation/../../evil.xml",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "tar", "gz"])
@pytest.mark.parametrize("name", EVIL)
def test_names_that_lead_out_are_refused_and_the_rest_is_read(tmp_path: Path, kind: str, name: str) -> None:
    container = open_container(write(tmp_path, kind, {name: b"evil"}))
    assert container.names == tuple(sorted(CONTENT))
    assert any("leads out" in reason for reason in container.refused.values())
    assert container.read("manifest.safe") == b"<XFDU/>"
    assert not list(tmp_path.parent.glob("evil*"))


def test_doubles_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "zip")
    with zipfile.ZipFile(path, "a") as pack, pytest.warns(UserWarning, match="Duplicate"):
        pack.writestr(f"{NAME}/annotation/a.xml", b"<product>another</product>")
    container = open_container(path)
    with pytest.raises(ProductError, match="more than once"):
        container.read("annotation/a.xml")
    assert container.read("manifest.safe") == b"<XFDU/>"
    again = tmp_path / "twice.tar"
    with tarfile.open(again, "w") as tar:
        for data in (b"one", b"two", b"three"):
            for name in ("manifest.safe", "annotation/a.xml"):
                info = tarfile.TarInfo(f"{NAME}/./{name}" if data == b"two" else f"{NAME}/{name}")
                info.size = len(data)
                if name != "manifest.safe" or data == b"one":
                    tar.addfile(info, io.BytesIO(data))
    with pytest.raises(ProductError, match="more than once"):
        open_container(again).read("annotation/a.xml")


def test_links_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.xml"
    secret.write_text("<secret/>")
    folder = write(tmp_path, "folder")
    (folder / "annotation/link.xml").symlink_to(secret)
    (folder / "annotation/inside.xml").symlink_to("a.xml")
    (folder / "calibration").symlink_to(tmp_path)
    os.mkfifo(folder / "annotation/pipe.xml")  # opening it would wait for ever
    container = open_container(folder)
    for name, why in (("annotation/link.xml", "link out"), ("annotation/pipe.xml", "neither"), ("calibration", "link")):
        with pytest.raises(ProductError, match=why):
            container.read(name)
    assert container.read("annotation/inside.xml") == CONTENT["annotation/a.xml"]
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as pack:
        pack.writestr(f"{NAME}/manifest.safe", b"<XFDU/>")
        info = zipfile.ZipInfo(f"{NAME}/annotation/link.xml")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        pack.writestr(info, str(secret))
    with tarfile.open(tmp_path / "l.tar", "w") as tar:
        tar.add(folder / "manifest.safe", f"{NAME}/manifest.safe")
        link = tarfile.TarInfo(f"{NAME}/annotation/link.xml")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    for kind in ("zip", "tar"):
        with pytest.raises(ProductError, match="link"):
            open_container(tmp_path / f"l.{kind}").read("annotation/link.xml")


def test_bombs_are_refused_before_they_inflate(tmp_path: Path) -> None:
    zeros = {f"{NAME}/annotation/bomb.xml": bytes(20 * 2**20), f"{NAME}/annotation/big.xml": bytes(METADATA_LIMIT + 1)}
    container = open_container(write(tmp_path, "zip", zeros))
    with pytest.raises(ProductError, match="like a bomb"):
        container.read("annotation/bomb.xml")
    with pytest.raises(ProductError, match="too large"):
        container.read("annotation/big.xml")
    assert container.read("annotation/a.xml") == CONTENT["annotation/a.xml"]
    packed = write(tmp_path, "gz", {f"{NAME}/zeros": bytes(260 * 2**20)})
    with pytest.raises(ProductError, match="inflates to more than"):
        open_container(packed)


def test_a_size_that_lies_is_found_out(tmp_path: Path) -> None:
    # The directory of the zip says 100 bytes for a member that inflates to 20 MB.
    path = write(tmp_path, "zip", {f"{NAME}/annotation/liar.xml": bytes(20 * 2**20)})
    data = bytearray(path.read_bytes())
    at = data.rindex(f"{NAME}/annotation/liar.xml".encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    data[at + 24 : at + 28] = struct.pack("<I", 100)
    path.write_bytes(bytes(data))
    container = open_container(path)
    assert container.size("annotation/liar.xml") == 100
    with pytest.raises(ProductError):
        container.read("annotation/liar.xml")


def test_what_is_no_product_is_told_with_what_was_found(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "cat.png").write_bytes(b"meow")
    with zipfile.ZipFile(tmp_path / "cats.zip", "w") as pack:
        pack.writestr("cat.png", b"meow")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cat.safe").write_bytes(b"meow")
    for name, found in (
        ("pictures", "cat.png"),
        ("cats.zip", "cat.png"),
        ("empty", "0 files"),
        ("cat.safe", "4 bytes"),
    ):
        with pytest.raises(ProductError, match="no SAFE") as caught:
            open_container(tmp_path / name)
        assert found in str(caught.value.why)
        assert "manifest.safe" in str(caught.value.why)
    with pytest.raises(ProductError, match="no product"):
        open_container(tmp_path / "nowhere")


def test_two_products_in_one_archive_are_told(tmp_path: Path) -> None:
    other = {f"other.SAFE/{name}": data for name, data in CONTENT.items()}
    path = write(tmp_path, "zip", other)
    with pytest.raises(ProductError, match="no SAFE") as caught:
        open_container(path)
    assert "2 products" in str(caught.value.why)


@pytest.mark.parametrize("kind", ["zip", "stored", "tar", "gz"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_archives_give_the_same_bytes_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    path = write(folder, kind)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            # Mostly outside the pixels, whose bytes nothing but a checksum of the manifest protects in a plain file.
            at = data.draw(st.one_of(st.integers(0, 9000), st.integers(len(content) - 1200, len(content) - 1)))
            content[at % len(content)] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        container = open_container(path)
        found = {name: container.read(name) for name in container.names}
    except ProductError:
        return
    if kind == "zip":  # where every member has a checksum of its own
        known = set(CONTENT.values())
        assert all(len(value) == container.size(name) for name, value in found.items())
        assert all(value in known for value in found.values())


def test_names_in_a_long_tail_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundswell.products.safe.packed.MEMBER_LIMIT", 10)
    many = {f"{NAME}/support/{i}.xsd": b"x" for i in range(20)}
    for kind in ("zip", "tar"):
        with pytest.raises(ProductError, match="cannot be read") as caught:
            open_container(write(tmp_path, kind, many))
        assert "more than 10 files" in str(caught.value)
