# SPDX-License-Identifier: Apache-2.0
"""3D residual networks on spatial latents, told the noise level: a classifier, and a denoiser of classes.

Both work on patches of the latent, a few along an axis whatever its length: at full resolution the first
block alone would take most of the time, and heads are fitted on processors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ldae.nets.blocks import ResidualBlock, TimeEmbedding, group_norm, to_channels_last, zeroed

TIME_BASE = 32
SMALLEST_HALVED = 4
CELLS = 2
LONGEST_AXIS = 7  # in patches, where the length of the axis is even
Size = tuple[int, int, int]


@dataclass(frozen=True)
class LatentResNetConfig:
    """Size of a residual network.

    Attributes:
        in_channels: Latent channels C.
        width: Channels of every block.
        blocks: Residual blocks.
        embedding: Width of the embedding of noise level and class.
        groups: Groups of the normalisations.
        dropout: Dropout inside the blocks.
    """

    in_channels: int = 3
    width: int = 16
    blocks: int = 3
    embedding: int = 64
    groups: int = 8
    dropout: float = 0.0


def patch_sides(size: Size) -> Size:
    """Sides of the patches: halves an axis while it is even and more than seven patches long."""

    def side(length: int) -> int:
        return 2 * side(length // 2) if length > LONGEST_AXIS and length % 2 == 0 else 1

    return side(size[0]), side(size[1]), side(size[2])


class Patches(nn.Module):
    """Latents [B, C, h, w, d] as patches side by side in the channels, and back.

    Args:
        size: Axes of the latents.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.sides = dict(zip("pqr", patch_sides(size), strict=True))
        self.values = math.prod(self.sides.values())
        h, w, d = (length // side for length, side in zip(size, self.sides.values(), strict=True))
        self.size = h, w, d

    def forward(self, z: Tensor) -> Tensor:
        """To [B, C p q r, h / p, w / q, d / r]."""
        return rearrange(z, "b c (h p) (w q) (d r) -> b (c p q r) h w d", **self.sides)

    def back(self, patches: Tensor) -> Tensor:
        """To [B, C, h, w, d]."""
        return rearrange(patches, "b (c p q r) h w d -> b c (h p) (w q) (d r)", **self.sides)


def _block(config: LatentResNetConfig, *, resample: float = 1, axes: tuple[int, ...] = ()) -> ResidualBlock:
    return ResidualBlock(
        config.width,
        config.width,
        embedding=config.embedding,
        groups=config.groups,
        resample=resample,
        axes=axes,
        dropout=config.dropout,
    )


class LatentResNet(nn.Module):
    """Class logits of noised latents: residual blocks that halve the axes in between, next to a linear map.

    Neither forgets where in the head a value lies, as pooling over all places would: the blocks' output is
    pooled to two cells an axis.

    Args:
        config: Size.
        classes: Number of classes.
        size: Axes of the latents [h, w, d]; those that are still 4 patches or longer are halved after each
            block.
    """

    def __init__(self, config: LatentResNetConfig, *, classes: int, size: Size) -> None:
        super().__init__()
        self.time = TimeEmbedding(TIME_BASE, config.embedding)
        self.patches = Patches(size)
        self.enter = nn.Conv3d(config.in_channels * self.patches.values, config.width, 1)
        self.blocks = nn.ModuleList([_block(config)])
        left = list(self.patches.size)
        for _ in range(config.blocks - 1):
            axes = tuple(axis for axis in range(3) if left[axis] >= SMALLEST_HALVED)
            left = [length // 2 if axis in axes else length for axis, length in enumerate(left)]
            self.blocks.append(_block(config, resample=0.5 if axes else 1, axes=axes))
        self.norm = group_norm(config.width, config.groups)
        self.dropout = nn.Dropout(config.dropout)
        self.cells = min(CELLS, left[0]), min(CELLS, left[1]), min(CELLS, left[2])
        self.leave = zeroed(nn.Linear(config.width * math.prod(self.cells), classes))
        self.straight = zeroed(nn.Linear(config.in_channels * math.prod(size), classes))
        to_channels_last(self)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Noised latents [B, C, h, w, d] and levels [B] to logits [B, classes]."""
        embedding, h = self.time(t), self.enter(self.patches(z))
        for block in self.blocks:
            h = block(h, embedding)
        pooled = functional.adaptive_avg_pool3d(functional.silu(self.norm(h)), self.cells)
        values = z.flatten(1)
        # scaled so that a step of the optimiser means as much whatever the number of values
        straight = self.straight(values / values.shape[1] ** 0.5)
        logits: Tensor = straight + self.leave(self.dropout(pooled.flatten(1)))
        return logits


class LatentClassDenoiser(nn.Module):
    """Denoiser of spatial latents, told the noise level and, where known, the class; starts from zero.

    Args:
        config: Size.
        classes: Number of classes that can be told.
        size: Axes of the latents [h, w, d].
    """

    def __init__(self, config: LatentResNetConfig, *, classes: int, size: Size) -> None:
        super().__init__()
        self.time = TimeEmbedding(TIME_BASE, config.embedding)
        self.label = nn.Embedding(classes + 1, config.embedding)
        self.patches = Patches(size)
        values = config.in_channels * self.patches.values
        self.enter = nn.Conv3d(values, config.width, 1)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.blocks))
        self.norm = group_norm(config.width, config.groups)
        self.leave = zeroed(nn.Conv3d(config.width, values, 1))
        to_channels_last(self)

    def forward(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Noised latents [B, C, h, w, d], levels [B] and labels [B] (0: unknown) to the same shape."""
        embedding, h = self.time(t) + self.label(label), self.enter(self.patches(z))
        for block in self.blocks:
            h = block(h, embedding)
        return self.patches.back(self.leave(functional.silu(self.norm(h))))
