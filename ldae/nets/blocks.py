# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the 3D diffusion networks (guided diffusion, arXiv 2105.05233, section 3)."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class UndecayedParameter(nn.Parameter):
    """A weight that weight decay leaves alone."""


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with `groups` groups, or as many as the channels allow."""
    return nn.GroupNorm(math.gcd(groups, channels), channels)


def zeroed(module: ModuleT) -> ModuleT:
    """The module with all its parameters set to zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def to_channels_last(module: nn.Module) -> None:
    """Store the weights of all 3D convolutions channels-last, in place.

    A CPU runs them up to twice as fast.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            part.to(memory_format=torch.channels_last_3d)


class TimeEmbedding(nn.Module):
    """Sinusoidal code of the noise level, then two linear layers.

    Args:
        base: Width of the sinusoidal code.
        channels: Width of the embedding that comes out.
    """

    def __init__(self, base: int, channels: int) -> None:
        super().__init__()
        self.base = base
        self.layers = nn.Sequential(nn.Linear(base, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, t: Tensor) -> Tensor:
        """Levels [B] to embeddings [B, channels]."""
        half = self.base // 2
        exponents = torch.arange(half, device=t.device, dtype=torch.float32) / half
        angles = t.float()[:, None] * torch.exp(-math.log(10000) * exponents)
        embedding: Tensor = self.layers(torch.cat([angles.cos(), angles.sin()], dim=1))
        return embedding


class ResidualBlock(nn.Module):
    """Residual block with AdaGN, h = GN(h)(1 + s_t) + b_t, and optionally the semantic code after it.

    With a code, h = (1 + s_y)[GN(h)(1 + s_t) + b_t] + b_y (PDAE, arXiv 2212.12990, appendix).

    Args:
        inputs: Channels in.
        outputs: Channels out.
        embedding: Width of the time embedding, and of the code embedding.
        groups: Groups of the normalisations.
        resample: 0.5 halves the axes, 2 doubles them, 1 keeps them.
        axes: Which of the three axes are resampled.
        with_code: Whether the block takes a code embedding.
        dropout: Dropout before the last convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        embedding: int,
        groups: int,
        resample: float = 1,
        axes: tuple[int, ...] = (0, 1, 2),
        with_code: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.steps = tuple(2 if axis in axes else 1 for axis in range(3))
        self.norm_in = group_norm(inputs, groups)
        self.conv_in = nn.Conv3d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, 2 * outputs)
        self.code = nn.Linear(embedding, 2 * outputs) if with_code else None
        self.norm_out = group_norm(outputs, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zeroed(nn.Conv3d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1)

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == 1:
            return x
        if self.resample < 1:
            return functional.avg_pool3d(x, self.steps)
        return functional.interpolate(x, scale_factor=tuple(map(float, self.steps)), mode="nearest")

    def forward(self, x: Tensor, embedding: Tensor, code: Tensor | None = None) -> Tensor:
        """[B, inputs, h, w, d], embeddings [B, E] to [B, outputs, h', w', d']."""
        h = self.conv_in(self._resampled(functional.silu(self.norm_in(x))))
        scale, bias = rearrange(self.time(functional.silu(embedding)), "b (two c) -> two b c 1 1 1", two=2)
        h = self.norm_out(h) * (1 + scale) + bias
        if self.code is not None and code is not None:
            scale, bias = rearrange(self.code(functional.silu(code)), "b (two c) -> two b c 1 1 1", two=2)
            h = (1 + scale) * h + bias
        h = self.conv_out(self.dropout(functional.silu(h)))
        out: Tensor = self.skip(self._resampled(x)) + h
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention over all places of the volume, with a residual.

    Args:
        channels: Channels in and out.
        head_channels: Channels of one head; must divide `channels`, of which no more make one head.
        groups: Groups of the normalisation.
    """

    def __init__(self, channels: int, *, head_channels: int, groups: int) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w, d] to the same shape."""
        tokens = rearrange(self.norm(x), "b c h w d -> b c (h w d)")
        q, k, v = rearrange(self.qkv(tokens), "b (three n c) l -> three b n l c", three=3, n=self.heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(rearrange(mixed, "b n l c -> b (n c) l"))
        return x + out.reshape(x.shape)
