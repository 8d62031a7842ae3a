"""Masks: the block sampler against a scalar rewriting of DINOv2's loop, MAE's against the transformers class."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from groundswell import rng
from groundswell.errors import UsageError
from groundswell.views.masking import block_masks, random_masks


def blocks_of(uniforms, height, width, target):
    """DINOv2's sampler for one image, one patch at a time, from an iterator of uniform numbers."""
    mask = np.zeros((height, width), bool)
    count = 0
    while count < target:
        most = min(target - count, height * width // 2)
        added = 0
        for _ in range(10):
            a, b, c, d = (next(uniforms) for _ in range(4))
            area = 4 + (most - 4) * a
            aspect = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * b)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(c * (height - h + 1)), int(d * (width - w + 1))
                if 0 < h * w - mask[top : top + h, left : left + w].sum() <= most:
                    for i in range(top, top + h):
                        for j in range(left, left + w):
                            added += not mask[i, j]
                            mask[i, j] = True
                    break
        if added == 0:
            break
        count += added
    return mask


def keyed(key):
    """The numbers that a key gives to its blocks, in their order."""
    chunk = 0
    while True:
        yield from rng.uniform(key, f"block masks/{chunk}", 4 * 32)[0].double().tolist()
        chunk += 1


@pytest.mark.parametrize("grid", [(16, 16), (14, 14), (5, 9), (3, 3)])
def test_blocks_are_those_of_the_scalar_loop(grid):
    keys = rng.keys(4, range(60))
    patches = grid[0] * grid[1]
    for share in (0.1, 0.3, 0.5, 1.0):
        masks = block_masks(keys, grid, (share, share), 1.0)
        for i in range(60):
            expected = blocks_of(keyed(keys[i : i + 1]), *grid, int(patches * share))
            np.testing.assert_array_equal(masks[i].view(grid).numpy(), expected)


def test_masked_counts_are_distributed_as_with_other_random_numbers():
    """The same loop fed by Python's own generator: where the masks fall short, they do so as often."""
    source = random.Random(3)
    numbers = iter(source.random, None)
    reference = [blocks_of(numbers, 8, 8, 30).sum() for _ in range(1500)]
    ours = block_masks(rng.keys(0, range(1500)), (8, 8), (30 / 64, 30 / 64), 1.0).sum(1).numpy()
    assert stats.ks_2samp(reference, ours).pvalue > 1e-3
    assert max(reference) == ours.max() == 30


@pytest.mark.parametrize(("count", "probability", "masked"), [(64, 0.5, 32), (7, 0.5, 3), (1, 0.5, 0), (10, 1.0, 10)])
def test_as_many_images_are_masked_as_the_reference_masks(count, probability, masked):
    masks = block_masks(rng.keys(1, range(count)), (16, 16), (0.1, 0.5), probability)
    assert masks.shape == (count, 256)
    assert int((masks.sum(1) > 0).sum()) == masked


def test_the_ratios_of_a_batch_lie_one_in_each_part_of_the_range():
    n = 64
    masks = block_masks(rng.keys(2, range(2 * n)), (32, 32), (0.1, 0.5), 0.5)
    counts = np.sort(masks.sum(1).numpy())[n:] / 1024
    edges = np.linspace(0.1, 0.5, n + 1)
    # A mask may stop short of its target, by less than the smallest block's few patches on a grid this fine.
    assert (counts <= edges[1:]).all()
    assert (counts > edges[:-1] - 8 / 1024).all()


def test_masks_do_not_depend_on_the_order_of_the_batch():
    keys = rng.keys(9, range(50))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    masks = block_masks(keys, (16, 16), (0.1, 0.5), 0.5)
    assert torch.equal(block_masks(keys[order], (16, 16), (0.1, 0.5), 0.5), masks[order])
    alone = torch.cat([block_masks(keys[i : i + 1], (16, 16), (0.3, 0.3), 1.0) for i in range(50)])
    assert torch.equal(alone, block_masks(keys, (16, 16), (0.3, 0.3), 1.0))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 9),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    low=st.floats(0, 1),
    extent=st.floats(0, 1),
    probability=st.floats(0, 1),
)
def test_any_grid_gives_masks_within_their_bounds(count, height, width, low, extent, probability):
    ratio = (low, low + (1 - low) * extent)
    masks = block_masks(rng.keys(0, range(count)), (height, width), ratio, probability)
    assert masks.shape == (count, height * width)
    assert masks.dtype == torch.bool
    assert (masks.sum(1) <= int(height * width * ratio[1])).all()
    assert int((masks.sum(1) > 0).sum()) <= int(count * probability)


@pytest.mark.parametrize(
    ("grid", "ratio", "probability"),
    [((0, 4), (0.1, 0.5), 0.5), ((4, 4), (0.5, 0.1), 0.5), ((4, 4), (0.1, 1.5), 0.5), ((4, 4), (0.1, 0.5), 2.0)],
)
def test_impossible_masks_are_refused(grid, ratio, probability):
    with pytest.raises(UsageError, match=r"ratio|patch"):
        block_masks(rng.keys(0, range(4)), grid, ratio, probability)


def test_random_masks_are_those_of_the_transformers_class():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=64, patch_size=8
    )
    embeddings = transformers.models.vit_mae.modeling_vit_mae.ViTMAEEmbeddings(config)
    keys = rng.keys(3, range(5))
    tokens = torch.arange(64.0).expand(5, 64)[..., None].expand(5, 64, 8)
    visible, mask, restore = embeddings.random_masking(tokens, noise=rng.uniform(keys, "random masks", 64))
    keep, ours, order = random_masks(keys, 64, config.mask_ratio)
    assert torch.equal(keep, visible[..., 0].long())
    assert torch.equal(ours, mask.bool())
    assert torch.equal(order, restore)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 6), tokens=st.integers(2, 80), ratio=st.floats(0.01, 0.99))
def test_random_masks_keep_exactly_their_number_and_lead_back(count, tokens, ratio):
    keys = rng.keys(0, range(count))
    kept = int(tokens * (1 - ratio))
    if kept in (0, tokens):
        with pytest.raises(UsageError, match="patches keeps"):
            random_masks(keys, tokens, ratio)
        return
    keep, mask, restore = random_masks(keys, tokens, ratio)
    assert keep.shape == (count, kept)
    assert (mask.sum(1) == tokens - kept).all()
    assert not mask.gather(1, keep).any()
    assert torch.equal(restore.sort(1).values, torch.arange(tokens).expand(count, -1))  # every patch has its place
    assert torch.equal(restore.gather(1, keep), torch.arange(kept).expand(count, -1))
    if count:
        again = random_masks(keys[-1:], tokens, ratio)
        assert torch.equal(again[0], keep[-1:])


def test_every_patch_is_kept_as_often():
    keep, _, _ = random_masks(rng.keys(0, range(4000)), 16, 0.75)
    assert stats.chisquare(np.bincount(keep.flatten().numpy(), minlength=16)).pvalue > 1e-3
