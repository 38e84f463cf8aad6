# SPDX-License-Identifier: Apache-2.0
"""Layers that would tell processes apart, made such that those do together what one would do alone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ldae.nets.batch_norm import SharedBatchNorm, process_count


def share_layers(module: nn.Module) -> None:
    """Let batch normalisations and dropouts of a network work over all processes that train it together.

    Batch normalisations take their statistics over all scans. A dropout is drawn for all scans, whose random
    numbers all processes have in common, and each takes its own; so no two scans share a draw either. Scans
    lie along the first axis, and of n processes each has every n-th.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, SharedBatchNorm):
            part.__class__ = SharedBatchNorm  # the weights stay where they are, and their names too
        elif type(part) in _DROPOUTS:
            part.__class__ = _DROPOUTS[type(part)]


def _kept(dropout: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What is kept of the scans [B, ...] of this process, scaled: a draw for those of all processes."""
    ranks = process_count()
    return dropout(x.new_ones(len(x) * ranks, *x.shape[1:]))[distributed.get_rank() :: ranks]


class _Dropout(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        alone = process_count() == 1 or not self.training
        return super().forward(x) if alone else x * _kept(super().forward, x)


class _Dropout3d(nn.Dropout3d):
    def forward(self, x: Tensor) -> Tensor:
        alone = process_count() == 1 or not self.training
        return super().forward(x) if alone else x * _kept(super().forward, x)


_DROPOUTS: dict[type, type] = {nn.Dropout: _Dropout, nn.Dropout3d: _Dropout3d}
