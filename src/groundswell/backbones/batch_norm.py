"""Batch normalisation over the images of all processes; in one process it is that of torch, to the bit.

Torch's own SyncBatchNorm refuses the CPU, where the tests of several processes run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from groundswell import distributed


class _AcrossProcesses(nn.modules.batchnorm._BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            values = x.to(torch.promote_types(x.dtype, torch.float32))
            axes = [axis for axis in range(x.ndim) if axis != 1]
            shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
            count = distributed.total(values.new_tensor(float(x.numel() // x.shape[1])))
            mean = distributed.summed(values.sum(axes)) / count
            centred = values - mean.view(shape)
            variance = distributed.summed(centred.square().sum(axes)) / count  # of the centred: nothing cancels
            self._remember(mean.detach(), variance.detach(), count)
            y = centred * torch.rsqrt(variance + self.eps).view(shape)
            if self.affine:
                y = y * self.weight.view(shape) + self.bias.view(shape)
            return y.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics as torch does, with the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


class BatchNorm1d(_AcrossProcesses, nn.BatchNorm1d):
    """Of ``[N, C]``."""


class BatchNorm2d(_AcrossProcesses, nn.BatchNorm2d):
    """Of ``[N, C, H, W]``."""
