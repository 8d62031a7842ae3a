"""The model directory: the same encoder back, readable by transformers, refused when altered, safe against kills."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_encoder import small_encoder

from groundswell.archive.reader import Archive
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.encoder.directory import is_model_directory, load, read_data, save_model
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.provenance import DataUsed, describe
from groundswell.errors import GroundswellError, ModelError

ARCHITECTURES = [
    {"name": "resnet18", "width": 8},
    {"name": "resnet50", "width": 8},
    {"name": "resnet18", "width": 8, "pooling": "stages"},
    {"name": "vit-ti/8", "image_size": 24},
    {"name": "vit-ti/8", "image_size": 24, "registers": 4},
    {"name": "vit-ti/8", "image_size": 24, "pooling": "stages", "depth": 3},
    {"name": "vit-ti/8", "image_size": 24, "registers": 4, "pooling": "stages"},
    {"name": "resnet18", "width": 8, "stem": "small"},
]


def encoder_of(archive: Archive, architecture: dict[str, object]) -> Encoder:
    settings = BackboneSettings(**architecture)
    backbone = build_backbone(settings, 1, 3)
    for module in backbone.modules():  # running statistics as after training, not the identity
        if isinstance(module, torch.nn.BatchNorm2d):
            generator = torch.Generator().manual_seed(module.num_features)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return Encoder(backbone, small_encoder(archive).preprocessing, "some", settings)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip(archive: Archive, tmp_path: Path, architecture: dict[str, object]) -> None:
    encoder = encoder_of(archive, architecture)
    loaded = load(save_model(encoder, tmp_path / "m"))
    assert loaded.id == encoder.id  # weights bit for bit, architecture, preprocessing
    assert loaded.preprocessing == encoder.preprocessing
    assert np.array_equal(loaded.encode(archive), encoder.encode(archive))
    assert not [f.name for f in (tmp_path / "m").iterdir() if f.suffix in {".pt", ".pth", ".bin", ".pkl"}]


@pytest.mark.parametrize("architecture", ARCHITECTURES[:7])
def test_transformers_reads_it_without_remote_code(
    archive: Archive, tmp_path: Path, architecture: dict[str, object]
) -> None:
    transformers = pytest.importorskip("transformers")
    encoder = encoder_of(archive, architecture)
    theirs = transformers.AutoModel.from_pretrained(save_model(encoder, tmp_path / "m")).eval()
    images = encoder.preprocessing(archive.read(np.arange(4)), archive.channels, archive.catalogue[:4])
    ours = encoder.features(images)
    with torch.no_grad():
        output = theirs(pixel_values=images, output_hidden_states=True)
    card = (tmp_path / "m" / "README.md").read_text()
    pooled = eval(re.search(r"the embedding is `(.*)`", card)[1], {"torch": torch}, dict(output))  # as the card says
    torch.testing.assert_close(pooled, ours.pooled, atol=1e-5, rtol=1e-5)
    if "vit" not in encoder.settings.name:
        torch.testing.assert_close(output.last_hidden_state, ours.spatial, atol=1e-5, rtol=1e-5)


def test_our_own_layout_says_so(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    assert config["groundswell"]["layout"] == "groundswell"
    assert "model_type" not in config
    assert "only groundswell loads it" in (model / "README.md").read_text()


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def edit(path: Path, change: Callable[[dict], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder missing": (shutil.rmtree, "there is no model here"),
    "config missing": (lambda m: (m / "config.json").unlink(), "there is no model here"),
    "weights missing": (lambda m: (m / "model.safetensors").unlink(), "a file is missing"),
    "weights truncated": (lambda m: os.truncate(m / "model.safetensors", 5000), "not the one that was saved"),
    "weights empty": (lambda m: os.truncate(m / "model.safetensors", 0), "not the one that was saved"),
    "one bit of the weights": (lambda m: flip(m / "model.safetensors", 4321), "not the one that was saved"),
    "preprocessing missing": (lambda m: (m / "preprocessing.json").unlink(), "a file is missing"),
    "preprocessing edited": (
        lambda m: edit(m / "preprocessing.json", lambda v: v.update(size=25)),
        "not the one that was saved",
    ),
    "config truncated": (lambda m: os.truncate(m / "config.json", 40), "damaged"),
    "config edited": (
        lambda m: edit(m / "config.json", lambda v: v["groundswell"]["backbone"].update(width=5)),
        "altered",
    ),
    "another version": (lambda m: edit(m / "config.json", lambda v: v["groundswell"].update(format=2)), "version 2"),
    "not ours": (lambda m: edit(m / "config.json", lambda v: v.pop("groundswell")), "not a groundswell model"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_by_name(model: Path, damage: str) -> None:
    load(model)
    harm, message = DAMAGES[damage]
    harm(model)
    with pytest.raises(ModelError, match=message) as caught:
        load(model)
    assert caught.value.fix


def test_an_unknown_preprocessing_version_is_refused(model: Path) -> None:
    # As a later groundswell would write it: every hash right, the version unknown here.
    from groundswell.files import digest, sha256_file

    edit(model / "preprocessing.json", lambda v: v.update(version=2))

    def seal(config: dict) -> None:
        config["groundswell"]["files"]["preprocessing.json"] = sha256_file(model / "preprocessing.json")
        del config["groundswell"]["digest"]
        config["groundswell"]["digest"] = digest(config)

    edit(model / "config.json", seal)
    with pytest.raises(ModelError, match="does not know"):
        load(model)


def test_a_run_directory_points_to_its_model(model: Path) -> None:
    with pytest.raises(ModelError, match=r"give .*/model"):
        load(model.parent)


def test_something_else_is_not_replaced(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match="will not replace"):
        save_model(encoder, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_kill_leaves_the_old_model_or_the_new_one(archive: Archive, tmp_path: Path) -> None:
    """SIGKILL before each call that touches the disk, one after the other, until a run gets through."""
    old, new = small_encoder(archive, 0, "old"), small_encoder(archive, 1, "new")
    known = {old.id, new.id}
    seen = set()
    for point in range(200):
        folder = tmp_path / f"{point}"
        target = save_model(old, folder / "m")
        pid = os.fork()
        if pid == 0:
            die_at(point)
            save_model(new, target)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        loaded = load(target).id
        assert loaded in known
        seen.add(loaded)
        # The next save cleans up and succeeds, whatever was left.
        save_model(new, target)
        assert load(target).id == new.id
        assert [f.name for f in folder.iterdir()] == ["m"]
        shutil.rmtree(folder)
        if os.WIFEXITED(status):
            break
    else:
        pytest.fail("no run got through")
    assert point > 15  # the hooks did bite: files, renames, removals
    assert seen == known


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_model(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """ENOSPC from each call in turn: an error of ours, the old model in its place, nothing left beside it."""
    old, new = small_encoder(archive, 0, "old"), small_encoder(archive, 1, "new")
    target = save_model(old, tmp_path / "m")
    real = getattr(os, name)
    for point in range(30):
        count = 0

        def hooked(*args: object, _point: int = point, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count - 1 == _point:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, hooked)
            try:
                save_model(new, target)
                break
            except GroundswellError as error:
                said = str(error)
        assert "No space left" in said
        # Only the sync after the last rename can fail with the new model in place: then all of it is there.
        assert load(target).id in ({old.id, new.id} if name == "fsync" else {old.id})
        assert [f.name for f in tmp_path.iterdir()] == ["m"]
    assert 5 < point < 29
    assert load(target).id == new.id


def die_at(point: int) -> None:
    """In a child: kill this process just before the ``point``-th call that changes a directory or syncs a file."""
    import signal

    count = 0
    for name in ("replace", "rename", "fsync", "unlink", "rmdir", "mkdir", "open"):
        real = getattr(os, name)

        def hooked(*args: object, _real: Callable[..., object] = real, **kwargs: object) -> object:
            nonlocal count
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return _real(*args, **kwargs)

        setattr(os, name, hooked)


def test_the_card_says_what_the_data_was(archive: Archive, encoder: Encoder, tmp_path: Path) -> None:
    simulated = describe(archive)
    assert (simulated.imagettes, simulated.simulated, simulated.sentinel1_years) == (23, 23, ())
    real = DataUsed("wv", "ab" * 32, 1200, 0, (2016, 2019), {"VV": "sigma0_db"})
    made = save_model(
        encoder, tmp_path / "a", data=[simulated], metrics={"loss": 1.25}, training={"name": "demo", "seed": 3}
    )
    text = (made / "README.md").read_text()
    assert "23 simulated imagettes; no real image" in text
    assert "Copernicus" not in text
    assert "| loss | 1.25 |" in text
    assert "clip -15 to 15, minus 0, over 7.5" in text
    assert (made / "training.yaml").read_text() == "name: demo\nseed: 3\n"
    assert json.loads((made / "metrics.json").read_text()) == {"loss": 1.25}
    assert read_data(made) == (simulated,)
    mixed = save_model(encoder, tmp_path / "b", data=[simulated, real])
    text = (mixed / "README.md").read_text()
    assert "Contains modified Copernicus Sentinel data 2016-2019." in text
    assert "1,223 images: 1,200 real and 23 simulated." in text
    assert is_model_directory(mixed)
    assert not is_model_directory(tmp_path)
