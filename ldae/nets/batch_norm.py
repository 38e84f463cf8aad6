# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation over the scans of all processes that train together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _BatchNorm


def process_count() -> int:
    """Number of processes that train together, 1 outside of such a training."""
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


class _SumOverProcesses(torch.autograd.Function):
    """The sum of each process's values, in all of them; gradients are summed likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def mean_over_processes(x: Tensor) -> Tensor:
    """The mean of each process's values, in all of them."""
    if process_count() == 1:
        return x
    total: Tensor = _SumOverProcesses.apply(x)
    return total / process_count()


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation that takes mean and variance over all processes, each with as many scans.

    Outside of distributed training it is torch's own, and its weights have the same names. torch's
    SyncBatchNorm does the same, but on GPUs only.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of axes after the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] to the same shape."""
        ranks = process_count()
        if not self.training or ranks == 1:
            out: Tensor = super().forward(x)
            return out
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1, *(1 for _ in axes[1:])]
        values = x.float()
        mean = mean_over_processes(values.mean(axes))
        offsets = values - mean.view(shape)
        variance = mean_over_processes(offsets.square().mean(axes))
        self._remember(mean.detach(), variance.detach(), count=ranks * x.numel() // x.shape[1])
        normalised: Tensor = offsets * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        """Take a batch into the running statistics, its variance without bias."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked += 1
