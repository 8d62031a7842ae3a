"""Backbones: published sizes, shapes, initialisation from the seed alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from groundswell.backbones import BackboneSettings, VisionTransformer, build_backbone
from groundswell.backbones.resnet import StridedPointwise
from groundswell.config import validate
from groundswell.errors import ConfigError, ModelError

# Published counts without a head: ResNet of torchvision less its classifier; ViT of DINO; others by the formulas
# 12 (12 D^2 + 13 D) + (C p^2 + 1) D + D + (Np + 1) D + 2 D and 23,498,624 + 3,136 C.
COUNTS = [
    ({"name": "resnet18"}, 3, 11_176_512),
    ({"name": "resnet18", "width": 32}, 1, 2_795_744),
    ({"name": "resnet50"}, 1, 23_501_760),
    ({"name": "resnet50"}, 3, 23_508_032),
    ({"name": "resnet50"}, 12, 23_536_256),
    ({"name": "resnet152"}, 3, 58_143_808),
    ({"name": "vit-ti/16", "image_size": 224}, 3, 5_524_416),
    ({"name": "vit-s/16", "image_size": 224}, 1, 21_469_056),
    ({"name": "vit-s/16", "image_size": 224}, 3, 21_665_664),
    ({"name": "vit-s/16", "image_size": 224}, 12, 22_550_400),
    ({"name": "vit-s/16"}, 1, 21_492_096),
    ({"name": "vit-s/16"}, 3, 21_688_704),
    ({"name": "vit-s/16"}, 12, 22_573_440),
    ({"name": "vit-s/16", "registers": 4}, 1, 21_492_096 + 1_536),
    ({"name": "vit-s/8"}, 1, 21_713_280),
    ({"name": "vit-s/8"}, 3, 21_762_432),
    ({"name": "vit-s/8"}, 12, 21_983_616),
    ({"name": "vit-b/16", "image_size": 224}, 1, 85_405_440),
    ({"name": "vit-b/16", "image_size": 224}, 3, 85_798_656),
    ({"name": "vit-b/16", "image_size": 224}, 12, 87_568_128),
    ({"name": "vit-b/16"}, 1, 85_451_520),
    ({"name": "vit-b/16"}, 3, 85_844_736),
    ({"name": "vit-b/16"}, 12, 87_614_208),
    ({"name": "vit-b/16", "registers": 4}, 1, 85_451_520 + 3_072),
    ({"name": "vit-b/8"}, 1, 85_893_888),
    ({"name": "vit-b/8"}, 3, 85_992_192),
    ({"name": "vit-b/8"}, 12, 86_434_560),
    ({"name": "vit-l/16", "image_size": 224}, 3, 303_301_632),
]


@pytest.mark.parametrize(("values", "channels", "count"), COUNTS)
def test_parameter_counts_are_the_published_ones(values, channels, count, monkeypatch):
    for family in ("resnet.ResNet", "vit.VisionTransformer"):
        monkeypatch.setattr(f"groundswell.backbones.{family}.initialise", lambda self, generator: None)
    with torch.device("meta"):
        backbone = build_backbone(BackboneSettings(**values), channels, seed=0)
    assert sum(p.numel() for p in backbone.parameters()) == count


@pytest.mark.parametrize(
    ("name", "channels", "registers", "count"),
    # Layer scale adds 24 D, the mask token D.
    [
        ("vit-s/16", 1, 0, 21_501_696),
        ("vit-s/16", 3, 0, 21_698_304),
        ("vit-s/16", 12, 0, 22_583_040),
        ("vit-s/16", 1, 4, 21_503_232),
        ("vit-s/16", 3, 4, 21_699_840),
        ("vit-s/16", 12, 4, 22_584_576),
        ("vit-b/16", 1, 0, 85_451_520 + 19_200),
        ("vit-b/16", 3, 0, 85_844_736 + 19_200),
        ("vit-b/16", 12, 0, 87_614_208 + 19_200),
    ],
)
def test_parameter_counts_with_layer_scale_and_mask_token_are_the_published_ones(
    name, channels, registers, count, monkeypatch
):
    monkeypatch.setattr("groundswell.backbones.vit.VisionTransformer.initialise", lambda self, generator: None)
    with torch.device("meta"):
        backbone = build_backbone(BackboneSettings(name=name, registers=registers), channels, seed=0)
        backbone.prepare(layer_scale=1e-5, mask_token=True)
    assert sum(p.numel() for p in backbone.parameters()) == count


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit-ti/16"])
def test_weights_come_from_the_seed_alone(name):
    settings = BackboneSettings(name=name) if "vit" in name else BackboneSettings(name=name, width=8)
    torch.manual_seed(1)
    first = build_backbone(settings, 2, seed=5).state_dict()
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = build_backbone(settings, 2, seed=5).state_dict()
    other = build_backbone(settings, 2, seed=6).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if first[key].is_floating_point() and first[key].std() > 0]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # building draws nothing from the global state


def test_resnet_weights_have_the_variance_of_he():
    state = build_backbone(BackboneSettings(name="resnet18"), 1, seed=0).state_dict()
    weight = state["layer3.0.conv2.weight"]
    # 589,824 weights of variance 2 / (256 * 9): the relative standard error is 0.2 %.
    assert weight.var().item() == pytest.approx(2 / (256 * 9), rel=0.01)


def test_pooled_is_the_mean_of_spatial_for_a_resnet():
    backbone = build_backbone(BackboneSettings(width=8), 1, seed=0).eval()
    features = backbone(torch.randn(3, 1, 70, 96, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(features.pooled, features.spatial.mean((2, 3)))


def test_masked_patches_are_not_pooled_unless_all_are():
    backbone = VisionTransformer(32, 4, 2, 8, 1, image_size=32, pooling="stages").eval()
    backbone.initialise(torch.Generator().manual_seed(0))
    backbone.prepare(mask_token=True)
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(3, 16, dtype=torch.bool)
    mask[0, 4:11] = True
    mask[1] = True
    seen = []
    pooled = backbone._features(images, mask, visit=lambda count, tokens: seen.append(tokens[:, 1:])).pooled
    for image, shown in ((0, ~mask[0]), (1, mask[1]), (2, ~mask[2])):
        parts = [seen[count][image, shown] for count in (2, 3, 4)]
        expected = torch.cat([*(p.mean(0) for p in parts), *(p.max(0).values for p in parts)])
        torch.testing.assert_close(pooled[image, 32:], expected, atol=1e-5, rtol=1e-5)


def test_stages_are_pooled_by_mean_and_by_maximum():
    settings = BackboneSettings(width=8, pooling="stages")
    backbone = build_backbone(settings, 1, seed=0).eval()
    seen = []
    for name in ("layer2", "layer3", "layer4"):
        getattr(backbone, name).register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    pooled = backbone(x).pooled
    expected = [s.mean((2, 3)) for s in seen] + [s.flatten(2).max(dim=2).values for s in seen]
    torch.testing.assert_close(pooled, torch.cat(expected, dim=1), rtol=0, atol=0)
    assert pooled.shape == (2, backbone.dim) == (2, 2 * (16 + 32 + 64))


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
def test_quarters_of_the_blocks_are_pooled_without_the_class_token_and_registers(depth):
    backbone = VisionTransformer(32, depth, 2, 8, 1, image_size=32, registers=3, pooling="stages").eval()
    torch.manual_seed(0)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    seen, normed = [], []
    for block in backbone.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[:, 4:]))
    backbone.norm.register_forward_hook(lambda module, inputs, output: normed.append(output[:, 0]))
    x = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = backbone(x)
    stages = [seen[{1: 0, 2: 0, 5: 2, 12: 5}[depth]], seen[{1: 0, 2: 1, 5: 3, 12: 8}[depth]], seen[depth - 1]]
    expected = normed + [s.mean(1) for s in stages] + [s.max(dim=1).values for s in stages]
    torch.testing.assert_close(features.pooled, torch.cat(expected, dim=1), rtol=0, atol=0)
    assert features.pooled.shape == (2, backbone.dim) == (2, 7 * 32)
    assert features.spatial.shape == (2, 32, 4, 6)


def test_spatial_features_keep_rows_and_columns_in_place():
    """A change in one corner changes that corner of the spatial features most."""
    x = torch.zeros(1, 1, 64, 64)
    spot = x.clone()
    spot[..., 4:12, 52:60] = 3.0
    for settings in (BackboneSettings(width=8, stem="small"), BackboneSettings(name="vit-ti/8", image_size=64)):
        backbone = build_backbone(settings, 1, seed=0).eval()
        change = (backbone(spot).spatial - backbone(x).spatial)[0].norm(dim=0)
        row, column = divmod(int(change.argmax()), 8)
        assert row <= 2
        assert column >= 5


def test_channels_last_gives_the_same_features():
    backbone = build_backbone(BackboneSettings(width=8), 2, seed=0).eval()
    x = torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = backbone(x)
    last = backbone.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last.pooled, expected.pooled, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last.spatial, expected.spatial, atol=1e-5, rtol=1e-4)


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    stem=st.sampled_from(["imagenet", "small"]),
    count=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 3, 12]),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
)
def test_a_resnet_takes_any_size(stem, count, channels, height, width):
    backbone = build_backbone(BackboneSettings(width=4, stem=stem), channels, seed=0).eval()
    features = backbone(torch.ones(count, channels, height, width))
    stride = 32 if stem == "imagenet" else 8
    assert features.pooled.shape == (count, backbone.dim) == (count, 32)
    assert features.spatial.shape == (count, 32, -(-height // stride), -(-width // stride))
    assert torch.isfinite(features.pooled).all()


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 3, 12]),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    registers=st.integers(0, 3),
)
def test_a_vit_takes_any_grid_of_patches(count, channels, rows, columns, registers):
    backbone = VisionTransformer(32, 2, 2, 8, channels, image_size=32, registers=registers).eval()
    features = backbone(torch.ones(count, channels, rows * 8, columns * 8))
    assert features.pooled.shape == (count, 32)
    assert features.spatial.shape == (count, 32, rows, columns)
    assert torch.isfinite(features.spatial).all()


@pytest.mark.parametrize("name", ["resnet18", "vit-ti/8"])
def test_images_with_other_channels_are_refused(name):
    backbone = build_backbone(BackboneSettings(name=name), 2, seed=0)
    with pytest.raises(ModelError, match=r"\[N, 2, H, W\]"):
        backbone(torch.zeros(1, 3, 64, 64))


def test_images_that_patches_do_not_tile_are_refused():
    with pytest.raises(ModelError, match="multiple of 8 px"):
        VisionTransformer(32, 1, 2, 8, 1, image_size=32)(torch.zeros(1, 1, 30, 32))
    with pytest.raises(ModelError, match="image_size 100"):
        build_backbone(BackboneSettings(name="vit-s/16", image_size=100), 1, seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "resnet19"}, "name"),
        ({"name": "resnet18", "registers": 4}, "registers means nothing"),
        ({"name": "vit-s/16", "stem": "small"}, "stem means nothing"),
        ({"name": "resnet18", "pooling": "class"}, "cannot pool by 'class'"),
        ({"name": "vit-s/16", "pooling": "mean"}, "cannot pool by 'mean'"),
        ({"widht": 3}, "did you mean 'width'"),
    ],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(ConfigError) as caught:
        validate(BackboneSettings, values)
    assert message in str(caught.value)


def test_a_strided_pointwise_convolution_is_that_of_torch() -> None:
    ours = StridedPointwise(4, 8, 1, 2, bias=False)
    x = torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = ours.weight.detach().clone().requires_grad_()
    expected = torch.nn.functional.conv2d(x, weight, stride=2)
    expected_x, expected_weight = torch.autograd.grad(expected.square().sum(), [x, weight])
    y = ours(x.contiguous(memory_format=torch.channels_last))
    found_x, found_weight = torch.autograd.grad(y.square().sum(), [x, ours.weight])
    # Float32 sums of four channels, and of 60 pixels for the weights.
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_x, expected_x, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found_weight, expected_weight, rtol=1e-5, atol=1e-5)
