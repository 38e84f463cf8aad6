# SPDX-License-Identifier: Apache-2.0
"""The 3D UNet of the latent diffusion model, in two halves that stage 3 can share.

`Trunk` is time embedding and down path, `UpPath` middle, up path and output. The gradient estimator reads the
frozen trunk of the UNet and owns an up path of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldae.configured import check_numbers
from ldae.errors import InputError
from ldae.nets.blocks import ResidualBlock, SelfAttention, TimeEmbedding, group_norm, zeroed


@dataclass(frozen=True)
class UNetConfig:
    """Size of a UNet.

    Attributes:
        in_channels: Latent channels C.
        base: Channels of the finest level.
        multipliers: Channels of each level in multiples of `base`; each further level halves the axes.
        blocks: Residual blocks a level.
        attention_levels: Levels with self-attention, 0 the finest.
        head_channels: Channels of an attention head; a level of no more channels has one head.
        groups: Groups of the normalisations.
        dropout: Dropout inside the residual blocks.
        downsample_axes: Axes that are halved from level to level; the published code leaves out the first.
    """

    in_channels: int = 3
    base: int = 256
    multipliers: tuple[int, ...] = (1, 2, 3)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (1, 2)
    head_channels: int = 64
    groups: int = 32
    dropout: float = 0.0
    downsample_axes: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        """Stop on numbers of which no network can be built."""
        counts = ("in_channels", "multipliers", "blocks", "head_channels", "groups")
        others = {"base": 2, "attention_levels": 0, "dropout": 0, "downsample_axes": 0}
        check_numbers(
            self,
            "unet",
            least=dict.fromkeys(counts, 1) | others,
            most={"downsample_axes": 2, "attention_levels": len(self.multipliers) - 1},
            below={"dropout": 1},
        )
        if self.base % 2:
            raise InputError(f"unet.base must be even, half of it sines of the noise level, got {self.base}.")
        # the middle, as wide as the coarsest level, always has attention
        attended = {self.widths[-1], *(self.widths[level] for level in self.attention_levels)}
        head = self.head_channels
        uneven = sorted(width for width in attended if width > head and width % head)
        if uneven:
            raise InputError(
                "unet.head_channels must divide the channels of every level with attention, got "
                f"{head} for {uneven}."
            )

    @property
    def embedding(self) -> int:
        """Width of the time embedding."""
        return 4 * self.base

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.base * multiplier for multiplier in self.multipliers)

    @property
    def factor(self) -> int:
        """Every axis of a latent that is halved must be a multiple of this."""
        return int(2 ** (len(self.multipliers) - 1))

    def skip_widths(self) -> list[int]:
        """Channels of the skips that the trunk hands over, in the order in which they are made."""
        widths = [self.base]
        for level, width in enumerate(self.widths):
            widths += [width] * self.blocks
            if level < len(self.widths) - 1:
                widths.append(width)
        return widths


class TrunkFeatures(NamedTuple):
    """What the trunk hands to an up path: time embedding [B, E], coarsest features, and all skips."""

    embedding: Tensor
    hidden: Tensor
    skips: tuple[Tensor, ...]


class _Stage(nn.Module):
    """A residual block, followed by attention where its level has it."""

    def __init__(self, block: ResidualBlock, attention: SelfAttention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor, code: Tensor | None = None) -> Tensor:
        x = self.block(x, embedding, code)
        return x if self.attention is None else self.attention(x)


def _stage(
    config: UNetConfig,
    inputs: int,
    outputs: int,
    *,
    attention: bool,
    resample: float = 1,
    with_code: bool = False,
) -> _Stage:
    block = ResidualBlock(
        inputs,
        outputs,
        embedding=config.embedding,
        groups=config.groups,
        resample=resample,
        axes=config.downsample_axes,
        with_code=with_code,
        dropout=config.dropout,
    )
    heads = (
        SelfAttention(outputs, head_channels=config.head_channels, groups=config.groups)
        if attention
        else None
    )
    return _Stage(block, heads)


class Trunk(nn.Module):
    """Time embedding and down path of the UNet."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.time = TimeEmbedding(config.base, config.embedding)
        self.input = nn.Conv3d(config.in_channels, config.base, 3, padding=1)
        self.stages = nn.ModuleList()
        width = config.base
        for level, outputs in enumerate(config.widths):
            for _ in range(config.blocks):
                self.stages.append(_stage(config, width, outputs, attention=level in config.attention_levels))
                width = outputs
            if level < len(config.widths) - 1:
                self.stages.append(_stage(config, width, width, attention=False, resample=0.5))

    def forward(self, z: Tensor, t: Tensor) -> TrunkFeatures:
        """Noised latents [B, C, h, w, d] and levels [B] to features.

        Raises:
            InputError: An axis of the latent is not a multiple of the network's factor.
        """
        axes = self.config.downsample_axes
        if any(z.shape[2 + axis] % self.config.factor for axis in axes):
            raise InputError(
                f"latent sides along axes {axes} must be multiples of {self.config.factor} for "
                f"{len(self.config.multipliers)} levels, got {tuple(z.shape[2:])}. "
                "Choose another scan size or fewer multipliers."
            )
        embedding = self.time(t)
        hidden = self.input(z)
        skips = [hidden]
        for stage in self.stages:
            hidden = stage(hidden, embedding)
            skips.append(hidden)
        return TrunkFeatures(embedding, hidden, tuple(skips))


class UpPath(nn.Module):
    """Middle, up path and zero-initialised output, optionally conditioned on a semantic code.

    Args:
        config: Size of the UNet.
        with_code: Whether the residual blocks take a code embedding.
        with_place: Whether each level takes a volume, added through a 1x1x1 convolution where the level
            begins.
    """

    def __init__(self, config: UNetConfig, *, with_code: bool = False, with_place: bool = False) -> None:
        super().__init__()
        self.config = config
        width = config.widths[-1]
        self.middle_in = _stage(config, width, width, attention=True, with_code=with_code)
        self.middle_out = _stage(config, width, width, attention=False, with_code=with_code)
        self.levels = nn.ModuleList()
        self.places = nn.ModuleList()
        skips = config.skip_widths()
        for level in reversed(range(len(config.widths))):
            if with_place:
                self.places.append(nn.Conv3d(config.in_channels, width, 1))
            stages = nn.ModuleList()
            if level < len(config.widths) - 1:
                stages.append(_stage(config, width, width, attention=False, resample=2, with_code=with_code))
            attention = level in config.attention_levels
            for _ in range(config.blocks + 1):
                inputs = width + skips.pop()
                width = config.widths[level]
                stages.append(_stage(config, inputs, width, attention=attention, with_code=with_code))
            self.levels.append(stages)
        self.norm = group_norm(width, config.groups)
        self.output = zeroed(nn.Conv3d(width, config.in_channels, 3, padding=1))

    def forward(
        self, features: TrunkFeatures, code: Tensor | None = None, place: Tensor | None = None
    ) -> Tensor:
        """Trunk features to an output [B, C, h, w, d].

        Args:
            features: From the trunk.
            code: Code embedding [B, E].
            place: Volume [B, C, h, w, d] that the code stands for.
        """
        embedding, hidden, skips = features
        hidden = self.middle_out(self.middle_in(hidden, embedding, code), embedding, code)
        remaining = list(skips)
        for index, stages in enumerate(self.levels):
            if place is not None:
                hidden = hidden + self.places[index](functional.adaptive_avg_pool3d(place, hidden.shape[2:]))
            assert isinstance(stages, nn.ModuleList)
            for stage in stages:
                assert isinstance(stage, _Stage)
                if stage.block.resample == 1:
                    hidden = torch.cat([hidden, remaining.pop()], dim=1)
                hidden = stage(hidden, embedding, code)
        out: Tensor = self.output(functional.silu(self.norm(hidden)))
        return out


class UNet(nn.Module):
    """Denoising UNet (guided diffusion, arXiv 2105.05233, in 3D, all three axes down-sampled)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        self.up = UpPath(config)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Noised latents [B, C, h, w, d] and levels [B] to the prediction, of the shape of `z`."""
        out: Tensor = self.up(self.trunk(z, t))
        return out
