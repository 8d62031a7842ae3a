"""Attention as a detector: against pixel by pixel sums, a map that knows, and the archive's own masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from groundswell.archive.ingest import ingest
from groundswell.archive.reader import Archive, open_archive
from groundswell.backbones import BackboneSettings, VisionTransformer, build_backbone
from groundswell.encoder.attention import look
from groundswell.encoder.encoder import Encoder, random_encoder
from groundswell.encoder.preprocessing import PreprocessingSettings
from groundswell.errors import UsageError
from groundswell.evaluation import truths
from groundswell.evaluation.attention import best_head, detection, halves, magnitude, score_attention
from groundswell.evaluation.truths import patch_counts, read_truths
from groundswell.physics.imagette import Box, Channel, Imagette, Metadata, Quantity
from groundswell.products.source import Rejected

SIZE, PATCH = 32, 8


class Spots:
    """Noise with one bright square of 8 px on the grid of patches, its mask, and a box around its middle."""

    channels = (Channel("VV", Quantity.ROUGHNESS_DB),)
    mask_names: tuple[str, ...] = ("spot", "kinds", "nowhere")
    eight_bit = False
    description: dict[str, Any] = {"source": "spots"}  # noqa: RUF012

    def ids(self) -> Sequence[str]:
        return [f"s{i:02d}" for i in range(12)]

    def read(self, ids: Sequence[str]) -> list[Imagette | Rejected]:
        return [self._one(int(name[1:])) for name in ids]

    def _one(self, index: int) -> Imagette:
        pixels = np.random.default_rng(index).normal(0, 1, (SIZE, SIZE))
        row, column = 8 * (index % 4), 8 * (index // 4)
        spot = np.zeros((SIZE, SIZE), np.uint8)
        spot[row : row + 8, column : column + 8] = 1
        pixels[spot == 1] += 8
        kinds = 3 * spot
        kinds[:2] = 255
        if index == 0:
            pixels[:8, :8] = np.nan  # where its spot would be
        boxes = [Box("ship", x=column + 2.5, y=row + 3.0, width=2.0, height=1.2)]
        return Imagette(
            pixels=pixels[None].astype(np.float32),
            channels=self.channels,
            metadata=Metadata(id=f"s{index:02d}", group=f"g{index // 2}"),
            masks={"spot": spot, "kinds": kinds, "nowhere": np.zeros_like(spot)},
            boxes=boxes,
        )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = tmp_path_factory.mktemp("spots") / "archive"
    ingest(Spots(), path)
    return open_archive(path)


def encoder_of(archive: Archive, backbone: VisionTransformer) -> Encoder:
    preprocessing = PreprocessingSettings().resolve(archive.channels, SIZE, SIZE)
    return Encoder(backbone, preprocessing, "tiny", BackboneSettings(name="vit-ti/8", image_size=SIZE))


def looks_at_bright_patches() -> VisionTransformer:
    """One block with two heads: head 1 of the class token looks at bright patches, head 0 at dark ones.

    The patch map writes the mean of a patch into channel 0 and 8 less it into channel 1, next to a constant, so that
    the layer norm keeps their order; the class token is that constant alone.
    """
    vit = VisionTransformer(8, 1, 2, PATCH, 1, image_size=SIZE).eval()
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.zero_()
        for norm in (vit.norm, vit.blocks[0].norm1, vit.blocks[0].norm2):
            norm.weight.fill_(1.0)  # type: ignore[union-attr, operator]
        vit.patch_embed.proj.weight[0] = 1 / PATCH**2
        assert vit.patch_embed.proj.bias is not None
        vit.patch_embed.proj.bias[2] = 5.0
        vit.cls_token[0, 0, 3] = 5.0
        qkv = vit.blocks[0].attn.qkv  # type: ignore[union-attr]
        qkv.weight[0, 3] = qkv.weight[4, 3] = 3.0  # queries of the class token: channel 0 of either head
        qkv.weight[8, 0], qkv.weight[12, 0] = -3.0, 3.0  # keys: minus and plus the level
    return vit


def test_truths_are_masks_classes_and_boxes_where_pixels_are_known(archive: Archive) -> None:
    found = {truth.name: truth for truth in read_truths(archive, SIZE)}
    assert set(found) == {"spot", "kinds=3", "boxes: ship"}  # what is nowhere is no truth
    assert found["spot"].rows.tolist() == list(range(1, 12))  # the spot of the first has no valid pixel
    spot = found["spot"].masks[list(found["spot"].rows).index(6)]
    assert np.array_equal(np.argwhere(spot == 1), [(y, x) for y in range(16, 24) for x in range(8, 16)])
    assert (found["kinds=3"].masks[0][:2] == 255).all()
    ship = found["boxes: ship"].masks[list(found["boxes: ship"].rows).index(6)]
    # x 10.5 to 12.5 touches columns 10, 11, 12; y 19.0 to 20.2 rows 19, 20
    assert np.array_equal(np.argwhere(ship == 1), [(y, x) for y in (19, 20) for x in (10, 11, 12)])


def test_truths_are_cut_and_padded_as_the_encoder_cuts_images(archive: Archive) -> None:
    cut = {truth.name: truth for truth in read_truths(archive, 16)}["spot"]
    assert cut.rows.tolist() == [5, 6, 9, 10]  # of 32 px the middle 16: the others' spots lie outside, or fill nothing
    assert (cut.masks == 1).sum(axis=(1, 2)).tolist() == [64] * 4
    padded = {truth.name: truth for truth in read_truths(archive, 40)}["spot"]
    assert (padded.masks[:, :4] == 255).all()
    assert (padded.masks[:, 4:36, 4:36] != 255).all()


class TwoBands(Spots):
    """A second band, which has no valid pixel where image 1 has its spot, nor in the last row of any image."""

    channels = (Channel("VV", Quantity.ROUGHNESS_DB), Channel("VH", Quantity.ROUGHNESS_DB))
    mask_names: tuple[str, ...] = ("zebra", "antelope")

    def _one(self, index: int) -> Imagette:
        whole = Spots()._one(index)
        second = whole.pixels[0].copy()
        second[-1] = np.nan
        if index == 1:
            second[whole.masks["spot"] == 1] = np.nan
        masks = {"zebra": whole.masks["spot"], "antelope": whole.masks["spot"]}
        return Imagette(np.stack([whole.pixels[0], second]), self.channels, whole.metadata, masks=masks)


def test_a_pixel_is_known_where_every_band_has_it_and_truths_come_in_the_order_of_the_archive(tmp_path: Path) -> None:
    ingest(TwoBands(), tmp_path / "bands")
    bands = open_archive(tmp_path / "bands")
    found = read_truths(bands, SIZE)
    assert [truth.name for truth in found] == ["zebra", "antelope"]
    assert found[0].rows.tolist() == list(range(2, 12))  # the first has no spot in one band, the second in the other
    assert (found[0].masks[:, -1] == 255).all()
    settings = BackboneSettings(name="vit-ti/8", image_size=SIZE, depth=1)
    preprocessing = PreprocessingSettings().resolve(bands.channels, SIZE, SIZE)
    backbone = build_backbone(settings, 2, 0)
    (seen,) = look(Encoder(backbone, preprocessing, "two", settings), bands, [1, 2])
    assert not seen.known[:, -1].any()
    assert seen.known[1, :-1].all()
    assert (~seen.known[0, :-1]).sum() == 64


def test_truths_are_thinned_to_rows_evenly_apart(archive: Archive) -> None:
    spot = {truth.name: truth for truth in read_truths(archive, SIZE, most=4)}["spot"]
    assert spot.rows.tolist() == [1, 4, 8, 11]  # of 11 the places 0, 3 1/3, 6 2/3 and 10, to the nearest


def test_truths_are_read_a_few_images_at_a_time_and_only_so_many_are_kept(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_truths(archive, SIZE)
    asked: list[int] = []

    def counted(read: Any) -> Any:
        return lambda self, rows: asked.append(len(rows)) or read(self, rows)

    monkeypatch.setattr(truths, "_CHUNK", 5, raising=False)
    for name in ("masks", "read"):
        monkeypatch.setattr(Archive, name, counted(getattr(Archive, name)))
    parts = read_truths(archive, SIZE)
    assert max(asked) == 5
    few = read_truths(archive, SIZE, most=3)
    assert [t.name for t in parts] == [t.name for t in few] == [t.name for t in whole]
    for one, part, thin in zip(whole, parts, few, strict=True):
        assert part.masks.dtype == np.uint8
        assert np.array_equal(part.rows, one.rows)
        assert np.array_equal(part.masks, one.masks)
        assert thin.rows.tolist() == one.rows[[0, len(one.rows) // 2, -1]].tolist()
        assert np.array_equal(thin.masks, one.masks[np.isin(one.rows, thin.rows)])


def test_scores_by_patches_are_scores_by_pixels() -> None:
    generator = np.random.default_rng(0)
    masks = generator.choice([0, 0, 1, 255], size=(5, 24, 24)).astype(np.uint8)
    score = generator.integers(0, 4, (5, 3, 3)) / 4  # ties
    inside, outside = patch_counts(masks, (3, 3))
    for i in range(5):
        known = masks[i] != 255
        spread = np.repeat(np.repeat(score[i], 8, 0), 8, 1)[known]
        expected = roc_auc_score(masks[i][known], spread), average_precision_score(masks[i][known], spread)
        assert detection(score[i], inside[i], outside[i]) == pytest.approx(expected, abs=1e-12)


def test_magnitude_is_the_distance_from_the_median_where_pixels_are_known() -> None:
    images = np.zeros((2, 1, 16, 16), np.float32)
    images[0, 0, :8, 8:] = -4.0
    known = np.ones((2, 16, 16), bool)
    known[0, 8:, :8] = False
    known[1] = False
    assert magnitude(images, known, (2, 2)).tolist() == [[[0, 4], [0, 0]], [[0, 0], [0, 0]]]


def test_magnitude_takes_the_median_of_each_channel() -> None:
    images = np.zeros((1, 2, 16, 16), np.float32)
    images[0, 1] = 100.0
    images[0, 1, :8, 8:] = 106.0
    assert magnitude(images, np.ones((1, 16, 16), bool), (2, 2)).tolist() == [[[0, 3], [0, 0]]]


def test_halves_are_drawn_by_seed_and_heads_by_auroc() -> None:
    codes = np.arange(40)
    drawn = {tuple(halves(codes, seed)) for seed in range(5)}
    assert len(drawn) == 5
    assert {sum(half) for half in drawn} == {20}
    scores = np.zeros((40, 2, 2))
    scores[:, 0, 0] = 0.9  # the head of the larger area
    scores[:, 1, 1] = 0.9  # that of the larger precision
    assert best_head(scores, codes)[1] == [0, 0]
    for seed in range(3):
        first = halves(codes, seed)
        telling = np.zeros((40, 2, 2))
        telling[first, 0] = telling[~first, 1] = 1.0
        assert best_head(telling, codes, seed)[0].max() == 0


def test_the_best_head_is_chosen_on_the_other_half() -> None:
    codes = np.repeat(np.arange(10), 3)
    first = halves(codes)
    assert 0 < first.sum() < 30
    assert all(first[codes == g].all() or not first[codes == g].any() for g in range(10))
    scores = np.zeros((30, 2, 2))
    scores[first, 0] = scores[~first, 1] = 1.0  # each head is perfect on one half and useless on the other
    chosen, heads = best_head(scores, codes)
    assert heads == [1, 0]
    assert chosen.max() == 0  # a choice on the test would have scored 1


def test_a_map_that_knows_reaches_the_best_of_the_grid_and_beats_its_controls(archive: Archive) -> None:
    found = score_attention(encoder_of(archive, looks_at_bright_patches()), archive, draws=200)
    assert found is not None
    area = {(r["truth"], r["detector"]): r["value"] for r in found.scores if r["metric"] == "auroc"}
    assert area["spot", "attention, best head"] == 1.0
    assert area["spot", "best of this grid"] == 1.0
    assert area["spot", "pixel magnitude"] == 1.0
    assert found.heads["spot"]["attention"] == [1, 1]
    assert area["boxes: ship", "attention, best head"] == pytest.approx(area["boxes: ship", "best of this grid"])
    assert area["boxes: ship", "best of this grid"] < 1.0  # a patch is larger than the box
    against = {(r["truth"], r["detector"], r["control"]): r for r in found.differences if r["metric"] == "auroc"}
    fresh = against["spot", "attention, best head", "random weights, best head"]
    assert fresh["favours"] == "table"
    assert fresh["low"] > 0
    assert fresh["value"] == pytest.approx(1.0 - area["spot", "random weights, best head"])
    assert against["spot", "attention, best head", "pixel magnitude"]["value"] == 0.0
    assert fresh["images"] == 11
    assert fresh["groups"] == 6


def test_every_score_is_the_mean_over_images_of_its_own_network(archive: Archive) -> None:
    encoder, seeds = encoder_of(archive, looks_at_bright_patches()), (3, 5, 6)
    found = score_attention(encoder, archive, block=0, seeds=seeds, draws=200, seed=2)
    assert found is not None
    values = {(r["truth"], r["detector"], r["metric"]): r["value"] for r in found.scores}
    against = {(r["truth"], r["detector"], r["control"], r["metric"]): r["value"] for r in found.differences}
    for truth in read_truths(archive, SIZE):
        parts = list(zip(*patch_counts(truth.masks, (4, 4)), strict=True))  # inside and outside of each image
        codes = np.unique(truth.rows // 2, return_inverse=True)[1]  # two images a group

        def judged(network: Encoder, kind: str, truth: Any = truth, parts: Any = parts, codes: Any = codes) -> Any:
            """[AUROC, average precision] of a network, in the mean over images."""
            (seen,) = look(network, archive, truth.rows, 0, batch_size=99)
            assert seen.weights is not None
            heads = [seen.weights.mean(axis=1)] if kind == "mean of heads" else list(seen.weights.swapaxes(0, 1))
            each = np.array([[detection(m, *part) for m, part in zip(head, parts, strict=True)] for head in heads])
            scores = each.swapaxes(0, 1)
            return (scores[:, 0] if kind == "mean of heads" else best_head(scores, codes, 2)[0]).mean(axis=0)

        for kind in ("mean of heads", "best head"):
            model = judged(encoder, kind)
            fresh = np.array([judged(random_encoder(encoder, s), kind) for s in seeds])
            assert len({round(float(area), 4) for area in fresh[:, 0]}) == 3
            expected = {
                f"attention, {kind}": model,
                f"random weights, {kind}": fresh.mean(axis=0),
                f"random weights (best seed), {kind}": fresh[fresh[:, 0].argmax()],
            }
            for i, metric in enumerate(("auroc", "ap")):
                for name, value in expected.items():
                    assert values[truth.name, name, metric] == pytest.approx(value[i], abs=1e-9), (truth.name, name)
                    if name != f"attention, {kind}":
                        difference = against[truth.name, f"attention, {kind}", name, metric]
                        assert difference == pytest.approx(model[i] - value[i], abs=1e-9)
        best = np.mean(
            [detection(inside / np.maximum(inside + outside, 1), inside, outside)[0] for inside, outside in parts]
        )
        assert values[truth.name, "best of this grid", "auroc"] == pytest.approx(best, abs=1e-12)


def test_only_so_many_images_are_scored_and_the_control_needs_a_seed(archive: Archive) -> None:
    encoder = encoder_of(archive, looks_at_bright_patches())
    found = score_attention(encoder, archive, most=5, seeds=(0,), draws=200)
    assert found is not None
    assert {row["images"] for row in [*found.scores, *found.differences]} == {5}
    with pytest.raises(UsageError, match="at least one seed"):
        score_attention(encoder, archive, seeds=())


def test_one_group_is_left_out_by_name(archive: Archive) -> None:
    found = score_attention(encoder_of(archive, looks_at_bright_patches()), archive.where("group == 'g2'"), draws=200)
    assert found is not None
    assert found.scores == []
    assert found.left_out == {"spot": 1, "kinds=3": 1, "boxes: ship": 1}


def test_without_truth_there_is_no_score(tmp_path: Path) -> None:
    class Bare(Spots):
        mask_names: tuple[str, ...] = ()

        def _one(self, index: int) -> Imagette:
            whole = super()._one(index)
            return Imagette(pixels=whole.pixels, channels=whole.channels, metadata=whole.metadata)

    ingest(Bare(), tmp_path / "bare")
    bare = open_archive(tmp_path / "bare")
    assert score_attention(encoder_of(bare, looks_at_bright_patches()), bare) is None
