# SPDX-License-Identifier: Apache-2.0
"""The gradient estimator G(z_t, t, y): what the semantic code adds to the frozen denoiser.

As in PDAE (arXiv 2212.12990).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ldae.nets.blocks import zeroed
from ldae.nets.unet import TrunkFeatures, UNetConfig, UpPath


@dataclass(frozen=True)
class EstimatorConfig:
    """Where the semantic code enters.

    Attributes:
        entry: "modulation" scales and shifts channels of every new block, as published; "modulation+place"
            also lays the code out as a latent, by one linear layer, and shows it to every level: channel
            modulation alone cannot say "larger ventricles, here" when the trunk sees pure noise.
        code_layers: Linear layers that the code goes through before the blocks; 1 in the published code.
    """

    entry: Literal["modulation", "modulation+place"] = "modulation+place"
    code_layers: Literal[1, 2] = 2


class GradientEstimator(nn.Module):
    """Own middle, up path and zero-initialised output over the frozen trunk's features.

    Args:
        config: Where the code enters.
        unet: Size of the UNet whose trunk it reads.
        code_size: Width D of the semantic code.
        latent_shape: Sides (h, w, d) of the latents.

    Attributes:
        place: The linear layer that lays a code out as a latent, or None.
        unexplained: Variance of the latents about it by place, [C, h, w, d], measured in training, or None.
    """

    unexplained: Tensor | None

    def __init__(
        self, config: EstimatorConfig, *, unet: UNetConfig, code_size: int, latent_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.config = config
        self.latent_shape = (unet.in_channels, *latent_shape)
        self.code = nn.Sequential(nn.Linear(code_size, unet.embedding))
        if config.code_layers == 2:
            self.code.extend([nn.SiLU(), nn.Linear(unet.embedding, unet.embedding)])
        with_place = config.entry == "modulation+place"
        self.place = zeroed(nn.Linear(code_size, math.prod(self.latent_shape))) if with_place else None
        self.up = UpPath(unet, with_code=True, with_place=with_place)
        self.register_buffer("unexplained", torch.ones(self.latent_shape) if with_place else None)

    def latent(self, y: Tensor) -> Tensor | None:
        """Codes [B, D] laid out as latents [B, C, h, w, d], or None where the code only modulates."""
        return None if self.place is None else self.place(y).unflatten(1, self.latent_shape)

    def forward(self, features: TrunkFeatures, y: Tensor, latent: Tensor | None) -> Tensor:
        """Trunk features, codes [B, D] and what `latent` makes of them to G, [B, C, h, w, d]."""
        out: Tensor = self.up(features, self.code(y), latent)
        return out
