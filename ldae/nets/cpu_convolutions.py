# SPDX-License-Identifier: Apache-2.0
"""Convolutions that a CPU computes slowly, or wrongly in bfloat16, computed otherwise in training.

Where an axis of its input is no longer than its kernel, a convolution in bfloat16 on a CPU leaves part of its
weights' gradient unwritten (oneDNN as of torch 2.15, stride 1 and two planes of depth for example): whatever
lay in that memory becomes the gradient. Such ones work in float32.

One that cuts single-channel slices into patches takes in bfloat16 several times as long as the product of
matrices that it is (oneDNN, backward), and so becomes one under autocast. In float32 it gains nothing, and
with more channels the convolution is the faster.

Weights stay where they are, and their names too. `tests/nets/test_cpu_convolutions.py` shows both.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ldae.nets.blocks import to_channels_last


def fit_to_cpu(module: nn.Module) -> None:
    """Prepare a network for training on a CPU, in place: 3D convolutions channels-last, others as above."""
    to_channels_last(module)
    for part in module.modules():
        if _cuts_patches(part):
            part.__class__ = _PatchProduct
        elif isinstance(part, nn.Conv2d | nn.Conv3d) and max(part.kernel_size) > 1:
            part.__class__ = _CAREFUL.get(type(part), type(part))


def _cuts_patches(part: nn.Module) -> bool:
    return (
        type(part) is nn.Conv2d
        and part.in_channels == 1
        and part.kernel_size == part.stride
        and part.padding == (0, 0)
        and part.dilation == (1, 1)
    )


class _PatchProduct(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        p, q = self.kernel_size
        whole_patches = x.ndim == 4 and x.shape[2] >= p and x.shape[3] >= q  # or let the convolution say
        if not (whole_patches and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        rows, columns = x.shape[2] // p, x.shape[3] // q
        # a convolution leaves out what does not fill a patch
        whole = x[:, 0, : rows * p, : columns * q]
        patches = rearrange(whole, "n (h p) (w q) -> n h w (p q)", p=p, q=q)
        return functional.linear(patches, self.weight.flatten(1), self.bias).movedim(-1, 1)


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
