# SPDX-License-Identifier: Apache-2.0
"""Latents of zero mean and unit standard deviation, measured on the training scans."""

from __future__ import annotations

from torch import Tensor, nn


class LatentNormaliser(nn.Module):
    """(z - mean) / std and back; the statistics travel with the weights as float32 buffers.

    Args:
        mean: Mean over training scans, per place [C, h, w, d] or per channel [C, 1, 1, 1].
        std: Standard deviation per channel, [C].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float().reshape(-1, 1, 1, 1))

    def forward(self, latent: Tensor) -> Tensor:
        """Latents [B, C, h, w, d] of the autoencoder to those of the diffusion."""
        return (latent - self.mean) / self.std

    def inverse(self, z: Tensor) -> Tensor:
        """Latents [B, C, h, w, d] of the diffusion to those of the autoencoder."""
        return z * self.std + self.mean
