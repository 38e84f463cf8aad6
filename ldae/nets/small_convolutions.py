# SPDX-License-Identifier: Apache-2.0
"""Convolutions that a CPU computes wrongly in bfloat16, in float32 instead.

Where an axis of its input is no longer than its kernel, a convolution in bfloat16 on a CPU leaves part of its
weights' gradient unwritten (oneDNN as of torch 2.15, stride 1 and two planes of depth for example): whatever
lay in that memory becomes the gradient. `tests/nets/test_small_convolutions.py` shows it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def float32_where_small(module: nn.Module) -> None:
    """Let convolutions work in float32 on a CPU where an axis of their input is no longer than the kernel."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d) and max(part.kernel_size) > 1:
            # the weights stay where they are, and their names too
            part.__class__ = _CAREFUL.get(type(part), type(part))


def _is_small(x: Tensor, conv: nn.Conv2d | nn.Conv3d) -> bool:
    axes = zip(x.shape[-len(conv.kernel_size) :], conv.kernel_size, strict=True)
    return x.device.type == "cpu" and conv.weight.dtype == torch.float32 and any(n <= k for n, k in axes)


class _Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if not _is_small(x, self):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


class _Conv3d(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        if not _is_small(x, self):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


_CAREFUL: dict[type, type] = {nn.Conv2d: _Conv2d, nn.Conv3d: _Conv3d}
