"""The spreading regulariser of DINOv2."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from groundswell.device import float32_matmul

EPSILON = 1e-8


def koleo(features: Tensor) -> Tensor:
    r"""-mean log distance of each unit feature to its nearest neighbour (Sablayrolles et al. 2019, arXiv 1806.03198).

    With x = f / |f| and n(i) = argmax_{j != i} x_i . x_j:  -1 / N  sum_i  log(|x_i - x_n(i) + e| + e),  e = 1e-8, as
    facebookresearch/dinov2 b8931f7, koleo_loss.py. By definition the neighbour is sought in this batch alone, that
    of one process: the value depends on how the images are split, and needs at least two of them.

    Parameters
    ----------
    features : float [N, D]
        Of different images: two views of one image would push each other apart.

    Returns
    -------
    float scalar, at least float32; -ln 2 for an antipodal pair; finite for duplicates.
    """
    with torch.autocast(features.device.type, enabled=False), float32_matmul(features.device, "highest"):
        x = F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), eps=EPSILON, dim=1)
        with torch.no_grad():
            neighbour = (x @ x.T).fill_diagonal_(-2.0).argmax(1)  # below any cosine, -1 included
        distance = torch.linalg.vector_norm(x - x[neighbour] + EPSILON, dim=1)
        return -torch.log(distance + EPSILON).mean()
