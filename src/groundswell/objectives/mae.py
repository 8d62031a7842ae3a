"""The objective of masked autoencoders: the pixels of the patches that the encoder did not see."""

from __future__ import annotations

import torch
from torch import Tensor


def patchify(images: Tensor, patch: int) -> Tensor:
    """Images ``[N, C, H, W]`` as patches ``[N, h w, patch patch C]``: rows first, and channel last within a patch.

    As facebookresearch/mae efb2a80, models_mae.py:95.
    """
    n, c, height, width = images.shape
    h, w = height // patch, width // patch
    tiles = images.reshape(n, c, h, patch, w, patch)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(n, h * w, patch * patch * c)


def mae_loss(prediction: Tensor, patches: Tensor, mask: Tensor, normalise: bool = True) -> Tensor:
    r"""Mean squared error over the pixels of the masked patches (He et al. 2022, arXiv 2111.06377, section 3).

    L = sum_{masked j} mean_d (prediction_jd - target_jd)^2 / number masked, over the batch (models_mae.py:205-213).
    With ``normalise``, the target of a patch is (x - mean) / sqrt(var + 1e-6) over all its values, channels together,
    with the unbiased variance: a prediction of zero then costs (D - 1) / D.

    Parameters
    ----------
    prediction, patches : float [N, P, D]
        What was predicted, and `patchify` of the images.
    mask : bool [N, P]
        True where the encoder did not see; at least one is.
    normalise : bool

    Returns
    -------
    float scalar, at least float32.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        kind = torch.promote_types(prediction.dtype, torch.float32)
        target = patches.to(kind)
        if normalise:
            variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        weight = mask.to(kind)
        return ((prediction.to(kind) - target).square().mean(-1) * weight).sum() / weight.sum()
