# SPDX-License-Identifier: Apache-2.0
"""Stage 1's network: MONAI's AutoencoderKL behind mean and sigma."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

from ldae.configured import check_numbers

if TYPE_CHECKING:
    from monai.networks.nets.autoencoderkl import AutoencoderKL

FOLD = "b 1 (x p) (y q) (z r) -> b (p q r) x y z"
UNFOLD = "b (p q r) x y z -> b 1 (x p) (y q) (z r)"


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of the autoencoder (LDM, arXiv 2112.10752).

    Attributes:
        channels: Channels of each level; each further level halves all three axes.
        latent_channels: Channels C of the latent.
        res_blocks: Residual blocks a level.
        patch: Side of the cubes of voxels that are folded into channels before the first convolution and
            unfolded after the last; 1 as published. 2 spares the finest level, which costs the most.
        log_variance: Value at which the posterior's log variance starts; None leaves it to chance, about 0,
            where for many steps the noise drowns the latent.
        groups: Groups of the normalisations.
        attention_levels: Levels with self-attention, 0 the finest.
        nonlocal_attention: Self-attention between two further residual blocks at the bottom of both halves.
        checkpointing: Recompute activations in the backward pass, to save memory.
        identity: Latents are the voxels themselves, with nothing to train: the baseline in voxel space.
    """

    channels: tuple[int, ...] = (64, 128, 128, 128)
    latent_channels: int = 3
    res_blocks: int = 2
    patch: int = 1
    log_variance: float | None = None
    groups: int = 32
    attention_levels: tuple[int, ...] = ()
    nonlocal_attention: bool = False
    checkpointing: bool = False
    identity: bool = False

    def __post_init__(self) -> None:
        """Stop on numbers of which no network can be built, where one is."""
        if self.identity:
            return
        counts = ("channels", "latent_channels", "res_blocks", "patch", "groups")
        least = dict.fromkeys(counts, 1) | {"attention_levels": 0}
        check_numbers(self, "autoencoder", least=least, most={"attention_levels": len(self.channels) - 1})

    @property
    def factor(self) -> int:
        """How many voxels, along each axis, become one place of the latent."""
        return 1 if self.identity else int(self.patch * 2 ** (len(self.channels) - 1))


class Voxels(nn.Module):
    """Scans as their own latents, without noise."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, X, Y, Z] to itself and zeros."""
        return x, torch.zeros_like(x)

    def decode(self, z: Tensor) -> Tensor:
        """[B, C, X, Y, Z] to itself."""
        return z


class Autoencoder(nn.Module):
    """KL-regularised 3D autoencoder; scans in [0, 1], latents about a factor of 8 smaller along each axis."""

    net: AutoencoderKL | Voxels

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        if config.identity:
            self.patch, self.net = 1, Voxels()
            return
        self.patch = config.patch
        # monai takes five seconds to import
        from monai.networks.nets.autoencoderkl import AutoencoderKL

        levels = len(config.channels)
        self.net = AutoencoderKL(
            spatial_dims=3,
            in_channels=config.patch**3,
            out_channels=config.patch**3,
            channels=config.channels,
            latent_channels=config.latent_channels,
            num_res_blocks=[config.res_blocks] * levels,
            norm_num_groups=config.groups,
            attention_levels=[level in config.attention_levels for level in range(levels)],
            with_encoder_nonlocal_attn=config.nonlocal_attention,
            with_decoder_nonlocal_attn=config.nonlocal_attention,
            use_checkpoint=config.checkpointing,
            include_fc=False,
        )
        if config.log_variance is not None:
            conv = self.net.quant_conv_log_sigma.get_submodule("conv")
            assert isinstance(conv, nn.Conv3d)
            assert conv.bias is not None
            nn.init.zeros_(conv.weight)
            nn.init.constant_(conv.bias, config.log_variance)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scans [B, 1, X, Y, Z] to posterior mean and standard deviation, both [B, C, h, w, d]."""
        p = self.patch
        mean, sigma = self.net.encode(rearrange(x, FOLD, p=p, q=p, r=p))
        return mean, sigma

    def decode(self, z: Tensor) -> Tensor:
        """Latents [B, C, h, w, d] to scans [B, 1, X, Y, Z], about in [0, 1], not clipped."""
        p = self.patch
        return rearrange(self.net.decode(z), UNFOLD, p=p, q=p, r=p)
