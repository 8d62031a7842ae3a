"""Products as mappings: what is listed, what is told about damage, and that the rest is read."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safe_products import SHAPE, expected, member, replace_bytes, substitute, trapped, wave_mode

import groundswell as gs
from groundswell.errors import ProductError
from groundswell.products.safe.container import Container
from groundswell.products.safe_writer.model import Image, Settings, Signal, truth_of
from groundswell.products.safe_writer.writer import write_grd, write_wv


def sound(product: Path, number: int = 2) -> None:
    """An imagette of a `wave_mode` product is read as it was written."""
    image = trapped(number, "WV1" if number % 2 else "WV2")
    data = gs.open_product(product)[number].to_dataset(spacing_m=None)
    scale = np.abs(expected(image)) + truth_of(image).nesz(np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1]))
    np.testing.assert_array_less(np.abs(data.sigma0.values - expected(image)), 1e-5 * scale)


def test_sixty_imagettes_are_listed_and_opened_without_their_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [Image(shape=(20, 30), beam="WV1" if n % 2 else "WV2", number=n, grid=(2, 2)) for n in range(1, 61)]
    path = write_wv(tmp_path, images)
    opened: list[str] = []
    before = Container.open
    monkeypatch.setattr(Container, "open", lambda self, name: (opened.append(name), before(self, name))[1])
    product = gs.open_product(path)
    assert list(product) == list(range(1, 61))
    assert len(product) == 60
    assert 7 in product
    assert 61 not in product
    assert opened == ["manifest.safe"]
    scenes = [product[number] for number in product]
    assert [scene.annotation.header.image_number for scene in scenes] == list(range(1, 61))
    assert [scene.metadata.beam for scene in scenes[:4]] == ["WV1", "WV2", "WV1", "WV2"]
    assert len(opened) == 61
    assert not any("measurement" in name or "calibration" in name for name in opened)
    assert not product.faults


def test_each_imagette_has_its_own_tables_and_pixels(tmp_path: Path) -> None:
    # Two of one beam: a reader that groups by beam gives one of them the tables of the other, 6 dB off.
    signals = [Signal(sigma0=0.05), Signal(sigma0=0.2, nesz_db=-19.0)]
    images = [Image(shape=(60, 80), beam="WV1", number=n, signals=(s,)) for n, s in zip((1, 3), signals, strict=True)]
    product = gs.open_product(write_wv(tmp_path, images))
    for number, level, nesz_db in ((1, 0.05, -22.0), (3, 0.2, -19.0)):
        data = product[number].to_dataset(spacing_m=None)
        assert float(data.sigma0.mean()) == pytest.approx(level, rel=0.1)
        assert 10 * np.log10(float(data.nesz.mean())) == pytest.approx(nesz_db, abs=0.1)


@pytest.mark.parametrize("container", ["zip", "tar"])
def test_packed_products_give_the_same_numbers(tmp_path: Path, container: str) -> None:
    path = wave_mode(tmp_path / "a", settings=Settings(container=container))  # type: ignore[arg-type]
    sound(path)
    assert sorted(tmp_path.rglob("*")) == sorted([tmp_path / "a", path]), "nothing was unpacked"
    assert gs.open_product(path).id == path.stem


def test_gzipped_tar(tmp_path: Path) -> None:
    folder = wave_mode(tmp_path)
    path = tmp_path / "product.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    sound(path)
    assert gs.open_product(path).id == folder.stem


def test_the_manifest_and_another_name_of_the_folder_are_taken(tmp_path: Path) -> None:
    path = wave_mode(tmp_path)
    assert list(gs.open_product(path / "manifest.safe")) == [1, 2]
    renamed = path.rename(tmp_path / "anything")
    assert list(gs.open_product(renamed)) == [1, 2]


def test_scenes_travel_to_other_processes(tmp_path: Path) -> None:
    scene = pickle.loads(pickle.dumps(gs.open_product(wave_mode(tmp_path, 1))))[1]
    assert scene.to_dataset().sigma0.notnull().all()


@pytest.mark.parametrize("letter", ["C", "D", "Z"])
def test_any_satellite_letter(tmp_path: Path, letter: str) -> None:
    product = gs.open_product(wave_mode(tmp_path, 1, Settings(mission=f"S1{letter}")))
    assert product[1].metadata.mission == f"S1{letter}"
    assert any(f"S1{letter}" in note for note in product.notes) == (letter == "Z")


def test_unknown_processor_version_is_noted(tmp_path: Path) -> None:
    path = wave_mode(tmp_path)
    replace_bytes(path, "manifest.safe", substitute('version="003.31"', 'version="009.99"'))
    product = gs.open_product(path)
    assert product.ipf_version == "009.99"
    assert any("009.99" in note for note in product.notes)
    sound(path)


def test_version_is_that_of_the_outermost_step(tmp_path: Path) -> None:
    path = wave_mode(tmp_path, 1)
    text = (path / "manifest.safe").read_text()
    software = '<safe:software name="Sentinel-1 IPF" version="002.90"/>'
    inner = f'<safe:processing name="older"><safe:facility name="x">{software}</safe:facility></safe:processing>'
    head, tag, tail = text.partition("<safe:processing")
    tail = tail.replace(">", f"><safe:resource name='r'>{inner}</safe:resource>", 1)
    (path / "manifest.safe").write_text(head + tag + tail)
    assert gs.open_product(path).ipf_version == "003.31"


def test_a_missing_number_is_named_and_is_a_key_error(tmp_path: Path) -> None:
    images = [Image(shape=(20, 30), number=n, grid=(2, 2)) for n in (1, 2, 4)]
    product = gs.open_product(write_wv(tmp_path, images))
    assert list(product) == [1, 2, 4]
    with pytest.raises(ProductError, match="no image number 3"):
        product[3]
    assert product.get(3) is None
    with pytest.raises(KeyError):
        product["wv1"]


def test_swaths_are_keyed_by_name(tmp_path: Path) -> None:
    for beam, key in (("IW", "iw"), ("EW", "ew"), ("S3", "s3")):
        path = write_grd(tmp_path / beam, Image(shape=(30, 40), beam=beam, grid=(2, 2)))
        assert list(gs.open_product(path)) == [key]
        assert gs.open_product(path)[key.upper()].polarisations == ("VV",)


STEM = "*-wv1-slc-vv-*-001"
FILES = {
    "annotation": f"annotation/{STEM}.xml",
    "calibration": f"annotation/calibration/calibration-{STEM}.xml",
    "noise": f"annotation/calibration/noise-{STEM}.xml",
    "measurement": f"measurement/{STEM}.tiff",
}
DECLARATION, GRID_POINT = r"(<\?xml[^>]*>)", "<geolocationGridPoint>.*?</geolocationGridPoint>"
BOMB = '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
REMOTE = '<!ENTITY % x SYSTEM "http://127.0.0.1:9"> %x;'
SIGMA, NOISE = r'(<sigmaNought count="\d+">)', r'(<noiseRangeLut count="\d+">)'
SIZE = "does not have the size that its annotation says"
# What is changed, in which file of the first imagette, to what, and what is told.
EDITS = {
    "fewer lines": ("annotation", "<numberOfLines>300", "<numberOfLines>299", SIZE),
    "more samples": ("annotation", "<numberOfSamples>420", "<numberOfSamples>421", SIZE),
    "no lines": ("annotation", "<numberOfLines>300", "<numberOfLines>0", "numberOfLines"),
    "absent element": ("annotation", "<azimuthPixelSpacing>.*?</azimuthPixelSpacing>", "", "azimuthPixelSpacing"),
    "no image number": ("annotation", "<imageNumber>001</imageNumber>", "", "imageNumber"),
    "another number": ("annotation", "<imageNumber>001", "<imageNumber>002", "of another image"),
    "latitude": ("annotation", "<latitude>[^<]*", "<latitude>123", "latitude"),
    "lost point": ("annotation", GRID_POINT, "", "geolocationGrid"),
    "half a document": ("annotation", "<imageAnnotation>.*", "", "no well-formed XML"),
    "bomb": ("annotation", DECLARATION, rf"\g<1><!DOCTYPE product [{BOMB}]>", "is refused"),
    "file": ("annotation", DECLARATION, r'\g<1><!DOCTYPE product SYSTEM "file:///etc/passwd">', "is refused"),
    "net": (
        "annotation",
        DECLARATION,
        r'\g<1><!DOCTYPE p [<!ENTITY % x SYSTEM "http://127.0.0.1:9"> %x;]>',
        "is refused",
    ),
    "foreign tables": ("calibration", "<swath>WV1", "<swath>WV2", "of another image"),
    "NaN": ("calibration", SIGMA + r"\S+", r"\g<1>nan", "sigmaNought"),
    "short table": ("calibration", SIGMA + r"\S+ ", r"\g<1>", "sigmaNought> is incomplete"),
    "absent table": ("calibration", "<sigmaNought.*?</sigmaNought>", "", "sigmaNought> is missing"),
    "negative table": ("calibration", SIGMA, r"\g<1>-", "not positive"),
    "infinite noise": ("noise", NOISE + r"\S+", r"\g<1>inf", "noiseRangeLut"),
}


@pytest.mark.parametrize("name", EDITS)
def test_damage_is_named_and_the_rest_is_read(tmp_path: Path, name: str) -> None:
    product = wave_mode(tmp_path)
    role, before, after, told = EDITS[name]
    replace_bytes(product, FILES[role], substitute(before, after))
    with pytest.raises(ProductError, match=told) as caught:
        gs.open_product(product)[1].to_dataset()
    assert "-001" in str(caught.value.where)
    assert list(gs.open_product(product)) == [1, 2]
    sound(product, 2)


@pytest.mark.parametrize("role", ["annotation", "calibration", "measurement"])
def test_a_missing_file_is_named_and_the_rest_is_read(tmp_path: Path, role: str) -> None:
    product = wave_mode(tmp_path)
    path = member(product, FILES[role])
    path.unlink()
    with pytest.raises(ProductError, match=f"{path.name} is missing"):
        gs.open_product(product)[1].to_dataset()
    assert [fault.file for fault in gs.open_product(product).faults] == [str(path.relative_to(product))]
    sound(product, 2)


def test_a_table_that_is_not_the_one_of_the_manifest_is_not_used(tmp_path: Path) -> None:
    # One digit of one value: nothing but the checksum can tell.
    product = wave_mode(tmp_path)
    replace_bytes(product, FILES["calibration"], substitute(SIGMA + "3", r"\g<1>4"), honest=False)
    with pytest.raises(ProductError, match="not what the manifest says"):
        gs.open_product(product)[1].to_dataset()
    sound(product, 2)


@pytest.mark.parametrize("change", ["gone", "bomb", "empty", "halved"])
def test_without_a_sound_manifest_the_files_are_read_and_the_fault_is_told(tmp_path: Path, change: str) -> None:
    path = wave_mode(tmp_path)
    manifest = path / "manifest.safe"
    if change == "gone":
        manifest.unlink()
    else:
        text = manifest.read_text()
        bomb = text.replace("?>", '?><!DOCTYPE x [<!ENTITY a "b">]>', 1)
        manifest.write_text({"bomb": bomb, "empty": "", "halved": text[: len(text) // 2]}[change])
    product = gs.open_product(path)
    assert list(product) == [1, 2]
    assert product.ipf_version is None
    assert product.faults[0].file == "manifest.safe"
    assert any("unknown" in note for note in product.notes)
    sound(path)


def test_faults_name_what_manifest_and_folder_disagree_on(tmp_path: Path) -> None:
    path = wave_mode(tmp_path)
    member(path, FILES["measurement"]).unlink()
    noise = member(path, "annotation/calibration/noise-*-002.xml")
    noise.write_bytes(noise.read_bytes() + b" ")
    stray = path / "annotation" / member(path, FILES["annotation"]).name.replace("-001.", "-009.")
    stray.write_text("<product/>")
    told = {Path(fault.file).name: fault.what for fault in gs.open_product(path).faults}
    assert len(told) == 3
    assert "does not hold it" in next(what for name, what in told.items() if name.endswith("001.tiff"))
    assert "bytes where the manifest says" in told[noise.name]
    assert "does not list it" in told[stray.name]


def test_two_polarisations_one_damaged(tmp_path: Path) -> None:
    signals = (Signal(polarisation="VV"), Signal(polarisation="VH", sigma0=0.01))
    path = write_grd(tmp_path, Image(shape=(60, 80), beam="S4", signals=signals))
    member(path, "measurement/*-vh-*").unlink()
    scene = gs.open_product(path)["s4"]
    assert scene.to_dataset(polarisations="VV").sigma0.notnull().all()
    with pytest.raises(ProductError, match=r"tiff is missing"):
        scene.to_dataset()
    member(path, "annotation/*-vv-*").write_text("<product>")
    with pytest.raises(ProductError):
        gs.open_product(path)["s4"].image("VV")
    assert gs.open_product(path)["s4"].annotation.header.polarisation == "VH"


def test_other_products_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "S1A_WV_OCN__2SSV_20210403T083025_20210403T084452_026300_032390_D542.SAFE"
    (folder / "measurement").mkdir(parents=True)
    (folder / "manifest.safe").write_text("<XFDU/>")
    (folder / "measurement" / "s1a-wv1-ocn-vv-20210403t083025-20210403t083028-026300-032390-001.nc").write_bytes(b"")
    with pytest.raises(ProductError, match="no image that can be read") as caught:
        gs.open_product(folder)
    assert "SLC or GRD" in str(caught.value)
