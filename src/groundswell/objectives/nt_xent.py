"""The contrastive objective of SimCLR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from groundswell import distributed
from groundswell.device import float32_matmul


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    r"""Normalised temperature-scaled cross-entropy of two views (Chen et al. 2020, arXiv 2002.05709, eq. 1).

    With z = h / |h| over all 2N rows and s_ij = z_i . z_j / t, the mean over the 2N rows i, whose other view is p(i),
    of  -s_ip(i) + log sum_{j != i} exp s_ij.  (The authors' code adds the means of the two views: twice this.)

    Over several processes the negatives come from all of them: each takes the mean over its own rows, and the mean of
    these over the processes is the loss of the one large batch, with its gradient.

    Parameters
    ----------
    first, second : float [N, D]
        Projections of the two views; row i of both is the same image. Any scale: rows are normalised.
    temperature : float

    Returns
    -------
    float scalar, at least float32; ln(2N - 1) where all rows are equal (N of all processes).
    """
    # Similarities and softmax stay in full precision; products of the backward pass are in that of the run.
    with torch.autocast(first.device.type, enabled=False), float32_matmul(first.device, "highest"):
        rows = torch.cat([first, second])
        rows = F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
        similarity = rows @ distributed.gather(rows).T / temperature
        own = torch.arange(len(rows), device=rows.device)
        mine = distributed.rank() * len(rows)
        # In fp32: no finite stand-in that a half could overflow.
        similarity[own, mine + own] = -torch.inf
        return F.cross_entropy(similarity, mine + own.roll(len(first)))
