"""What DINO and DINOv2 share: a teacher that follows its student, dropped branches, and how the choices look."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from groundswell import distributed, rng
from groundswell.backbones import VisionTransformer

WATCHED = frozenset({"feature_spread", "effective_rank", "teacher_uniformity", "prototypes_used", "kl"})


@torch.no_grad()
def follow(teacher: Iterable[nn.Module], student: Iterable[nn.Module], momentum: float) -> None:
    """Move every parameter of the teacher: w <- momentum w + (1 - momentum) w_student, in place and in float32.

    Buffers stay the teacher's own: its batch statistics are those of the views it sees.
    """
    mine: list[Tensor] = [p for module in teacher for p in module.parameters()]
    theirs: list[Tensor] = [p for module in student for p in module.parameters()]
    torch._foreach_lerp_(mine, theirs, 1 - momentum)


def drop_path_draws(backbone: VisionTransformer, views: Tensor, keys: Tensor, name: str) -> Tensor | None:
    """What decides which branches views ``[V B, C, h, w]`` go without: ``[V B, 2 depth]``, by keys ``[B]`` and name."""
    if not any(backbone.drop_rates):
        return None
    each = per_view(keys, f"{name}/drop path", len(views) // len(keys))
    return rng.uniform(each, "branches", 2 * len(backbone.blocks)).to(views.device)


def per_view(keys: Tensor, name: str, views: int) -> Tensor:
    """Keys ``[views * B]`` of each view, view by view, from keys of the images ``[B]``."""
    return torch.cat([rng.keys(0, keys, name, view) for view in range(views)])


@torch.no_grad()
def observe_choices(loss: Tensor, chosen: Tensor, raw: Tensor) -> dict[str, Tensor]:
    """How alive the choices of a teacher are.

    Parameters
    ----------
    loss : float []
        The mean cross entropy of the student with the choices.
    chosen : float [N, K]
        The choices of the teacher, as the loss takes them.
    raw : float [N, K]
        The same without Sinkhorn-Knopp, which would hide that prototypes are not used.

    Returns
    -------
    dict
        ``teacher_entropy``, mean over samples, nats: ln K where no sample chooses, 0 where each chooses one;
        ``teacher_uniformity``, the same over ln K; ``kl``, of the student from the teacher, which falls to 0 in either
        collapse (arXiv 2104.14294, section 5.3); ``prototypes_used``, exp H(mean choice): 1 where all choose the same.
    """
    entropy = torch.special.entr(chosen).sum(1).mean()
    mean = distributed.mean(raw.mean(0))
    return {
        "teacher_entropy": entropy,
        "teacher_uniformity": entropy / math.log(chosen.shape[1]),
        "kl": loss - entropy,
        "prototypes_used": torch.special.entr(mean).sum().exp(),
    }
