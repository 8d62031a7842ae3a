"""The objective of DINO: a student's view must choose the prototypes that a teacher's other view chose."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groundswell import distributed


class Centre(nn.Module):
    """The running mean of the teacher's logits, which is taken off them so that no prototype wins everywhere.

    c <- m c + (1 - m) mean(t) over the raw logits of all processes, after the loss has used c (Caron et al. 2021,
    arXiv 2104.14294, eq. 4; facebookresearch/dino 7c446df, main_dino.py:403). It starts at zero and is saved.

    Parameters
    ----------
    prototypes : int
    momentum : float
        m; 0.9 in the paper.
    """

    value: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(prototypes))

    @torch.no_grad()
    def update(self, logits: Tensor) -> None:
        """Take in the teacher's raw logits, float ``[B, K]``; B may differ between processes, and be 0."""
        count = self.value.new_tensor([float(len(logits))])
        sums = distributed.total(torch.cat([logits.to(self.value.dtype).sum(0), count]))
        mean = sums[:-1] / sums[-1].clamp(min=1)
        self.value.lerp_(mean, (1 - self.momentum) * sums[-1].clamp(max=1))  # without rows it stays as it is


@torch.no_grad()
def centred(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """The teacher's choice softmax((t - c) / temperature), float32 ``[B, K]``, from logits ``[B, K]``, centre ``[K]``.

    Source: arXiv 2104.14294, eq. 1 and 4.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.softmax((logits - centre) / temperature, dim=1)


@torch.no_grad()
def sinkhorn_knopp(logits: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    r"""The teacher's choice with prototypes used about equally often, instead of a centre.

    Q = exp(t / temperature); in each round every prototype is scaled to a total of 1/K over the samples of all
    processes, then every sample to a total of 1 (SwAV, arXiv 2006.09882, appendix A; DINOv2, arXiv 2304.07193, section
    4; facebookresearch/dinov2 b8931f7, dino_clstoken_loss.py). As Q stays diag(v) E diag(u), only u and v are worked
    out, E is read twice a round, and processes exchange vectors of K.

    To be free of overflow for any logits, E is taken relative to the largest logit of each prototype (which any
    u undoes) and then of each sample (put back through the first v): equal to the plain form, and no zero rows.

    Parameters
    ----------
    logits : float [B, K]
        Raw; B may differ between processes, and be 0 on some.
    temperature : float
    rounds : int
        3 in both papers.

    Returns
    -------
    float [B, K], at least float32; rows sum to 1.
    """
    with torch.autocast(logits.device.type, enabled=False):
        e = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        largest = e.amax(0) if len(e) else e.new_full(e.shape[1:], -torch.inf)
        e -= distributed.maximum(largest)
        offset = e.amax(1, keepdim=True)
        e.sub_(offset).exp_()
        v = offset[:, 0].exp_()
        samples = distributed.total(e.new_tensor(float(len(e))))
        u = e.new_zeros(e.shape[1])
        for _ in range(rounds):
            u = 1 / (distributed.total(v @ e) * e.shape[1])
            v = 1 / ((e @ u) * samples)
        return e.mul_(u).mul_((v * samples)[:, None])


def dino_loss(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    r"""The mean over all pairs of a teacher's view and another of the student's (arXiv 2104.14294, eq. 3).

    L = 1 / n  sum_{u} sum_{v != u}  mean_b  -sum_k p_ubk log softmax(s_vb / temperature)_k,  n = T V - T.

    With P = sum_u p_u, the pairs of a student's view v cost  c_v log sum exp z_v - (P - p_v) z_v  together, c_v being
    their number: each logit is read once. DINOv2 writes the same mean in two parts (ssl_meta_arch.py:282-303).

    Parameters
    ----------
    student : float [V, B, K]
        Logits; the first T views are the teacher's.
    teacher : float [T, B, K]
        Choices (`centred` or `sinkhorn_knopp`); T of at least 1, V of at least 2.
    temperature : float
        Of the student.

    Returns
    -------
    float scalar, at least float32; ln K for a student that does not choose.
    """
    views, shared = len(student), len(teacher)
    with torch.autocast(student.device.type, enabled=False):
        z = student.to(torch.promote_types(student.dtype, torch.float32)) / temperature
        chosen = teacher.sum(0)
        pairs = z.new_tensor([shared - 1 if view < shared else shared for view in range(views)])
        normalisers = (pairs[:, None] * torch.logsumexp(z, dim=2)).sum(0)
        agreement = (z.sum(0) * chosen).sum(1) - (z[:shared] * teacher).sum((0, 2))
        return (normalisers - agreement).mean() / (shared * views - shared)
