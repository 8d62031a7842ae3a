"""The objective of iBOT: the student must tell, for each masked patch, which prototypes the teacher chose there."""

from __future__ import annotations

import torch
from torch import Tensor


def ibot_loss(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 0.1) -> Tensor:
    r"""The mean over images of the mean over their masked patches (Zhou et al. 2022, arXiv 2111.07832, eq. 2).

    L = 1 / N  sum_i  1 / m_i  sum_{j masked in i}  -sum_k p_ijk log softmax(s_ij / temperature)_k

    N counts the images without a masked patch too (facebookresearch/dinov2 b8931f7, ibot_patch_loss.py,
    ``forward_masked``), and an image counts alike whatever its m_i: not a mean over all masked patches. As p sums to 1
    the inner sum is log sum exp z - p . z with z = s / temperature, for which no log-softmax is stored.

    Parameters
    ----------
    student : float [M, K]
        Logits of the masked patches alone, in the order of ``mask``.
    teacher : float [M, K]
        The teacher's choices there, of the unmasked images.
    mask : bool [N, P]
        Which patches of each image are masked: M in all; M may be 0.
    temperature : float
        Of the student.

    Returns
    -------
    float scalar, at least float32.
    """
    with torch.autocast(student.device.type, enabled=False):
        z = student.to(torch.promote_types(student.dtype, torch.float32)) / temperature
        counts = mask.sum(1, keepdim=True).clamp(min=1).expand_as(mask)[mask]
        costs = torch.logsumexp(z, dim=1) - (teacher * z).sum(1)
        return (costs / counts).sum() / len(mask)
