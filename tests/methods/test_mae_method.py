"""MAE as a whole: against the transformers class with the same weights, its sizes, its start, what it must not see."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from groundswell import rng
from groundswell.backbones import BackboneSettings, VisionTransformer, build_backbone
from groundswell.methods.mae import MAE, MAESettings, sine_positions
from groundswell.views.masking import random_masks

SMALL = {"decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 4}


def whole(images: Tensor, keys: Tensor) -> Tensor:
    return images


def tiny(channels: int = 1, registers: int = 0, **changes: Any) -> MAE:
    settings = BackboneSettings(name="vit-ti/8", image_size=32, registers=registers)
    backbone = build_backbone(settings, channels, seed=0)
    assert isinstance(backbone, VisionTransformer)
    return MAE(MAESettings(**(SMALL | changes)), backbone, whole, seed=0).train()


def batch(count: int = 3, channels: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(count, channels, 32, 32, generator=torch.Generator().manual_seed(0)), rng.keys(0, range(count))


@pytest.mark.parametrize(
    ("name", "channels", "encoder", "decoder"),
    # Reference note C, at 256 px: the encoder without its fixed table, the decoder without its own.
    [
        ("vit-s/16", 1, 21_393_408, 25_549_056),
        ("vit-s/16", 3, 21_590_016, 25_811_712),
        ("vit-s/16", 12, 22_474_752, 26_993_664),
        ("vit-b/16", 1, 85_254_144, 25_745_664),
        ("vit-b/16", 3, 85_647_360, 26_008_320),
        ("vit-b/16", 12, 87_416_832, 27_190_272),
    ],
)
def test_parameter_counts_are_the_published_ones(
    name: Literal["vit-s/16", "vit-b/16"], channels: int, encoder: int, decoder: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VisionTransformer, "initialise", lambda self, generator: None)
    monkeypatch.setattr("groundswell.methods.mae.draw_weights", lambda module, source: None)
    with torch.device("meta"):
        backbone = build_backbone(BackboneSettings(name=name), channels, seed=0)
    assert isinstance(backbone, VisionTransformer)
    method = MAE(MAESettings(), backbone, whole, seed=0)
    assert sum(p.numel() for p in method.backbone.parameters() if p.requires_grad) == encoder
    assert sum(p.numel() for p in method.decoder.parameters()) == decoder


def published_table(dim: int, grid: int) -> np.ndarray:
    """Number by number, as facebookresearch/mae efb2a80, util/pos_embed.py."""
    table = np.zeros((1 + grid * grid, dim))
    for row in range(grid):
        for column in range(grid):
            for half, position in enumerate((column, row)):
                for i in range(dim // 4):
                    angle = position / 10000 ** (i / (dim / 4))
                    table[1 + row * grid + column, half * dim // 2 + i] = np.sin(angle)
                    table[1 + row * grid + column, half * dim // 2 + dim // 4 + i] = np.cos(angle)
    return table


def test_the_table_of_positions_is_the_published_one() -> None:
    np.testing.assert_allclose(sine_positions(16, 5)[0].numpy(), published_table(16, 5), atol=1e-7)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_loss_equals_that_of_transformers_with_the_same_weights_and_mask(normalise: bool, channels: int) -> None:
    transformers = pytest.importorskip("transformers")
    method = tiny(channels, normalise=normalise)
    with torch.no_grad():  # biases, norms and tokens away from their tame start
        for p in method.parameters():
            if p.requires_grad:
                p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    config = transformers.ViTMAEConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, layer_norm_eps=1e-6,
        image_size=32, patch_size=8, num_channels=channels, mask_ratio=0.75, norm_pix_loss=normalise,
        decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=128,
    )  # fmt: skip
    theirs = transformers.ViTMAEForPreTraining(config).train()
    theirs.load_state_dict(as_transformers(method))
    images, keys = batch(4, channels)
    _, mask, restore = random_masks(rng.keys(0, keys, "mask"), 16, 0.75)
    # Their mask keeps what has the smallest noise: the place of each patch in the shuffle is such a noise.
    out = theirs(pixel_values=images, noise=restore.float())
    assert torch.equal(out.mask.bool(), mask)
    loss, _ = method.loss(images, keys)
    assert loss.item() == pytest.approx(out.loss.item(), rel=1e-5)
    loss.backward()
    out.loss.backward()
    # Gradients of float32 networks, relative to the largest.
    ours, other = method.backbone.patch_embed.proj.weight.grad, theirs.vit.embeddings.patch_embeddings.projection.weight
    torch.testing.assert_close(ours, other.grad, rtol=0, atol=1e-4 * float(other.grad.abs().max()))


def as_transformers(method: MAE) -> dict[str, Tensor]:
    """Our weights under the names of ``ViTMAEForPreTraining`` (transformers 5)."""
    names = {"attn.proj": "attention.o_proj", "norm1": "layernorm_before", "norm2": "layernorm_after"}

    def block(prefix: str, new: str) -> dict[str, Tensor]:
        out = {}
        for name, value in method.state_dict().items():
            if not name.startswith(prefix):
                continue
            number, rest = name.removeprefix(prefix).split(".", 1)
            part, kind = rest.rsplit(".", 1)
            if part == "attn.qkv":
                for letter, third in zip("qkv", value.chunk(3), strict=True):
                    out[f"{new}.{number}.attention.{letter}_proj.{kind}"] = third
            else:
                out[f"{new}.{number}.{names.get(part, part)}.{kind}"] = value
        return out

    state = method.state_dict()
    plain = {
        "vit.embeddings.cls_token": "backbone.cls_token",
        "vit.embeddings.position_embeddings": "backbone.pos_embed",
        "vit.embeddings.patch_embeddings.projection.weight": "backbone.patch_embed.proj.weight",
        "vit.embeddings.patch_embeddings.projection.bias": "backbone.patch_embed.proj.bias",
        "vit.layernorm.weight": "backbone.norm.weight",
        "vit.layernorm.bias": "backbone.norm.bias",
        "decoder.mask_token": "decoder.mask_token",
        "decoder.decoder_embed.weight": "decoder.embed.weight",
        "decoder.decoder_embed.bias": "decoder.embed.bias",
        "decoder.decoder_norm.weight": "decoder.norm.weight",
        "decoder.decoder_norm.bias": "decoder.norm.bias",
        "decoder.decoder_pred.weight": "decoder.predict.weight",
        "decoder.decoder_pred.bias": "decoder.predict.bias",
    }
    return {
        **{theirs: state[ours] for theirs, ours in plain.items()},
        "decoder.decoder_pos_embed": method.decoder.positions,
        **block("backbone.blocks.", "vit.layers"),
        **block("decoder.blocks.", "decoder.decoder_layers"),
    }


def test_fused_queries_keys_and_values_are_drawn_as_one_map() -> None:
    method = tiny()
    weight = method.backbone.blocks[0].attn.qkv.weight.detach()
    bound = (6 / (4 * 192)) ** 0.5  # fan in 192, fan out 576
    assert float(weight.abs().max()) <= bound
    # Uniform over 110,592 weights: the deviation bound / sqrt(3) is known to 0.2 %.
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.01)
    assert float(method.decoder.mask_token.detach().std()) == pytest.approx(0.02, rel=0.5)  # 32 numbers


def test_the_encoder_does_not_see_what_it_must_guess() -> None:
    method, (images, keys) = tiny(normalise=False), batch()
    keep, mask, _ = random_masks(rng.keys(0, keys, "mask"), 16, 0.75)
    assert keep.shape == (3, 4)
    changed = images.clone()
    for image in range(3):
        for patch in mask[image].nonzero()[:, 0].tolist():
            row, column = divmod(patch, 4)
            changed[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += 3.0
    first, second = method.loss(images, keys), method.loss(changed, keys)
    assert torch.equal(first[1].features, second[1].features)
    assert first[0].item() != second[0].item()


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("positions", ["fixed", "learned"])
def test_what_is_trained(positions: str, registers: int) -> None:
    method = tiny(registers=registers, positions=positions)
    method.loss(*batch())[0].backward()
    for name, p in method.named_parameters():
        fixed = name == "backbone.pos_embed" and positions == "fixed"
        assert p.requires_grad is not fixed
        assert (p.grad is None) is fixed, name
    assert not any("positions" in name for name in method.state_dict())  # a constant: no checkpoint needs it


def test_explained_is_zero_for_a_guess_of_nothing() -> None:
    method = tiny()
    with torch.no_grad():
        method.decoder.predict.weight.zero_()
        method.decoder.predict.bias.zero_()
    loss, observed = method.loss(*batch())
    assert loss.item() == pytest.approx(63 / 64, rel=1e-5)
    assert float(observed.scalars["explained"]) == pytest.approx(0.0, abs=1e-6)


def test_without_normalisation_what_is_explained_is_beside_the_mean_of_each_patch() -> None:
    images, keys = batch()
    method = tiny(normalise=False)
    images = 3.0 + images  # beside zero the same loss would seem to explain nearly all
    mask = random_masks(rng.keys(0, keys, "mask"), 16, 0.75)[1]
    loss, observed = method.loss(images, keys)
    patches = images.view(3, 4, 8, 4, 8).transpose(2, 3).reshape(3, 16, 64)
    within = patches.var(-1, correction=0)[mask].mean()
    torch.testing.assert_close(observed.scalars["explained"], 1 - loss.detach() / within)


@pytest.mark.parametrize("positions", ["fixed", "learned"])
def test_the_table_of_positions_is_in_its_place(positions: str) -> None:
    table = tiny(positions=positions).backbone.pos_embed
    assert torch.equal(table.detach(), sine_positions(192, 4)) == (positions == "fixed")


def test_every_image_has_a_view_of_its_own() -> None:
    seen: list[Tensor] = []
    method = tiny()
    method.policy = lambda images, keys: (seen.append(keys), images)[1]
    images, keys = batch(8)
    method.loss(images, keys)
    assert len(set(seen[0].tolist())) == 8


def test_the_decoder_is_given_the_class_token_and_the_patches_and_no_register() -> None:
    method, given = tiny(registers=3), list[Tensor]()
    latents: list[Tensor] = []
    method.decoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    plain = method.backbone.transform
    method.backbone.transform = lambda *a, **k: (latents.append(plain(*a, **k)), latents[-1])[1]  # type: ignore[method-assign]
    method.loss(*batch())
    assert latents[0].shape[1] == 1 + 3 + 4
    assert torch.equal(given[0], latents[0][:, [0, 4, 5, 6, 7]])


def test_ramps_are_learnt_as_far_as_they_can_be() -> None:
    """Of a ramp of slope s a patch of 8 px has a variance of 5.25 s^2, whatever its direction; the rest is noise."""
    settings = BackboneSettings(name="vit-ti/8", depth=2, image_size=32)
    backbone = build_backbone(settings, 1, seed=0)
    assert isinstance(backbone, VisionTransformer)
    method = MAE(MAESettings(**SMALL), backbone, whole, seed=0).train()
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-3, betas=(0.9, 0.95))
    source, rows = torch.Generator().manual_seed(0), torch.arange(32.0)[:, None]
    slope, noise = 1 / 16, 0.05
    explained = []
    for step in range(150):
        angle = 2 * torch.pi * torch.rand(32, 1, 1, 1, generator=source)
        ramps = slope * (torch.cos(angle) * (rows - 15.5) + torch.sin(angle) * (rows.T - 15.5))
        images = ramps + noise * torch.randn(ramps.shape, generator=source)
        loss, observed = method.loss(images, rng.keys(step, range(32)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        explained.append(float(observed.scalars["explained"]))
    ceiling = 5.25 * slope**2 / (5.25 * slope**2 + noise**2)  # 0.891
    assert 0.9 * ceiling < np.mean(explained[-10:]) < ceiling + 0.01


def test_a_decoder_begins_as_if_it_had_no_neighbours() -> None:
    without, having, (images, keys) = tiny(), tiny(decoder_neighbours=True), batch()
    assert having.loss(images, keys)[0].item() == without.loss(images, keys)[0].item()
    having.loss(images, keys)[0].backward()
    assert having.decoder.neighbours is not None
    assert having.decoder.neighbours.conv.weight.grad is not None
    assert having.decoder.neighbours.conv.weight.grad.abs().max() > 0


def test_a_patch_takes_from_those_beside_it_in_the_image() -> None:
    """The sum over the 3 x 3 patches around each, one by one, in the order of the image."""
    decoder, source = tiny(decoder_neighbours=True).decoder, torch.Generator().manual_seed(0)
    assert decoder.neighbours is not None
    with torch.no_grad():
        decoder.neighbours.conv.weight.normal_(generator=source)
    keep, mask, restore = random_masks(rng.keys(0, range(2)), 16, 0.75)
    tokens = torch.randn(2, 1 + keep.shape[1], 192, generator=source)
    entered: list[Tensor] = []
    decoder.blocks[0].register_forward_pre_hook(lambda module, given: entered.append(given[0]))
    decoder(tokens, restore)

    embedded = decoder.embed(tokens)
    patches = decoder.mask_token.expand(2, 16, -1).clone()
    for image in range(2):
        patches[image, keep[image]] = embedded[image, 1:]
    assert torch.equal(mask, (patches == decoder.mask_token).all(2))
    for patch in range(16):
        row, column = divmod(patch, 4)
        expected = patches[:, patch].clone()
        for y in range(max(row - 1, 0), min(row + 2, 4)):
            for x in range(max(column - 1, 0), min(column + 2, 4)):
                kernel = decoder.neighbours.conv.weight[:, :, y - row + 1, x - column + 1]
                expected = expected + patches[:, 4 * y + x] @ kernel.T
        found = entered[0][:, 1 + patch] - decoder.positions[:, 1 + patch]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(entered[0][:, 0], embedded[:, 0] + decoder.positions[:, 0])


def test_waves_are_continued_from_the_patches_beside_them() -> None:
    """Single waves of 12 to 32 px: in 60 steps a decoder that knows its neighbours tells a part, another nothing."""
    explained = {}
    for neighbours in (False, True):
        settings = BackboneSettings(name="vit-ti/8", depth=1, image_size=32)
        backbone = build_backbone(settings, 1, seed=0)
        assert isinstance(backbone, VisionTransformer)
        method = MAE(MAESettings(**SMALL, decoder_neighbours=neighbours), backbone, whole, seed=0).train()
        optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3, betas=(0.9, 0.95))
        source, rows = torch.Generator().manual_seed(0), torch.arange(32.0)[:, None]
        told = []
        for step in range(60):
            angle, shift, octave = torch.rand(3, 64, 1, 1, 1, generator=source)
            along = torch.cos(2 * torch.pi * angle) * rows + torch.sin(2 * torch.pi * angle) * rows.T
            images = torch.sin(2 * torch.pi * (along / (12 * (32 / 12) ** octave) + shift))
            loss, observed = method.loss(images, rng.keys(step, range(64)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            told.append(float(observed.scalars["explained"]))
        explained[neighbours] = float(np.mean(told[-5:]))
    assert explained[False] < 0.02
    assert explained[True] > 0.2


def test_a_decoder_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of decoder_heads"):
        MAESettings(decoder_dim=20, decoder_heads=8)
