"""The same weights in the transformers classes give the same features (random weights, no download)."""

import pytest
import torch

from groundswell.backbones import BackboneSettings, build_backbone, transformers_keys
from groundswell.backbones.transformers_keys import from_transformers, to_transformers, transformers_config
from groundswell.errors import ModelError

transformers = pytest.importorskip("transformers")

CASES = [
    ({"name": "resnet18", "width": 16}, 64),
    ({"name": "resnet50", "width": 16}, 64),
    ({"name": "vit-ti/8", "image_size": 32}, 32),
    ({"name": "vit-ti/8", "image_size": 32}, 56),
    ({"name": "vit-ti/16", "image_size": 64, "registers": 4}, 64),
    ({"name": "vit-ti/16", "image_size": 64, "registers": 4}, 96),
    ({"name": "vit-ti/16", "image_size": 64, "registers": 2}, 32),
]


@pytest.fixture(autouse=True)
def _shallow(monkeypatch):
    """Three layers of the twelve: the same code, a quarter of the time."""
    monkeypatch.setitem(transformers_keys.VIT_SIZES, "ti", (192, 3, 3))


def foreign_model(config: dict[str, object], seed: int) -> torch.nn.Module:
    """The transformers class with every parameter and every batch statistic random (its own start is too tame)."""
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.ndim < 2:
                positive = name.endswith(("weight", "running_var", "lambda1"))
                value.copy_(torch.rand(value.shape, generator=generator) + (0.5 if positive else -0.5))
            elif "token" in name or "position" in name:
                value.copy_(torch.randn(value.shape, generator=generator))
    return model


def foreign_features(model: torch.nn.Module, x: torch.Tensor, patch: int, registers: int):
    if patch == 0:
        out = model(x)
        return out.pooler_output.flatten(1), out.last_hidden_state
    extra = {} if registers else {"interpolate_pos_encoding": True}
    hidden = model(x, **extra).last_hidden_state
    h, w = x.shape[2] // patch, x.shape[3] // patch
    return hidden[:, 0], hidden[:, 1 + registers :].transpose(1, 2).reshape(len(x), -1, h, w)


@pytest.mark.parametrize("channels", [1, 2, 3, 12])
@pytest.mark.parametrize(("values", "size"), CASES)
def test_weights_of_transformers_give_the_same_features(values, size, channels):
    settings = BackboneSettings(**values)
    config = transformers_config(settings, channels)
    assert config is not None
    theirs = foreign_model(config, seed=channels)
    ours = build_backbone(settings, channels, seed=0).eval()
    ours.load_state_dict(from_transformers(theirs.state_dict(), config["model_type"]))
    x = torch.randn(2, channels, size, size + 32, generator=torch.Generator().manual_seed(1))
    patch = int(settings.name.split("/")[1]) if "/" in settings.name else 0
    with torch.no_grad():
        features = ours(x)
        pooled, spatial = foreign_features(theirs, x, patch, settings.registers)
    assert features.pooled.std() > 0.05
    # Relative to the largest feature: random batch statistics grow activations well beyond 1.
    torch.testing.assert_close(features.pooled, pooled, rtol=0, atol=1e-5 * max(1.0, pooled.abs().max().item()))
    torch.testing.assert_close(features.spatial, spatial, rtol=0, atol=1e-5 * max(1.0, spatial.abs().max().item()))


@pytest.mark.parametrize(("values", "size"), CASES)
def test_our_weights_fill_the_class_of_transformers_and_come_back(values, size, tmp_path):
    settings = BackboneSettings(**values)
    ours = build_backbone(settings, 2, seed=3).eval()
    config = transformers_config(settings, 2)
    assert config is not None
    state = to_transformers(ours.state_dict(), config["model_type"])
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config))
    outcome = theirs.load_state_dict(state, strict=False)
    assert outcome.unexpected_keys == []
    assert all(key.startswith("pooler.") for key in outcome.missing_keys)  # ViT's tanh pooler: ours has none
    back = from_transformers(theirs.state_dict(), config["model_type"])
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in ours.state_dict().items())


def test_a_saved_directory_loads_with_automodel(tmp_path):
    import json

    from safetensors.torch import save_file

    settings = BackboneSettings(name="vit-ti/16", image_size=64, registers=2)
    ours = build_backbone(settings, 1, seed=3).eval()
    config = transformers_config(settings, 1)
    assert config is not None
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(to_transformers(ours.state_dict(), config["model_type"]), tmp_path / "model.safetensors")
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x).pooled, theirs(x).pooler_output, rtol=0, atol=1e-5)


def test_the_small_stem_has_no_native_layout():
    assert transformers_config(BackboneSettings(stem="small"), 1) is None


def test_strange_names_are_refused():
    with pytest.raises(ModelError, match=r"no place in the layout 'resnet'"):
        from_transformers({"encoder.stages.0.oddity": torch.zeros(1)}, "resnet")
    with pytest.raises(ModelError, match="no key map"):
        to_transformers({}, "swin")
