# SPDX-License-Identifier: Apache-2.0
"""The frozen denoiser and the gradient estimator together: one noise estimate for a latent and a code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ldae.diffusion.prediction import Prediction, PredictionName, make_prediction
from ldae.diffusion.samplers import EpsModel
from ldae.diffusion.schedule import Schedule
from ldae.nets.estimator import GradientEstimator
from ldae.nets.unet import UNet


class GuidedDiffusion(nn.Module):
    """eps_hat(z_t, t, y) from the frozen UNet and the gradient estimator over its trunk (PDAE, arXiv 2212.12990).

    Args:
        unet: Stage 2's denoiser.
        estimator: Stage 3's gradient estimator.
        schedule: Noise schedule of both.
        prediction: What the UNet predicts.
    """

    def __init__(
        self, unet: UNet, estimator: GradientEstimator, *, schedule: Schedule, prediction: PredictionName
    ) -> None:
        super().__init__()
        self.unet = unet
        self.estimator = estimator
        self.schedule = schedule
        self.prediction: Prediction = make_prediction(prediction, schedule)

    def parts(self, z: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the frozen UNet and G, both float32 [B, C, h, w, d]; the trunk runs once, without gradients."""
        with torch.no_grad():
            features = self.unet.trunk(z, t)
            output = self.unet.up(features)
        return output.float(), self.estimator(features, y).float()

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The guided output, in the units of the prediction, float32."""
        output, gradient = self.parts(z, t, y)
        return self.prediction.guide(output, gradient, t)

    def eps_model(self, y: Tensor | None, *, stop_fraction: float = 0.0) -> EpsModel:
        """The noise estimate with a code bound to it, as the samplers want it.

        Args:
            y: Codes [B, D], or None for the denoiser alone.
            stop_fraction: The code is switched off in the last part of the way down, for levels below this
                share of all (0.3 in PDAE for unconditional samples).
        """
        cut = stop_fraction * len(self.schedule)

        def eps(z: Tensor, t: Tensor) -> Tensor:
            guided = y is not None and (stop_fraction == 0 or bool((t >= cut).all()))
            output = self(z, t, y) if guided else self.unet(z, t).float()
            return self.prediction.eps(output, z, t)

        return eps
