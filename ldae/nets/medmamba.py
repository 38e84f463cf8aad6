# SPDX-License-Identifier: Apache-2.0
"""MedMamba: convolutions and state spaces side by side (arXiv 2403.03849), as a slice backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ldae.errors import InputError
from ldae.nets.backbones import SliceBackbone
from ldae.nets.ss2d import SS2D


class SSConvSSM(nn.Module):
    """Half of the channels through convolutions, half through SS2D, then shuffled into each other.

    Args:
        channels: Channels of the image, an even number.
        states: States of each channel of SS2D.
    """

    def __init__(self, channels: int, *, states: int = 16) -> None:
        super().__init__()
        half = channels // 2
        self.convs = nn.Sequential(
            nn.BatchNorm2d(half),
            nn.Conv2d(half, half, 3, padding=1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 1),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(half)
        self.scan = SS2D(half, states=states)

    def forward(self, image: Tensor) -> Tensor:
        """Images [B, H, W, C] to images of the same shape."""
        left, right = image.chunk(2, dim=-1)
        near = rearrange(self.convs(rearrange(left, "b h w c -> b c h w")), "b c h w -> b h w c")
        both = torch.stack([near, self.scan(self.norm(right)).to(near.dtype)], dim=-1)
        return image + both.flatten(3)


class PatchMerging(nn.Module):
    """Every 2 x 2 places become one of twice the channels; an odd side is padded with zeros.

    Args:
        channels: Channels of the image.
        merged: Channels of the result.
    """

    def __init__(self, channels: int, merged: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, merged, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Images [B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), C']."""
        height, width = image.shape[1:3]
        image = functional.pad(image, (0, 0, 0, width % 2, 0, height % 2))
        places = rearrange(image, "b (h i) (w j) c -> b h w (j i c)", i=2, j=2)
        merged: Tensor = self.reduce(self.norm(places))
        return merged


class MedMambaBackbone(SliceBackbone):
    """MedMamba without its classifier; the default is MedMamba-T for one channel, untrained.

    Args:
        channels: Channels of each stage, even numbers; the last is the token's width.
        blocks: Blocks of each stage.
        patch: Side of the stem's patches, pixels; a slice is padded with zeros to whole patches.
        states: States of each channel of SS2D.
        checkpointing: Recompute each block in the backward pass, to save memory.

    Raises:
        InputError: A stage has an odd number of channels, or no number of blocks.
    """

    def __init__(
        self,
        channels: Sequence[int] = (96, 192, 384, 768),
        blocks: Sequence[int] = (2, 2, 4, 2),
        patch: int = 4,
        states: int = 16,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check_stages(channels, blocks)
        self.patch, self.checkpointing, self.width = patch, checkpointing, channels[-1]
        self.stem = nn.Conv2d(1, channels[0], patch, stride=patch)
        self.norm = nn.LayerNorm(channels[0])
        self.stages = nn.ModuleList(
            nn.ModuleList(SSConvSSM(width, states=states) for _ in range(count))
            for width, count in zip(channels, blocks, strict=True)
        )
        self.merging = nn.ModuleList([nn.Identity(), *map(PatchMerging, channels[:-1], channels[1:])])

    def forward(self, slices: Tensor) -> Tensor:
        """Slices [N, 1, H, W] to tokens [N, width]."""
        return self.with_depths(slices)[0]

    def with_depths(self, slices: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens, and what each stage says, the last of which is the token."""
        depths = [image.mean((1, 2)) for image in self._features(slices)]
        return depths[-1], depths

    def _features(self, slices: Tensor) -> Iterator[Tensor]:
        height, width = slices.shape[2:]
        padded = functional.pad(slices, (0, -width % self.patch, 0, -height % self.patch))
        image = self.norm(rearrange(self.stem(padded), "b c h w -> b h w c"))
        for merge, stage in zip(self.merging, self.stages, strict=True):
            image = merge(image)
            for block in cast(nn.ModuleList, stage):
                image = self._through(block, image)
            yield image

    def _through(self, block: nn.Module, image: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            out: Tensor = checkpoint(block, image, use_reentrant=False)
            return out
        plain: Tensor = block(image)
        return plain


def _check_stages(channels: Sequence[int], blocks: Sequence[int]) -> None:
    if len(channels) != len(blocks):
        raise InputError(
            f"blocks must be a number a stage, got {list(blocks)} for channels {list(channels)}."
        )
    odd = next((width for width in channels if width % 2), None)
    if odd is not None:
        raise InputError(f"channels must be even, so that a block can halve them, got {odd}.")
