# SPDX-License-Identifier: Apache-2.0
"""The frozen denoiser and the gradient estimator together: one noise estimate for a latent and a code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldae.diffusion.gaussian_flow import Gaussian
from ldae.diffusion.interpolation import lerp
from ldae.diffusion.multistep import EpsModel
from ldae.diffusion.prediction import Prediction, PredictionName, gaussian_v, make_prediction
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError
from ldae.nets.estimator import GradientEstimator
from ldae.nets.unet import UNet


class LatentDenoiser(nn.Module):
    """What is known of z_0 from z_t alone: the UNet's output, over a Gaussian prior where there is one.

    A place of the latent that hardly varies, such as the background, asks the network for a large gain at low
    noise, which its normalisations cannot give; there the prior's posterior mean is all there is to say, and
    the network says what is left over.

    Args:
        unet: Stage 2's network.
        schedule: Noise schedule.
        prediction: What the output means.
        prior: Variance of the normalised latents by place, [C, h, w, d], or None.

    Raises:
        InputError: There is a prior, but the prediction is not v.
    """

    prior: Tensor | None

    def __init__(
        self, unet: UNet, *, schedule: Schedule, prediction: PredictionName, prior: Tensor | None = None
    ) -> None:
        super().__init__()
        if prior is not None and prediction != "v":
            raise InputError(f"a Gaussian prior needs prediction v, got {prediction}. Set prior to none.")
        self.unet = unet
        self.schedule = schedule
        self.prediction: Prediction = make_prediction(prediction, schedule)
        self.register_buffer("prior", prior, persistent=False)

    def gaussian(self, z: Tensor, t: Tensor) -> Tensor | float:
        """The prior's part of the output."""
        if self.prior is None:
            return 0.0
        return gaussian_v(z, mean=0.0, variance=self.prior, signal=self.schedule.signal(t, z.ndim))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Noised latents [B, C, h, w, d] and levels [B] to the output, float32."""
        out: Tensor = self.unet(z, t).float() + self.gaussian(z, t)
        return out


class GuidedDiffusion(nn.Module):
    """eps_hat(z_t, t, y) from the frozen denoiser and the gradient estimator over its trunk.

    As in PDAE (arXiv 2212.12990). Where the denoiser has a Gaussian prior and the estimator lays the code out
    as a latent, G starts from the difference that the code makes to the prior: its mean becomes that latent,
    its variance what the code leaves.

    Args:
        denoiser: Stage 2's denoiser.
        estimator: Stage 3's gradient estimator.
    """

    def __init__(self, denoiser: LatentDenoiser, estimator: GradientEstimator) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.estimator = estimator

    @property
    def schedule(self) -> Schedule:
        """Noise schedule of both."""
        return self.denoiser.schedule

    @property
    def prediction(self) -> Prediction:
        """What the output means."""
        return self.denoiser.prediction

    def parts(self, z: Tensor, t: Tensor, codes: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The denoiser's output and G for each of several codes, all float32 [B, C, h, w, d].

        The frozen trunk runs once, without gradients.
        """
        with torch.no_grad():
            features = self.denoiser.unet.trunk(z, t)
            gaussian = self.denoiser.gaussian(z, t)
            output = self.denoiser.unet.up(features).float() + gaussian
        gradients = []
        for y in codes:
            latent = self.estimator.latent(y)
            gradient = self.estimator(features, y, latent).float()
            if self.denoiser.prior is not None and latent is not None:
                signal = self.schedule.signal(t, z.ndim)
                variance = self.estimator.unexplained
                assert variance is not None
                gradient = (
                    gradient + gaussian_v(z, mean=latent.float(), variance=variance, signal=signal) - gaussian
                )
            gradients.append(gradient)
        return output, gradients

    def forward(self, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The guided output, in the units of the prediction, float32."""
        output, gradients = self.parts(z, t, [y])
        return self.prediction.guide(output, gradients[0], t)

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
            output = self(z, t, y) if guided else self.denoiser(z, t)
            return self.prediction.eps(output, z, t)

        return eps

    def trajectory_model(self, a: Tensor, b: Tensor, *, fraction: float) -> EpsModel:
        """The noise estimate shifted by a mix of two codes' gradients (PDAE, arXiv 2212.12990).

        Args:
            a: Codes [B, D] at fraction 0.
            b: Codes [B, D] at fraction 1.
            fraction: Weight of the second gradient.
        """

        def eps(z: Tensor, t: Tensor) -> Tensor:
            output, (first, second) = self.parts(z, t, [a, b])
            gradient = lerp(first, second, fraction=fraction)
            return self.prediction.eps(self.prediction.guide(output, gradient, t), z, t)

        return eps

    def gaussian(self, y: Tensor | None) -> Gaussian:
        """What the model knows of clean latents by place, before any network is asked.

        Args:
            y: Codes [B, D], or None for the denoiser alone.
        """
        if self.denoiser.prior is None:
            return Gaussian()
        latent = None if y is None else self.estimator.latent(y)
        if latent is None:
            return Gaussian(variance=self.denoiser.prior)
        variance = self.estimator.unexplained
        assert variance is not None
        return Gaussian(latent.float(), variance)
