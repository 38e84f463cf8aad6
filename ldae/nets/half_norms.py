# SPDX-License-Identifier: Apache-2.0
"""Group normalisations under autocast: float32 within, and out comes the type that went in.

torch leaves them in bfloat16 on a CPU, where they take longer than in float32. On a GPU it takes
them to float32 and leaves their results there, so that they and the activation after them keep twice the
memory for the backward pass. Here only what went in is kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

aten = torch.ops.aten


def norms_in_float32(module: nn.Module) -> None:
    """Let the group normalisations of a network work so, in place."""
    for part in module.modules():
        if type(part) is nn.GroupNorm:
            part.__class__ = _GroupNorm  # the weights stay where they are, and their names too


class _GroupNorm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        weights_are_half = self.weight is not None and self.weight.dtype != torch.float32
        if x.dtype.itemsize > 2 or weights_are_half:
            return super().forward(x)
        normalised: Tensor = _Normalised.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return normalised


class _Normalised(torch.autograd.Function):
    """Group normalisation of [B, C, ...], which keeps its input as it is for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, eps: float
    ) -> Tensor:
        ctx.sizes = len(x), x.shape[1], math.prod(x.shape[2:]), groups
        out, mean, rstd = aten.native_group_norm(_float32(x, _layout(x)), weight, bias, *ctx.sizes, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        normalised: Tensor = out.to(x.dtype)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        layout, wanted = _layout(x), list(ctx.needs_input_grad[:3])
        inputs = _float32(gradient, layout), _float32(x, layout)
        dx, dweight, dbias = aten.native_group_norm_backward(*inputs, mean, rstd, weight, *ctx.sizes, wanted)
        return dx.to(x.dtype) if wanted[0] else None, dweight, dbias, None, None


def _layout(x: Tensor) -> torch.memory_format:
    """Channels-last where the input lies so and the kernel, a CPU's, takes it."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.ndim)
    lies_so = last is not None and x.device.type == "cpu" and x.is_contiguous(memory_format=last)
    return last if last is not None and lies_so else torch.contiguous_format


def _float32(x: Tensor, layout: torch.memory_format) -> Tensor:
    return x.float().contiguous(memory_format=layout)
