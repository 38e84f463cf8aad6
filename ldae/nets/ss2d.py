# SPDX-License-Identifier: Apache-2.0
"""SS2D: the selective scan over images, along four paths (VMamba, arXiv 2401.10166, section 4)."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ldae.nets.blocks import UndecayedParameter
from ldae.nets.selective_scan import selective_scan

PATHS = 4
EXPANSION = 2
STEPS = (1e-3, 0.1)
"""Range of the step sizes that a new network begins with."""


class SS2D(nn.Module):
    """Every place of an image hears of every other, at a cost linear in the number of places.

    Args:
        channels: Channels of the image.
        states: States N of each channel.
    """

    def __init__(self, channels: int, *, states: int = 16) -> None:
        super().__init__()
        inner, self.rank, self.states = EXPANSION * channels, math.ceil(channels / 16), states
        self.enter = nn.Linear(channels, 2 * inner, bias=False)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.select = nn.Parameter(_uniform(PATHS, inner, self.rank + 2 * states, fan_in=inner))
        self.step = nn.Parameter(_uniform(PATHS, self.rank, inner, fan_in=self.rank))
        self.step_bias = nn.Parameter(_step_bias(PATHS, inner))
        rates = torch.arange(1, states + 1, dtype=torch.float32).log()
        # weight decay would pull all memories to one length
        self.log_rates = UndecayedParameter(rates.repeat(PATHS, inner, 1))
        self.skip = UndecayedParameter(torch.ones(PATHS, inner))
        self.norm = nn.LayerNorm(inner)
        self.leave = nn.Linear(inner, channels, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Images [B, H, W, C] to images of the same shape."""
        height, width = image.shape[1:3]
        x, gate = self.enter(image).chunk(2, dim=-1)
        x = functional.silu(self.conv(rearrange(x, "b h w d -> b d h w")))
        y = merge_paths(self.scan(split_paths(x)), height=height, width=width)
        left: Tensor = self.leave(self.norm(y).to(gate.dtype) * functional.silu(gate))
        return left

    def scan(self, x: Tensor) -> Tensor:
        """Sequences [B, 4, L, D], each path with steps, inputs and outputs chosen by its own tokens."""
        chosen = torch.einsum("bkld,kdr->bklr", x, self.select)
        ranks, b, c = torch.split(chosen, [self.rank, self.states, self.states], dim=-1)
        steps = torch.einsum("bklr,krd->bkld", ranks, self.step).float() + self.step_bias[:, None]
        delta, x = functional.softplus(steps), x.float()
        return selective_scan(x, delta, -self.log_rates.float().exp(), b, c) + self.skip[:, None] * x


def split_paths(image: Tensor) -> Tensor:
    """Images [B, D, H, W] to their places by row, by column, and both backwards, [B, 4, H W, D]."""
    forth = torch.stack(
        [rearrange(image, "b d h w -> b (h w) d"), rearrange(image, "b d h w -> b (w h) d")], 1
    )
    return torch.cat([forth, forth.flip(2)], 1)


def merge_paths(sequences: Tensor, *, height: int, width: int) -> Tensor:
    """The sum of the four paths [B, 4, H W, D], each place back where it was, [B, H, W, D]."""
    forth, back = sequences.chunk(2, dim=1)
    rows, columns = (forth + back.flip(2)).unbind(1)
    return rearrange(rows, "b (h w) d -> b h w d", h=height) + rearrange(
        columns, "b (w h) d -> b h w d", w=width
    )


def _uniform(*shape: int, fan_in: int) -> Tensor:
    """Weights as a linear layer begins with."""
    return torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5)


def _step_bias(*shape: int) -> Tensor:
    """What softplus turns into steps log-uniform over their range (Mamba, section 3.6)."""
    low, high = (math.log(end) for end in STEPS)
    steps = torch.empty(shape).uniform_(low, high).exp()
    return steps + torch.log(-torch.expm1(-steps))
