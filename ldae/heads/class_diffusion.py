# SPDX-License-Identifier: Apache-2.0
"""Class-conditional diffusion of codes or latents, fitted on a head's own training data.

Codes are diffused by the code sampler's model, whose answer starts from the classes' Gaussians of one
covariance, here a shrunk one; latents by a residual network over Gaussians place by place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn

from ldae.diffusion.code_sampler import CodeAxes, CodeSampler
from ldae.diffusion.gaussian_flow import Gaussian, GaussianFlow
from ldae.diffusion.multistep import walk_gaussian
from ldae.diffusion.prediction import add_noise, eps_from_v, gaussian_v
from ldae.diffusion.schedule import Schedule
from ldae.nets.code_denoiser import UNKNOWN, CodeDenoiser, CodeDenoiserConfig
from ldae.nets.latent_resnet import LatentClassDenoiser, LatentResNetConfig

SMALLEST_VARIANCE = 1e-4


class CodeClasses(CodeSampler):
    """Classes of codes as the code sampler has them: v = prior + network, on whitened codes."""

    def scale(self, t: Tensor, label: Tensor) -> Tensor | float:
        """One: whitened codes vary alike in every axis."""
        return 1.0

    @property
    def gaussian(self) -> Gaussian:
        """Unit variance about zero."""
        return Gaussian()


class LatentClasses(nn.Module):
    """Classes of standardised latents as Gaussians place by place, and a residual network for the rest.

    Args:
        network: Denoiser.
        centres: Mean of each class [1 + classes, C, h, w, d], that of all first.
        variances: Variance at each place over all scans, and within classes [2, C, h, w, d].
    """

    centres: Tensor
    variances: Tensor

    def __init__(self, network: LatentClassDenoiser, *, centres: Tensor, variances: Tensor) -> None:
        super().__init__()
        self.network = network
        self.schedule = Schedule()
        self.register_buffer("centres", centres)
        self.register_buffer("variances", variances)

    @property
    def gaussian(self) -> Gaussian:
        """Mean and variance of all scans."""
        return Gaussian(self.centres[UNKNOWN], self.variances[UNKNOWN])

    def whiten(self, codes: Tensor) -> Tensor:
        """Latents as they are."""
        return codes

    def colour(self, whitened: Tensor) -> Tensor:
        """Latents as they are."""
        return whitened

    def prior(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """v of the Gaussians of the classes, or of all for label 0."""
        variance = self.variances[(label > UNKNOWN).long()]
        signal = self.schedule.signal(t, z.ndim)
        return gaussian_v(z, mean=self.centres[label], variance=variance, signal=signal)

    def scale(self, t: Tensor, label: Tensor) -> Tensor | float:
        """Standard deviation of v at each place, given z_t, where the latents are Gaussian."""
        variance = self.variances[(label > UNKNOWN).long()]
        signal = self.schedule.signal(t, variance.ndim)
        return (variance / (signal * variance + 1 - signal)).sqrt()


Diffusion = CodeClasses | LatentClasses
"""v = prior + scale x network, for whitened codes or standardised latents."""


def class_v(model: Diffusion, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """v for noised codes [B, ...] at levels [B] with labels [B], 0 where the class is not told."""
    answer: Tensor = model.prior(z, t, label) + model.scale(t, label) * model.network(z, t, label)
    return answer


def build_diffusion(shape: Sequence[int], *, classes: int, width: int, layers: int) -> Diffusion:
    """An unfitted model of codes (D,) or latents (C, h, w, d).

    Args:
        shape: Of one of them.
        classes: Number of classes.
        width: Width of the MLP, or channels of the residual network.
        layers: Layers of the MLP, or residual blocks.
    """
    groups = classes + 1
    if len(shape) > 1:
        latent = LatentResNetConfig(shape[0], width, layers)
        return LatentClasses(
            LatentClassDenoiser(latent, classes=classes, size=(shape[1], shape[2], shape[3])),
            centres=torch.zeros(groups, *shape),
            variances=torch.ones(2, *shape),
        )
    size = shape[0]
    axes = CodeAxes(
        torch.zeros(size), torch.zeros(size, size), torch.zeros(groups, size), torch.zeros(groups)
    )
    config = CodeDenoiserConfig(width, layers, embedding=width, dropout=0.1)
    network = CodeDenoiser(config, size=size, classes=classes)
    return CodeClasses(network, axes, schedule=Schedule(), classes=[str(place) for place in range(classes)])


def measure_classes(model: Diffusion, values: Tensor, labels: Tensor) -> None:
    """Put the classes of standardised training codes or latents [N, ...] with labels [N] into a model."""
    if isinstance(model, LatentClasses):
        centres, variances = _places(values, labels, groups=len(model.centres))
        model.centres.copy_(centres)
        model.variances.copy_(variances)
        return
    for name, tensor in shrunk_axes(values, labels, groups=len(model.centres))._asdict().items():
        getattr(model, name).copy_(tensor)


def shrunk_axes(values: Tensor, labels: Tensor, *, groups: int) -> CodeAxes:
    """Principal axes of codes about the mean of their class, of a covariance shrunk as Ledoit and Wolf do."""
    codes = values.double()
    means, shares = _means(codes, labels, groups=groups)
    covariance, _ = ledoit_wolf((codes - means[labels]).numpy(), assume_centered=True)
    variances, directions = torch.linalg.eigh(torch.from_numpy(covariance))
    variances = variances.clamp(min=SMALLEST_VARIANCE)
    mean = codes.mean(0)
    centres = (means - mean) @ (directions / variances.sqrt())
    centres[UNKNOWN] = 0
    return CodeAxes(*(part.float() for part in (mean, directions * variances.sqrt(), centres, shares)))


def _means(codes: Tensor, labels: Tensor, *, groups: int) -> tuple[Tensor, Tensor]:
    """Mean [groups, ...] of each class, of all for group 0, and its share [groups]."""
    known = [codes[labels == label] for label in range(1, groups)]
    means = torch.stack([codes.mean(0), *(part.mean(0) for part in known)])
    shares = torch.tensor([0, *(len(part) for part in known)], dtype=torch.float64) / len(codes)
    return means, shares


def _places(values: Tensor, labels: Tensor, *, groups: int) -> tuple[Tensor, Tensor]:
    """Centres [groups, ...], shrunken by what chance adds to their distance, and variances [2, ...]."""
    means, shares = _means(values.double(), labels, groups=groups)
    within = (values - means[labels]).square().mean(0).clamp(min=SMALLEST_VARIANCE)
    offsets = means - means[UNKNOWN]
    distance = (offsets.square() / within).flatten(1).mean(1).clamp(min=1e-12)
    chance = 1 / (shares * len(values)).clamp(min=1) / distance
    factor = (1 - chance).clamp(min=0).reshape(-1, *[1] * (values.ndim - 1))
    total = (values - means[UNKNOWN]).square().mean(0).clamp(min=SMALLEST_VARIANCE)
    return means[UNKNOWN] + factor * offsets, torch.stack([total, within])


@torch.no_grad()
def purify(model: Diffusion, z0: Tensor, *, noise: Tensor, level: int, steps: int) -> Tensor:
    """Noise one whitened code to a level once for each draw, and walk back to clean ones [R, ...].

    Args:
        model: Denoiser.
        z0: Whitened code or latent.
        noise: Standard normal [R, ...].
        level: t, at least 1.
        steps: Calls of the denoiser, as many as there are levels below at most.
    """
    levels = [round(level * place / min(steps, level)) for place in range(min(steps, level), -1, -1)]
    untold = torch.full((len(noise),), UNKNOWN)

    def eps(z: Tensor, t: Tensor) -> Tensor:
        return eps_from_v(z, class_v(model, z, t, untold), model.schedule.signal(t, z.ndim))

    noised = add_noise(z0, noise, model.schedule.alpha_bar[level])
    flow = GaussianFlow(model.gaussian, model.schedule)
    return walk_gaussian(eps, noised, levels=levels, flow=flow)
