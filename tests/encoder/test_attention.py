"""Looking at images: the same vectors as the encoder's, masks that stay in place, colours that mean directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_encoder import small_encoder

from groundswell.archive.reader import Archive
from groundswell.backbones import BackboneSettings, build_backbone
from groundswell.encoder.attention import fitted, look, patch_colours
from groundswell.encoder.encoder import Encoder
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.errors import ModelError


def vit(archive: Archive) -> Encoder:
    preprocessing = PreprocessingSettings().resolve(archive.channels, archive.height, archive.width, 50.0)
    settings = BackboneSettings(name="vit-ti/8", image_size=32)
    return Encoder(build_backbone(settings, 1, 0), preprocessing, "tiny", settings)


def test_a_vit_gives_its_own_features_and_attention_in_any_batch(archive: Archive) -> None:
    encoder, rows = vit(archive), np.array([7, 2, 20])
    (whole,) = look(encoder, archive, rows)
    images = encoder.preprocessing(archive.read(rows), archive.channels, archive.catalogue.iloc[rows])
    assert np.array_equal(whole.images, images.numpy())
    np.testing.assert_allclose(whole.tokens, encoder.features(images).spatial.numpy(), atol=1e-5)
    assert whole.weights is not None
    assert whole.weights.shape == (3, 3, 4, 4)
    one_by_one = list(look(encoder, archive, rows, batch_size=1))
    assert len(one_by_one) == 3
    parts = np.concatenate([part.weights for part in one_by_one if part.weights is not None])
    np.testing.assert_allclose(parts, whole.weights, atol=1e-6)


def test_looking_heeds_the_settings_of_the_encoder_and_leaves_its_mode(archive: Archive) -> None:
    rows = [3, 4]
    (exact,) = look(vit(archive), archive, rows)
    encoder = vit(archive).on("cpu", precision="bf16")
    encoder.backbone.train()
    (half,) = look(encoder, archive, rows)
    assert encoder.backbone.training
    assert np.array_equal(half.tokens, encoder.features(torch.from_numpy(half.images)).spatial.numpy())
    assert half.weights is not None
    assert exact.weights is not None
    # bfloat16 rounds to 2^-9, twelve blocks over; float32 to 2^-24
    for rounded, reference in ((half.tokens, exact.tokens), (half.weights, exact.weights)):
        error = np.linalg.norm(rounded - reference) / np.linalg.norm(reference)
        assert 1e-4 < error < 0.05


def test_a_resnet_has_vectors_and_no_attention(archive: Archive) -> None:
    encoder = small_encoder(archive)
    (seen,) = look(encoder, archive, [0, 1])
    assert seen.weights is None
    assert seen.tokens.shape == (2, 32, 3, 3)
    assert seen.known.all()


@pytest.mark.parametrize(("height", "width", "size"), [(15, 16, 12), (19, 13, 16), (9, 12, 15), (7, 7, 7)])
def test_masks_are_cut_as_images_are(archive: Archive, height: int, width: int, size: int) -> None:
    """Pixels that hold their own number, through `Preprocessing.fit` and through `fitted`."""
    preprocessing = small_encoder(archive).preprocessing.model_copy(update={"size": size})
    numbers = np.random.default_rng(0).permutation(250)[: height * width].reshape(1, height, width).astype(np.uint8)
    cut = fitted(numbers, size, fill=251)
    image = preprocessing.fit(torch.from_numpy(numbers.astype(np.float32))[None])[0].numpy()
    inside = cut != 251
    assert np.array_equal(image[inside], cut[inside].astype(np.float32))
    assert inside.sum() == min(height, size) * min(width, size)


def test_colours_are_the_first_three_directions_and_alike_vectors_have_one_colour() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(0, [5, 3, 2, 0.01], (2 * 6 * 5, 4))
    axes = np.linalg.qr(generator.normal(size=(9, 4)))[0]
    tokens = (scores @ axes.T).reshape(2, 6, 5, 9).transpose(0, 3, 1, 2).astype(np.float32)
    colours, explained = patch_colours(tokens)
    assert colours.shape == (2, 6, 5, 3)
    assert 0 <= colours.min() <= colours.max() <= 1
    assert sum(explained) == pytest.approx(1.0, abs=1e-3)
    flat = colours.reshape(-1, 3)
    inner = ((flat > 0) & (flat < 1)).all(axis=1)
    for component in range(3):
        found = np.corrcoef(flat[inner, component], scores[inner, component])[0, 1]
        assert abs(found) > 0.9  # 60 draws: the sample's own directions are close to the true ones
    again, _ = patch_colours(np.concatenate([tokens, tokens[:1]]))
    assert np.array_equal(again[2], again[0])


def test_one_vector_far_from_all_others_does_not_take_their_colours() -> None:
    """Colours run between the 1st and the 99th percentile: of 400 numbers from 0 to 1, one of which is 1000."""
    line = np.linspace(0, 1, 400)
    line[-1] = 1000.0
    direction = np.array([0.6, 0.8])
    tokens = (line[:, None] * direction).reshape(1, 20, 20, 2).transpose(0, 3, 1, 2).astype(np.float32)
    first = patch_colours(tokens)[0][0, :, :, 0].ravel()
    first = first if first[-1] == 1 else 1 - first  # a component has no sign
    expected = np.clip((line - np.percentile(line, 1)) / np.diff(np.percentile(line, [1, 99])), 0, 1)
    np.testing.assert_allclose(first, expected, atol=2e-3)  # float32 tokens up to 1000: 6e-5


def test_vectors_of_a_run_that_diverged_are_named(archive: Archive) -> None:
    encoder = vit(archive)
    with torch.no_grad():
        next(encoder.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        list(look(encoder, archive, [0]))


def test_vectors_that_are_all_alike_have_a_colour_too() -> None:
    colours, explained = patch_colours(np.ones((1, 2, 1, 2), np.float32))
    assert np.isfinite(colours).all()
    assert explained == [0.0, 0.0]
