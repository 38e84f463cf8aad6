# SPDX-License-Identifier: Apache-2.0
"""The gradient estimator G(z_t, t, y): what the semantic code adds to the frozen denoiser (PDAE, arXiv 2212.12990)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from ldae.nets.blocks import zeroed
from ldae.nets.unet import TrunkFeatures, UNetConfig, UpPath


@dataclass(frozen=True)
class EstimatorConfig:
    """Where the semantic code enters.

    Attributes:
        entry: "modulation" scales and shifts channels of every new block, as published; "modulation+place"
            also adds a learned low-resolution spatial bias at the middle block: channel modulation alone
            cannot say "larger ventricles, here" when the trunk sees pure noise.
        place_channels: Channels of that spatial bias before it is widened.
    """

    entry: Literal["modulation", "modulation+place"] = "modulation+place"
    place_channels: int = 64


class GradientEstimator(nn.Module):
    """Own middle, up path and zero-initialised output over the frozen trunk's features.

    Args:
        config: Where the code enters.
        unet: Size of the UNet whose trunk it reads.
        code_size: Width D of the semantic code.
        latent_shape: Sides (h, w, d) of the latents.
    """

    def __init__(
        self, config: EstimatorConfig, *, unet: UNetConfig, code_size: int, latent_shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.config = config
        self.code = nn.Sequential(
            nn.Linear(code_size, unet.embedding), nn.SiLU(), nn.Linear(unet.embedding, unet.embedding)
        )
        self.up = UpPath(unet, with_code=True)
        self.middle_shape = tuple(side // unet.factor for side in latent_shape)
        self.place: nn.Linear | None = None
        if config.entry == "modulation+place":
            places = self.middle_shape[0] * self.middle_shape[1] * self.middle_shape[2]
            self.place = nn.Linear(code_size, config.place_channels * places)
            self.widen = zeroed(nn.Conv3d(config.place_channels, unet.widths[-1], 1))

    def forward(self, features: TrunkFeatures, y: Tensor) -> Tensor:
        """Trunk features and codes [B, D] to G, [B, C, h, w, d]."""
        place = None
        if self.place is not None:
            h, w, d = self.middle_shape
            place = self.widen(rearrange(self.place(y), "b (c h w d) -> b c h w d", h=h, w=w, d=d))
        out: Tensor = self.up(features, self.code(y), place)
        return out
