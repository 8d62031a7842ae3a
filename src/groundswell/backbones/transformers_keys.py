"""Backbones in the native layout of transformers, so that ``AutoModel.from_pretrained`` loads them without remote code.

Names follow transformers 5 (``ResNetModel``, ``ViTModel``, ``Dinov2WithRegistersModel``); its version 4 named the
attention of ViT otherwise (``attention.attention.query``) and renames on loading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from groundswell.backbones import RESNETS, VIT_SIZES, BackboneSettings
from groundswell.errors import ModelError

# transformers name (a template of numbers) -> our name. Stages count from 0 there and from 1 here.
_RESNET = {
    "embedder.embedder.convolution": "conv1",
    "embedder.embedder.normalization": "bn1",
    "encoder.stages.{s}.layers.{i}.layer.{c}.convolution": "layer{s1}.{i}.conv{c1}",
    "encoder.stages.{s}.layers.{i}.layer.{c}.normalization": "layer{s1}.{i}.bn{c1}",
    "encoder.stages.{s}.layers.{i}.shortcut.convolution": "layer{s1}.{i}.downsample.0",
    "encoder.stages.{s}.layers.{i}.shortcut.normalization": "layer{s1}.{i}.downsample.1",
}
_EMBEDDINGS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.register_tokens": "register_tokens",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}
_VIT = {
    **_EMBEDDINGS,
    "layers.{i}.layernorm_before": "blocks.{i}.norm1",
    "layers.{i}.attention.qkv": "blocks.{i}.attn.qkv",
    "layers.{i}.attention.o_proj": "blocks.{i}.attn.proj",
    "layers.{i}.layernorm_after": "blocks.{i}.norm2",
    "layers.{i}.mlp.fc{c}": "blocks.{i}.mlp.fc{c}",
}
_DINOV2 = {
    **_EMBEDDINGS,
    "encoder.layer.{i}.norm1": "blocks.{i}.norm1",
    "encoder.layer.{i}.attention.qkv": "blocks.{i}.attn.qkv",
    "encoder.layer.{i}.attention.o_proj": "blocks.{i}.attn.proj",
    "encoder.layer.{i}.norm2": "blocks.{i}.norm2",
    "encoder.layer.{i}.mlp.fc{c}": "blocks.{i}.mlp.fc{c}",
    "encoder.layer.{i}.layer_scale{c}.lambda1": "blocks.{i}.layer_scale{c}",
}
_TABLES = {"resnet": _RESNET, "vit": _VIT, "dinov2_with_registers": _DINOV2}


def transformers_config(settings: BackboneSettings, in_channels: int) -> dict[str, Any] | None:
    """The ``config.json`` of the transformers class that computes what our backbone does.

    None for the small ResNet stem and for neighbours in a ViT, which transformers does not have. Its networks pool by
    the mean or the class token alone: with ``pooling="stages"`` the spatial features agree and what they pool does not.
    """
    if settings.name in RESNETS:
        if settings.stem != "imagenet":
            return None
        block, depths = RESNETS[settings.name]
        return {
            "model_type": "resnet",
            "architectures": ["ResNetModel"],
            "num_channels": in_channels,
            "embedding_size": settings.width,
            "hidden_sizes": [settings.width * block.expansion * 2**stage for stage in range(4)],
            "depths": list(depths),
            "layer_type": "basic" if block.expansion == 1 else "bottleneck",
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": False,
        }
    if settings.neighbours:
        return None
    size, patch = settings.name.removeprefix("vit-").split("/")
    dim, depth, heads = VIT_SIZES[size]
    common = {
        "num_channels": in_channels,
        "image_size": settings.image_size,
        "patch_size": int(patch),
        "hidden_size": dim,
        "num_hidden_layers": settings.depth or depth,
        "num_attention_heads": heads,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
    }
    if not settings.registers:
        return {"model_type": "vit", "architectures": ["ViTModel"], "intermediate_size": 4 * dim, **common}
    return {
        "model_type": "dinov2_with_registers",
        "architectures": ["Dinov2WithRegistersModel"],
        "num_register_tokens": settings.registers,
        "mlp_ratio": 4,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        **common,
    }


def to_transformers(state: Mapping[str, Tensor], model_type: str) -> dict[str, Tensor]:
    """Our state dict under the names of transformers.

    Parameters
    ----------
    state : mapping
        ``backbone.state_dict()``.
    model_type : str
        Of `transformers_config`: "resnet", "vit" or "dinov2_with_registers".

    Raises
    ------
    ModelError
        For a name that the layout does not have.
    """
    backward = [(_pattern(ours), theirs) for theirs, ours in _table(model_type).items()]
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        new = _rename(name, backward, shift=-1, model_type=model_type)
        if ".qkv" in new:
            out |= {new.replace("qkv", f"{part}_proj"): p for part, p in zip("qkv", value.chunk(3), strict=True)}
        else:
            out[new] = value
    if model_type == "dinov2_with_registers":  # parameters that ours does without: no masking, no layer scale
        out["embeddings.mask_token"] = torch.zeros_like(out["embeddings.cls_token"][0])
        ones = torch.ones_like(out["layernorm.weight"])
        depth = sum(name.endswith("norm1.weight") for name in out)
        out |= {f"encoder.layer.{i}.layer_scale{c}.lambda1": ones.clone() for i in range(depth) for c in (1, 2)}
    return {name: value.contiguous() for name, value in out.items()}


def from_transformers(state: Mapping[str, Tensor], model_type: str) -> dict[str, Tensor]:
    """A state dict of transformers under our names; the inverse of `to_transformers`.

    The pooler of ViT and the mask token of DINOv2 are left out, and layer scale is folded into the linear layer
    before it, which changes no output.

    Raises
    ------
    ModelError
        For a name that the layout does not have.
    """
    forward = [(_pattern(theirs), ours) for theirs, ours in _table(model_type).items()]
    out: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith("pooler.") or name == "embeddings.mask_token":
            continue
        new = _rename(re.sub(r"attention\.[qkv]_proj", "attention.qkv", name), forward, shift=1, model_type=model_type)
        if ".qkv" in new:
            parts.setdefault(new, {})[name.split(".")[-2][0]] = value
        else:
            out[new] = value
    out |= {name: torch.cat([three[part] for part in "qkv"]) for name, three in parts.items()}
    for name in [name for name in out if ".layer_scale" in name]:
        scale = out.pop(name)
        linear = name.replace("layer_scale1", "attn.proj").replace("layer_scale2", "mlp.fc2")
        out[f"{linear}.weight"] = scale[:, None] * out[f"{linear}.weight"]
        out[f"{linear}.bias"] = scale * out[f"{linear}.bias"]
    return out


def _table(model_type: str) -> dict[str, str]:
    if model_type not in _TABLES:
        raise ModelError(f"no key map for the model type {model_type!r}", fix=f"one of {', '.join(_TABLES)}")
    return _TABLES[model_type]


def _pattern(template: str) -> re.Pattern[str]:
    """A template as a pattern whose last group is the rest of the name (``.weight``, ``.running_mean``, ...)."""
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template)) + r"(?P<rest>(\.\w+)?)$")


def _rename(name: str, table: list[tuple[re.Pattern[str], str]], shift: int, model_type: str) -> str:
    for pattern, template in table:
        if match := pattern.match(name):
            groups = match.groupdict()
            rest = groups.pop("rest")
            numbers = {key: int(number) for key, number in groups.items()}
            # The name in hand tells s or s1 = s + 1, c or c1 = c + 1: the template wants the other.
            other = {key.removesuffix("1") if shift < 0 else f"{key}1": n + shift for key, n in numbers.items()}
            return template.format(**{**other, **numbers}) + rest
    raise ModelError(f"a parameter has no place in the layout {model_type!r}", where=name)
