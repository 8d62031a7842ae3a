"""Multi-crop: a few large views of each image and many small ones (Caron et al. 2020, arXiv 2006.09882)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundswell import rng
from groundswell.errors import UsageError
from groundswell.views.policies import ViewPolicy

AT_ONCE = 1 << 22  # pixels of the images that are repeated to make several views at once: 16 MB


@dataclass(frozen=True)
class MultiViews:
    """The views of a batch of B images, view by view: all first views, then all second ones, and so on.

    Attributes
    ----------
    globals : float [n_global * B, C, g, g]
    locals : float [n_local * B, C, l, l]
    """

    globals: Tensor
    locals: Tensor


class MultiCrop:
    """Makes global and local views of every image: ``crops(images, keys)``.

    Parameters
    ----------
    globals_ : ViewPolicy or sequence of ViewPolicy
        Of the global views; of several policies, each global view takes the next in turn (DINO treats its two
        differently).
    locals_ : ViewPolicy or None
        Of the local views, with a size and scales of its own; None where there are none.
    n_global, n_local : int
        Views of each image; no local ones without a policy.

    Raises
    ------
    UsageError
        When there is no global view, or they differ in size.
    """

    def __init__(
        self,
        globals_: ViewPolicy | Sequence[ViewPolicy],
        locals_: ViewPolicy | None,
        n_global: int = 2,
        n_local: int = 8,
    ) -> None:
        self.globals_ = (globals_,) if isinstance(globals_, ViewPolicy) else tuple(globals_)
        self.locals_ = locals_
        self.n_global = n_global
        self.n_local = n_local if locals_ is not None else 0
        if n_global < 1 or not self.globals_ or n_local < 0:
            raise UsageError("multi-crop needs at least one global view", where=f"{n_global} global, {n_local} local")
        if len({policy.size for policy in self.globals_}) > 1:
            raise UsageError("the global views must have one size", where=", ".join(str(p.size) for p in self.globals_))

    @torch.no_grad()
    def __call__(self, images: Tensor, keys: Tensor) -> MultiViews:
        """All views of a batch.

        Parameters
        ----------
        images : float [B, C, H, W]
            Normalised pixels, without NaN.
        keys : int64 [B]
            One key an image; every view is a function of it (mixup apart).

        Returns
        -------
        MultiViews
        """
        policies = [self.globals_[i % len(self.globals_)] for i in range(self.n_global)]
        whole = _in_turn(policies, images, [rng.keys(0, keys, "global view", i) for i in range(self.n_global)])
        if self.locals_ is None or self.n_local == 0:
            size = self.globals_[0].size
            return MultiViews(whole, images.new_empty(0, images.shape[1], size, size))
        local = [rng.keys(0, keys, "local view", i) for i in range(self.n_local)]
        return MultiViews(whole, _in_turn([self.locals_] * self.n_local, images, local))


def _in_turn(policies: Sequence[ViewPolicy], images: Tensor, keys: Sequence[Tensor]) -> Tensor:
    """View by view, one view of each image by each policy, with its keys ``[B]``.

    Several of one policy are made at once while the batch is small: the fixed cost of operations is most of the time
    of views of a few small images. A view is a function of its key, mixup apart, which sees the whole batch.
    """
    alike = all(policy is policies[0] for policy in policies) and policies[0].settings.mixup.p == 0
    if alike and len(keys) * images.numel() <= AT_ONCE:
        return policies[0](images.repeat(len(keys), 1, 1, 1), torch.cat(list(keys)))
    return torch.cat([policy(images, key) for policy, key in zip(policies, keys, strict=True)])
