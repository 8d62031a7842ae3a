"""The encoder: the same vectors whatever the batch, the source or the folder it came through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_encoder import small_encoder

from groundswell.archive.reader import Archive
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.device import float32_matmul
from groundswell.encoder.encoder import Encoder, random_encoder
from groundswell.encoder.preprocessing import ChannelInput, Preprocessing, PreprocessingSettings
from groundswell.errors import DataError, ModelError, QuantityError, UsageError
from groundswell.physics.imagette import Channel, Imagette, Metadata, Quantity


def imagettes_of(archive: Archive) -> list[Imagette]:
    pixels = archive.read(np.arange(len(archive)))
    columns = ["id", "incidence_near_deg", "incidence_far_deg", "range_spacing_m", "azimuth_spacing_m"]
    return [
        Imagette(p, archive.channels, Metadata(**row))
        for p, row in zip(pixels, archive.catalogue[columns].to_dict("records"), strict=True)
    ]


@pytest.mark.parametrize("name", ["resnet18", "vit-ti/8"])
def test_the_batch_size_does_not_matter(archive: Archive, name: str) -> None:
    encoder = small_encoder(archive)
    if name != "resnet18":
        settings = BackboneSettings(name=name, image_size=24)
        encoder = Encoder(build_backbone(settings, 1, 0), encoder.preprocessing, name, settings)
    reference = encoder.encode(archive, batch_size=64)
    assert reference.shape == (len(archive), encoder.dim)
    assert reference.dtype == np.float32
    assert np.ptp(reference, axis=0).max() > 0.01  # images differ by much more than batches do
    for size in (1, 3, 10):
        np.testing.assert_allclose(encoder.encode(archive, batch_size=size), reference, atol=1e-4, rtol=0)
    assert np.array_equal(encoder.encode(archive, batch_size=64), reference)


def test_every_source_gives_the_same_vectors(archive: Archive, encoder: Encoder) -> None:
    reference = encoder.encode(archive)
    np.testing.assert_allclose(encoder.encode(imagettes_of(archive)), reference, atol=1e-6)
    normalised = encoder.preprocessing.normalise(archive.read(np.arange(5)), archive.channels, archive.catalogue[:5])
    roughness = (normalised * 7.5).numpy()
    np.testing.assert_allclose(encoder.encode(roughness, quantity="roughness_db"), reference[:5], atol=1e-5)
    direct = encoder.features(encoder.preprocessing.fit(normalised))
    np.testing.assert_allclose(direct.pooled.numpy(), reference[:5], atol=1e-6)
    np.testing.assert_allclose(direct.spatial.mean((2, 3)).numpy(), reference[:5], atol=1e-6)


def test_imagettes_of_many_sizes(archive: Archive, encoder: Encoder) -> None:
    items = imagettes_of(archive)[:6]
    for i in (1, 2, 4):  # larger than the 24 px the encoder sees: the centre is what counts
        items[i].pixels = items[i].pixels[:, 2:-2]
    mixed = encoder.encode(items)
    alone = np.concatenate([encoder.encode([item]) for item in items])
    np.testing.assert_allclose(mixed, alone, atol=1e-5)


def test_image_files(tmp_path: Path) -> None:
    preprocessing = PreprocessingSettings(size=24).resolve((Channel("VV", Quantity.QUICKLOOK),), 24, 24)
    settings = BackboneSettings(name="resnet18", width=4, stem="small")
    encoder = Encoder(build_backbone(settings, 1, 0), preprocessing, "quick", settings)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24), dtype=np.uint8)
    named = tmp_path / "s1a-wv1-QL-vv-20200102t030405-20200102t030408-030617-03820a-011.png"
    other = tmp_path / "picture.png"
    for image, path in zip(pixels, (named, other), strict=True):
        Image.fromarray(image).save(path)
    expected = encoder.encode(pixels[:, None].astype(np.float32), quantity="quicklook")
    np.testing.assert_allclose(encoder.encode(named), expected[:1], atol=1e-6)
    np.testing.assert_allclose(encoder.encode([named, other], quantity="quicklook"), expected, atol=1e-6)
    with pytest.raises(QuantityError, match=r"does not say what its pixels are[\s\S]*picture.png[\s\S]*quicklook: "):
        encoder.encode([named, other])


def test_arrays_must_say_what_they_are(encoder: Encoder) -> None:
    with pytest.raises(QuantityError, match="quantity='roughness_db'"):
        encoder.encode(np.zeros((1, 1, 24, 24), np.float32))
    with pytest.raises(DataError, match=r"\[N, 1, H, W\]"):
        encoder.encode(np.zeros((1, 24, 24), np.float32), quantity="roughness_db")


def test_the_id_tells_encoders_apart(archive: Archive) -> None:
    encoder = small_encoder(archive)
    assert encoder.id == small_encoder(archive).id
    assert encoder.id.startswith("small@")
    changed = small_encoder(archive)
    with torch.no_grad():
        next(changed.backbone.parameters())[0, 0, 0, 0] += 1e-6
    wider = Encoder(
        encoder.backbone, encoder.preprocessing.model_copy(update={"size": 32}), encoder.name, encoder.settings
    )
    assert len({encoder.id, changed.id, wider.id, small_encoder(archive, seed=1).id}) == 4


@pytest.mark.parametrize(("mirror", "axis"), [("azimuth", 2), ("range", 3)])
def test_a_mirrored_embedding_is_the_mean_of_both(archive: Archive, encoder: Encoder, mirror: str, axis: int) -> None:
    preprocessing = encoder.preprocessing.model_copy(update={"mirror": mirror})
    both = Encoder(encoder.backbone, preprocessing, encoder.name, encoder.settings)
    images = encoder.preprocessing(archive.read(np.arange(5)), archive.channels, archive.catalogue[:5])
    one, other = encoder.features(images).pooled, encoder.features(images.flip(axis)).pooled
    assert (one - other).abs().max() > 0.01
    # archive rows are roughness by incidence: the pixels are mirrored after it, not before
    np.testing.assert_allclose(both.encode(archive)[:5], ((one + other) / 2).numpy(), atol=1e-6)
    assert both.preprocessing_hash != encoder.preprocessing_hash
    assert both.id != encoder.id


def test_random_weights_are_fresh_and_repeatable(archive: Archive, encoder: Encoder) -> None:
    first, again, second = (random_encoder(encoder, seed) for seed in (7, 7, 8))
    assert first.id == again.id != second.id
    assert first.id.startswith("random:small:7@")
    assert np.array_equal(first.encode(archive), again.encode(archive))
    assert np.abs(first.encode(archive) - second.encode(archive)).max() > 0.01
    assert first.preprocessing_hash == encoder.preprocessing_hash


def test_encoding_leaves_a_training_backbone_as_it_was(archive: Archive, encoder: Encoder) -> None:
    reference = encoder.encode(archive)
    encoder.backbone.train()
    before = {k: v.clone() for k, v in encoder.backbone.state_dict().items()}
    assert np.array_equal(encoder.encode(archive), reference)  # batch statistics play no part
    assert encoder.backbone.training
    assert all(torch.equal(v, before[k]) for k, v in encoder.backbone.state_dict().items())


@pytest.mark.parametrize("what", ["features", "attention"])
def test_on_a_gpu_float32_is_exact_and_the_process_is_left_as_it_was(
    archive: Archive, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = BackboneSettings(name="vit-ti/8", image_size=24, depth=1)
    encoder = Encoder(build_backbone(settings, 1, 0), small_encoder(archive).preprocessing, "tiny", settings)
    flags: list[tuple[str, bool, bool]] = []

    def note(*_: object) -> None:
        cudnn = torch.backends.cudnn
        flags.append((torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.deterministic))

    next(m for m in encoder.backbone.modules() if isinstance(m, torch.nn.Linear)).register_forward_hook(note)
    monkeypatch.setattr(Encoder, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.Tensor, "to", lambda images, *_, **__: images)
    with float32_matmul(torch.device("cuda"), "high"):  # as in a run
        note()
        getattr(encoder, what)(torch.zeros(2, 1, 24, 24))
        note()
    before, *inside, after = flags
    assert set(inside) == {("highest", False, True)}
    assert before == after == ("high", True, False)


def test_broken_weights_are_named(archive: Archive, encoder: Encoder) -> None:
    with torch.no_grad():
        next(encoder.backbone.parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        encoder.encode(archive)


def test_channels_and_device_must_fit(encoder: Encoder) -> None:
    with pytest.raises(ModelError, match="takes 2 channels, the preprocessing gives 1"):
        Encoder(build_backbone(encoder.settings, 2, 0), encoder.preprocessing, "two", encoder.settings)
    with pytest.raises(UsageError, match="no device 'tpu9'"):
        encoder.on("tpu9")


def test_faster_settings_stay_close(archive: Archive) -> None:
    reference = small_encoder(archive).encode(archive)
    last = small_encoder(archive).on("cpu", channels_last=True).encode(archive)
    np.testing.assert_allclose(last, reference, atol=1e-4)
    half = small_encoder(archive).on("cpu", precision="bf16").encode(archive)
    error = np.linalg.norm(half - reference, axis=1) / np.linalg.norm(reference, axis=1)
    # bfloat16 rounds to 2^-9: 18 layers of independent roundings make about 1 %, and float32 none of it
    assert (error > 1e-5).all()
    assert error.max() < 0.04


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "vit-ti/8", "image_size": 32, "depth": 1}, "d88de203df1777ac"),
        ({"name": "resnet18", "width": 4}, "19597c6950f3ffec"),
    ],
)
def test_an_encoder_is_known_by_the_same_digest_in_every_version(settings: dict[str, object], expected: str) -> None:
    backbone = BackboneSettings.model_validate(settings)
    channel = ChannelInput(
        name="VV",
        quantity=Quantity.ROUGHNESS_DB,
        gamma=1.0,
        standardise=False,
        clip=(-30.0, 30.0),
        offset=0.0,
        scale=7.5,
    )
    encoder = Encoder(build_backbone(backbone, 1, 0), Preprocessing(channels=(channel,), size=32), "x", backbone)
    assert encoder.fingerprint().startswith(expected)
