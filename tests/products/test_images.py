"""Image folders as a source: ids, channels, quantities, masks, boxes, and what is set aside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from geo_tiles import decibels, write_tile
from mutants import HEIGHT, SAMPLES, WIDTH, changed, speckled, truncated, write_samples
from PIL import Image

from groundswell.archive.ingest import ingest, plan_ingest
from groundswell.archive.planning import Options
from groundswell.errors import DataError, QuantityError, UsageError
from groundswell.physics.imagette import Box, Channel, FarRange, Imagette, Quantity, turn
from groundswell.products.folder import plan
from groundswell.products.folder.files import Facts
from groundswell.products.folder.images import FolderSettings, ImageFolder
from groundswell.products.folder.labels import Columns
from groundswell.products.folder.survey import list_images, size_leak
from groundswell.products.source import Rejected

GREY = np.clip(speckled()[0] * 1000, 0, 255).astype(np.uint8)
AMPLITUDE = FolderSettings(quantity=Quantity.AMPLITUDE)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(1, 250, size).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def only(folder: ImageFolder) -> Imagette:
    (item,) = folder.read(folder.ids())
    assert isinstance(item, Imagette), item
    return item


def reason(folder: ImageFolder, id_: str) -> str:
    (item,) = folder.read([id_])
    assert isinstance(item, Rejected)
    assert item.id == id_
    return item.reason


def test_ids_are_sorted_relative_paths(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a.PNG", ".hidden/x.png", "b/.x.png"):
        picture(tmp_path / name)
    (tmp_path / "b/notes.txt").write_text("no image")
    (tmp_path / "b/loop").symlink_to(tmp_path)
    listing = list_images([tmp_path])
    assert list(listing.files) == ["a.PNG", "b/10.png", "b/2.png"]
    assert listing.ignored == {".txt": 1}
    # the same files, named twice and from several roots, keep one id each
    assert list(list_images([tmp_path / "b", tmp_path / "b/2.png", tmp_path / "a.PNG"]).files) == list(listing.files)
    # links are followed, once
    assert list(list_images([tmp_path / "b"]).files) == ["10.png", "2.png", "loop/a.PNG"]
    with pytest.raises(DataError, match="no such file"):
        list_images([tmp_path / "absent"])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no image file"):
        list_images([tmp_path / "none"])


def test_batches_do_not_matter(tmp_path: Path) -> None:
    expected = {f"{i}.png": picture(tmp_path / f"{i}.png", i) for i in range(5)}
    folder = ImageFolder([tmp_path], AMPLITUDE)
    together = folder.read(folder.ids())
    alone = [folder.read([id_])[0] for id_ in folder.ids()]
    for id_, a, b in zip(folder.ids(), together, alone, strict=True):
        assert isinstance(a, Imagette)
        assert isinstance(b, Imagette)
        assert a.metadata == b.metadata
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.pixels[0], expected[id_])
    assert json.loads(json.dumps(folder.description)) == folder.description
    assert ImageFolder([tmp_path], AMPLITUDE).description == folder.description


def test_quantity_is_declared_unless_the_name_says_quicklook(tmp_path: Path) -> None:
    picture(tmp_path / "s1b-wv2-QL-hh-20190127t034810-20190127t034813-025657-02d985-058.png")
    item = only(ImageFolder([tmp_path]))
    assert item.channels == (Channel("HH", Quantity.QUICKLOOK),)
    assert (item.metadata.beam, item.metadata.group) == ("WV2", "S1B-02D985")
    picture(tmp_path / "other.png")
    with pytest.raises(QuantityError) as caught:
        ImageFolder([tmp_path])
    assert caught.value.where == "other.png"
    assert all(q.value in str(caught.value.fix) for q in Quantity)


def test_digital_numbers_declared_sigma0_are_refused(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / f"{i}.png", i)
    with pytest.raises(QuantityError, match="whole number") as caught:
        ImageFolder([tmp_path], FolderSettings(quantity=Quantity.SIGMA0))
    assert "amplitude" in str(caught.value.fix)


def test_one_image_of_a_wrong_level_is_set_aside(tmp_path: Path) -> None:
    for i in range(9):
        np.save(tmp_path / f"{i}.npy", speckled(seed=i)[0] * (1 if i != 4 else 1e5))
    folder = ImageFolder([tmp_path], FolderSettings(quantity=Quantity.SIGMA0))
    assert "digital numbers" in reason(folder, "4.npy")
    assert sum(isinstance(item, Imagette) for item in folder.read(folder.ids())) == 8


def two_kinds(tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    one, two = speckled(1, 1), speckled(2, 2)
    tifffile.imwrite(tmp_path / "one.tif", one[0])
    tifffile.imwrite(tmp_path / "two.tif", np.moveaxis(two, 0, -1), planarconfig="contig", photometric="minisblack")
    return one, two


def test_mixed_channels(tmp_path: Path) -> None:
    one, two = two_kinds(tmp_path)
    sigma0 = FolderSettings(quantity=Quantity.SIGMA0)
    with pytest.raises(DataError, match="no channel in common") as caught:
        ImageFolder([tmp_path], sigma0)
    assert "--bands" in str(caught.value.fix)

    bands = (("VV",), ("VH", "VV"))
    shared = ImageFolder([tmp_path], FolderSettings(quantity=Quantity.SIGMA0, bands=bands))
    assert shared.channels == (Channel("VV", Quantity.SIGMA0),)
    a, b = shared.read(shared.ids())
    assert isinstance(a, Imagette)
    assert isinstance(b, Imagette)
    assert np.array_equal(a.pixels, one)
    assert np.array_equal(b.pixels, two[1:])  # VV is the second band of the file
    assert b.metadata.polarisations == "VV"

    with pytest.raises(DataError, match="1 of 2 files have no channel 'VH'"):
        ImageFolder([tmp_path], FolderSettings(quantity=Quantity.SIGMA0, bands=bands, channels=("VV", "VH")))
    both = ImageFolder(
        [tmp_path],
        FolderSettings(quantity=Quantity.SIGMA0, bands=bands, channels=("VV", "VH"), allow_missing_channel=True),
    )
    a, b = both.read(both.ids())
    assert isinstance(a, Imagette)
    assert isinstance(b, Imagette)
    assert np.isnan(a.pixels[1]).all()
    assert np.array_equal(b.pixels, two[::-1])
    # a channel that is there but empty is a fault of the file, not a missing channel
    hollow = two.copy()
    hollow[0] = np.nan
    np.save(tmp_path / "z.npy", hollow)
    assert "no valid pixel in VH" in reason(ImageFolder([tmp_path], both.settings), "z.npy")
    with pytest.raises(UsageError, match="'HV'"):
        ImageFolder([tmp_path], FolderSettings(quantity=Quantity.SIGMA0, bands=bands, channels=("HV",)))


def test_colour_among_grey(tmp_path: Path) -> None:
    colour = np.stack([GREY, GREY // 2, GREY // 3], -1)
    for i in range(3):
        Image.fromarray(np.stack([GREY] * 3, -1)).save(tmp_path / f"grey{i}.png")
    Image.fromarray(colour).save(tmp_path / "z.png")
    folder = ImageFolder([tmp_path], AMPLITUDE)
    assert [c.name for c in folder.channels] == ["intensity"]
    assert "--colour-to-grey" in reason(folder, "z.png")
    grey = ImageFolder([tmp_path], FolderSettings(quantity=Quantity.AMPLITUDE, colour_to_grey=True))
    (item,) = grey.read(["z.png"])
    assert isinstance(item, Imagette)
    expected = colour.astype(np.float64) @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    np.testing.assert_allclose(item.pixels[0], expected, atol=1e-4)  # float32 sums of three terms up to 255
    (item,) = grey.read(["grey0.png"])
    assert isinstance(item, Imagette)
    assert np.array_equal(item.pixels[0], GREY)


def test_labels_masks_boxes_and_metadata_meet_their_image(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    masks.mkdir()
    for i in range(4):
        picture(images / f"{i}.png", i)
    yes = np.zeros((HEIGHT, WIDTH), np.uint8)
    yes[3:9] = 255
    Image.fromarray(yes).save(masks / "0.png")
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(masks / "1.png")
    Image.fromarray(yes[:5]).save(masks / "2.png")
    (tmp_path / "labels.csv").write_text(
        "file,oil,lon,product,m\n0.png,1,2.5,p1,masks/0.png\n1.png,0,3,p2,masks/1.png\n2.png,0,4,p2,masks/2.png\n"
    )
    coco = {
        "images": [
            {"id": 1, "file_name": "0.png", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "1.png", "width": HEIGHT, "height": WIDTH},
        ],
        "categories": [{"id": 1, "name": "ship"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    settings = FolderSettings(
        quantity=Quantity.AMPLITUDE,
        labels=tmp_path / "labels.csv",
        boxes=tmp_path / "coco.json",
        columns=Columns(group="product", masks=("m",)),
    )
    # From the parent folder, the masks are image files too; those that the table names are left out.
    folder = ImageFolder([tmp_path], settings)
    assert folder.ids() == [f"images/{i}.png" for i in range(4)]
    assert folder.mask_names == ("m",)
    first, second, third, fourth = folder.read(folder.ids())
    assert isinstance(first, Imagette)
    assert first.labels == {"oil": 1}
    assert (first.metadata.lon, first.metadata.group) == (2.5, "p1")
    assert np.array_equal(first.masks["m"], yes // 255)  # 255 is yes here, and would be unknown in the archive
    assert first.boxes == [Box("ship", 1.0, 2.0, 3.0, 4.0)]
    assert isinstance(second, Rejected)
    assert "wrong size" in second.reason
    assert isinstance(third, Rejected)
    assert "its mask is (5, 20)" in third.reason
    assert isinstance(fourth, Imagette)
    assert fourth.labels == {"oil": None}
    assert fourth.masks == {}
    assert "1 images have no row" in plan.notes(folder, "crop")[0]

    labelled = ImageFolder([tmp_path], FolderSettings(**{**_fields(settings), "only_labelled": True, "boxes": None}))
    assert labelled.ids() == [f"images/{i}.png" for i in range(3)]


@pytest.mark.parametrize("side", ["up", "left", "down"])
def test_turned_images_take_their_masks_and_boxes_along(tmp_path: Path, side: FarRange) -> None:
    pixels = picture(tmp_path / "a.png")
    mask = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    (tmp_path / "labels.csv").write_text("file,mask,azimuth_spacing_m,range_spacing_m\na.png,a_mask.png,4,20\n")
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "ship"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    settings = FolderSettings(
        quantity=Quantity.AMPLITUDE,
        far_range=side,
        labels=tmp_path / "labels.csv",
        boxes=tmp_path / "coco.json",
        columns=Columns(masks=("mask",)),
    )
    folder = ImageFolder([tmp_path], settings)
    image = only(folder)
    edges = {"up": pixels[0], "left": pixels[::-1, 0], "down": pixels[-1, ::-1]}  # far range, by azimuth
    assert np.array_equal(image.pixels[0, :, -1], edges[side])
    assert np.array_equal(image.masks["mask"], turn(mask, side))
    box = image.boxes[0]
    held = image.pixels[0, int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)]
    assert np.array_equal(held, turn(pixels[2:6, 1:4], side))  # the box is round the same pixels
    assert (image.metadata.azimuth_spacing_m, image.metadata.range_spacing_m) == (4, 20)  # the table names its axes
    assert folder.sizes() == {"a.png": image.pixels.shape[1:]}
    assert folder.description["far_range"] == side
    assert "far_range" not in ImageFolder([tmp_path / "a.png"], AMPLITUDE).description  # as it always was


def test_a_file_that_knows_its_axes_is_not_turned(tmp_path: Path) -> None:
    write_tile(tmp_path / "a.tif", decibels())
    settings = FolderSettings(quantity=Quantity.SIGMA0_DB, far_range="up")
    assert "leave out --far-range" in reason(ImageFolder([tmp_path], settings), "a.tif")


def _fields(settings: FolderSettings) -> dict[str, object]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def test_masks_of_classes_keep_their_values(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    classes = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    classes[0, 0] = 255
    Image.fromarray(classes).save(tmp_path / "a_mask.png")
    (tmp_path / "labels.csv").write_text("file,mask\na.png,a_mask.png\n")
    settings = FolderSettings(
        quantity=Quantity.AMPLITUDE, labels=tmp_path / "labels.csv", columns=Columns(masks=("mask",))
    )
    assert np.array_equal(only(ImageFolder([tmp_path], settings)).masks["mask"], classes)


def test_a_trace_of_size_is_named() -> None:
    def facts(size: int) -> Facts:
        return Facts("png", 1, size, size, "uint8")

    sizes = {str(i): facts((20, 30)[i % 2]) for i in range(40)}
    strength, words = size_leak(sizes, {str(i): ("a", "b")[i % 2] for i in range(40)}) or (0.0, "")
    assert strength == pytest.approx(0.5)  # all right against half
    assert "100 %" in words
    # a label that has nothing to do with size: half of each size is right, as of all
    strength, _ = size_leak(sizes, {str(i): ("a", "b")[i // 2 % 2] for i in range(40)}) or (1.0, "")
    assert strength <= 0.0
    # as many sizes as images tell nothing, however well they would fit
    each = {str(i): facts(20 + i) for i in range(40)}
    strength, _ = size_leak(each, {str(i): ("a", "b")[i // 2 % 2] for i in range(40)}) or (1.0, "")
    assert strength <= 0.0
    strength, _ = size_leak(each, {str(i): 3.0 * i for i in range(40)}) or (0.0, "")
    assert strength == pytest.approx(1.0)  # a rank correlation of one
    assert size_leak({i: facts(20) for i in sizes}, dict.fromkeys(sizes, "a")) is None


def test_two_hundred_damaged_files_in_one_folder(tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples")
    folder_path = tmp_path / "folder"
    folder_path.mkdir()
    count = 0
    for name in SAMPLES:
        content, suffix = samples[name].read_bytes(), samples[name].suffix
        mutants = [*truncated(content, 7), *(m for _, m in changed(content, 9, seed=count))]
        for mutant in mutants:
            (folder_path / f"{count:03d}_{name.split('.')[0]}{suffix}").write_bytes(mutant)
            count += 1
    assert count >= 200
    bands = (("VV",), ("VV", "VH"))
    # A mutant whose bands have other names is one more file without VV.
    settings = FolderSettings(quantity=Quantity.AMPLITUDE, bands=bands, channels=("VV",), allow_missing_channel=True)
    folder = ImageFolder([folder_path], settings)
    items = folder.read(folder.ids())
    assert len(items) == count
    for item in items:
        if isinstance(item, Rejected):
            assert item.reason
        else:
            assert item.pixels.ndim == 3
            assert len(item.pixels) == 1
    rejected = sum(isinstance(item, Rejected) for item in items)
    assert rejected >= count // 3  # most truncated files, every damaged checksum


def test_mstar_by_its_table(real_data: Path) -> None:
    data = real_data / "mstar"
    settings = FolderSettings(
        quantity=Quantity.AMPLITUDE,
        labels=data / "labels.csv",
        columns=Columns(labels=("label", "serial"), masks=("mask",)),
    )
    folder = ImageFolder([data], settings)
    assert len(folder.ids()) == 7101  # the 5,172 masks below the same folder are no images
    assert folder.labels is not None
    assert folder.labels.unmatched_rows == []
    splits = [row.metadata["split"] for row in folder.labels.rows.values()]
    assert [splits.count(s) for s in ("train", "test", "eoc30", "eoc_version15")] == [2747, 2425, 1151, 778]
    ids = [id_ for id_ in folder.ids() if "/train/" in id_][::500] + [id_ for id_ in folder.ids() if "/eoc30/" in id_][
        :1
    ]
    for id_, item in zip(ids, folder.read(ids), strict=True):
        assert isinstance(item, Imagette)
        assert item.labels["label"] == id_.split("/")[2]
        assert np.array_equal(item.pixels[0], np.asarray(Image.open(data / id_)))
        assert set(item.masks) == (set() if "/eoc30/" in id_ else {"mask"})
    # The set's own README: pad and resize would give the class away by size.
    assert "label_label is told by size alone in 64 %" in plan.notes(folder, "pad")[0]
    assert plan.notes(folder, "crop") == []


def test_the_radar_of_mstar_looks_up(real_data: Path) -> None:
    """Once turned, shadows (2) fall beyond their targets (1) in range, and not to one side of them in azimuth."""
    data = real_data / "mstar"
    settings = FolderSettings(
        quantity=Quantity.AMPLITUDE, far_range="up", labels=data / "labels.csv", columns=Columns(masks=("mask",))
    )
    folder = ImageFolder([data], settings)
    ids = [id_ for id_ in folder.ids() if "/train/" in id_][::50]
    offsets = []
    for item in folder.read(ids):
        assert isinstance(item, Imagette)
        target, shadow = (np.argwhere(item.masks["mask"] == value).mean(axis=0) for value in (1, 2))
        offsets.append(shadow - target)
    azimuth, range_ = np.array(offsets).T
    assert range_.min() > 0
    assert abs(azimuth.mean()) < 0.1 * range_.mean()


def test_opensarship_bands(real_data: Path) -> None:
    data = real_data / "opensarship"
    settings = FolderSettings(
        quantity=Quantity.SIGMA0,
        bands=(("VV",), ("VH", "VV")),
        only_labelled=True,
        labels=data / "labels.csv",
        columns=Columns(group="product"),
    )
    folder = ImageFolder([data], settings)
    assert len(folder.ids()) == 351  # the complex chips (Patch) are not in the table
    assert folder.channels == (Channel("VV", Quantity.SIGMA0),)
    items = [item for item in folder.read(folder.ids()) if isinstance(item, Imagette)]
    assert len(items) == 351
    assert len({item.metadata.group for item in items}) == 8
    # Sea clutter at VV is brighter than at VH by 5 dB and more: the medians tell whether the bands were swapped.
    dual = [item for item in items if item.labels["bands"] == 2]
    vv = np.median([np.median(item.pixels) for item in dual])
    vh = np.median([np.median(tifffile.imread(data / item.metadata.id)[..., 0]) for item in dual])
    assert 10 * np.log10(vv / vh) > 5.0
    single = np.median([np.median(item.pixels) for item in items if item.labels["bands"] == 1])
    assert abs(10 * np.log10(single / vv)) < 5.0


def test_quicklooks_by_name_alone(real_data: Path) -> None:
    data = real_data / "wv-quicklooks"
    settings = FolderSettings(labels=data / "sample_data.csv", only_labelled=True)
    folder = ImageFolder([data], settings)
    assert folder.channels == (Channel("VV", Quantity.QUICKLOOK),)
    items = [item for item in folder.read(folder.ids()) if isinstance(item, Imagette)]
    assert [item.metadata.beam for item in items].count("WV1") == 10
    assert len({item.metadata.datatake for item in items}) == 15
    assert all(len(item.labels) == 21 and set(item.labels.values()) <= {0, 1} for item in items)


def test_oil_masks_match_their_table(real_data: Path) -> None:
    data = real_data / "oil-slicks"
    settings = FolderSettings(quantity=Quantity.AMPLITUDE, labels=data / "labels.csv", columns=Columns(masks=("mask",)))
    folder = ImageFolder([data], settings)
    assert len(folder.ids()) == 594
    for item in folder.read(folder.ids()[::50]):
        assert isinstance(item, Imagette)
        # The table gives the oil fraction to four digits.
        assert item.masks["mask"].mean() == pytest.approx(float(item.labels["oil_frac"] or 0), abs=6e-5)
        assert item.pixels.mean() == pytest.approx(float(item.labels["mean"] or 0), abs=6e-3)


def test_ssdd_boxes(real_data: Path) -> None:
    data = real_data / "ships-ssdd"
    settings = FolderSettings(
        quantity=Quantity.AMPLITUDE, labels=data / "labels.csv", boxes=data / "coco.json", colour_to_grey=True
    )
    folder = ImageFolder([data / "images"], settings)
    assert folder.boxes is not None
    assert sum(len(rows) for rows in folder.boxes.rows.values()) == 1451
    for item in folder.read(folder.ids()[::100]):
        assert isinstance(item, Imagette)
        assert len(item.boxes) == item.labels["n_ships"]
        inside = [item.pixels[0, int(b.y) : int(b.y + b.height), int(b.x) : int(b.x + b.width)] for b in item.boxes]
        assert min(float(np.mean(patch)) for patch in inside) > float(np.mean(item.pixels))  # ships are bright


def test_a_file_that_vanishes_after_it_was_planned_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in range(5):
        picture(tmp_path / "in" / f"{k}.png", seed=k)
    source, out = ImageFolder([tmp_path / "in"], AMPLITUDE), tmp_path / "out"
    plan_ingest(source, out, Options())
    (tmp_path / "in" / "1.png").unlink()  # after the plan, known to this run
    metadata = ImageFolder._metadata

    def vanish(self: ImageFolder, id_: str, path: Path, facts: dict[str, object]) -> object:
        """Between its pixels and its hash."""
        if id_ == "3.png":
            path.unlink(missing_ok=True)
        return metadata(self, id_, path, facts)

    monkeypatch.setattr(ImageFolder, "_metadata", vanish)
    report = ingest(source, out)
    assert (report.written, [item.id for item in report.rejected]) == (3, ["1.png", "3.png"])
    assert all("an image file is missing" in item.reason for item in report.rejected)


def test_a_planned_file_that_a_later_run_does_not_find_is_set_aside(tmp_path: Path) -> None:
    for k in range(4):
        picture(tmp_path / "in" / f"{k}.png", seed=k)
    plan_ingest(ImageFolder([tmp_path / "in"], AMPLITUDE), tmp_path / "out", Options())
    (tmp_path / "in" / "2.png").unlink()
    report = ingest(ImageFolder([tmp_path / "in"], AMPLITUDE), tmp_path / "out")
    assert (report.written, [item.id for item in report.rejected]) == (3, ["2.png"])
    assert "an image file is missing" in report.rejected[0].reason
