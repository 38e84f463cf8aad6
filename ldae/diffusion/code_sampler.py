# SPDX-License-Identifier: Apache-2.0
"""A diffusion model of the semantic codes, from which new codes are drawn (DiffAE, arXiv 2111.15640, 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldae.diffusion import samplers
from ldae.diffusion.gaussian_flow import Gaussian
from ldae.diffusion.prediction import add_noise, eps_from_v, v_from
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError
from ldae.nets.code_denoiser import UNKNOWN, CodeDenoiser

DRAW_STEPS = 100
CODES_AT_ONCE = 1024


class CodeAxes(NamedTuple):
    """Where training codes lie. Group 0 are the codes of no known class, the others the classes.

    Attributes:
        mean: Mean of all codes [D].
        axes: Principal axes of the codes about the centre of their group [D, K], each as long as their spread
            along it.
        centres: Whitened mean of each group [1 + classes, K].
        shares: Share of the codes in each group [1 + classes].
    """

    mean: Tensor
    axes: Tensor
    centres: Tensor
    shares: Tensor


def measure_codes(codes: Tensor, labels: Tensor, *, classes: int, variance: float = 0.999) -> CodeAxes:
    """Mean, principal axes, centres and shares of training codes [N, D] with labels [N], 0 for no class.

    As many axes as hold the given share of the variance within groups. The centres are shrunken towards the
    mean by what chance alone adds to their distance (James and Stein, 1961), so that a small class does not
    stand apart by noise.

    Raises:
        InputError: Too few codes, or codes that are all equal.
    """
    counts = torch.bincount(labels, minlength=classes + 1).double()
    free = len(codes) - int((counts > 0).sum())
    if free < 1:
        raise InputError(
            f"A code sampler needs more training codes than classes, got {len(codes)}. Embed more scans."
        )
    split = (torch.split(values, CODES_AT_ONCE) for values in (codes, labels))
    parts = list(zip(*split, strict=True))
    sums = torch.zeros(classes + 1, codes.shape[1], dtype=torch.float64)
    for some, groups in parts:
        sums.index_add_(0, groups, some.double())
    mean = sums.sum(0) / len(codes)
    means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], mean)
    scatter = torch.zeros(codes.shape[1], codes.shape[1], dtype=torch.float64)
    for some, groups in parts:
        residuals = some.double() - means[groups]
        scatter += residuals.T @ residuals
    rising, directions = torch.linalg.eigh(scatter / free)
    variances, directions = rising.flip(0).clamp(min=0), directions.flip(1)
    if variances.sum() == 0:
        raise InputError(
            "Training codes must differ, got equal ones. Train stage 3 again: its code is unused."
        )
    kept = int((variances.cumsum(0) / variances.sum() < variance).sum()) + 1
    kept = min(kept, int((variances > variances[0] * 1e-10).sum()))
    axes = directions[:, :kept] * variances[:kept].sqrt()
    centres = (means - mean) @ (axes / axes.square().sum(0))
    chance = kept / counts.clamp(min=1) / centres.square().sum(1).clamp(min=1e-12)
    centres = centres * (1 - chance).clamp(min=0)[:, None]
    return CodeAxes(mean.float(), axes.float(), centres.float(), (counts / len(codes)).float())


class CodeSampler(nn.Module):
    """Denoiser of whitened codes with the way to whitened codes and back.

    The answer is v (arXiv 2202.00512). Were the codes of every class Gaussian, with one covariance, it would
    be known in closed form: -sqrt(1-A) m for whitened codes about the centre m of a told class, and the
    same with the posterior mean of m where no class is told. The network adds to this. So an untrained
    network draws from the Gaussians of the classes in their shares, and all that is learned is how the codes
    differ from them.

    Args:
        network: Denoiser of K numbers.
        axes: Where the training codes lie.
        schedule: Noise schedule.
        classes: Names of the classes that can be asked for; the label of the first is 1.
    """

    mean: Tensor
    axes: Tensor
    centres: Tensor
    shares: Tensor

    def __init__(
        self, network: CodeDenoiser, axes: CodeAxes, *, schedule: Schedule, classes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.classes = tuple(classes)
        for name, tensor in axes._asdict().items():
            self.register_buffer(name, tensor)

    @property
    def size(self) -> int:
        """Numbers K in a whitened code."""
        return int(self.axes.shape[1])

    def whiten(self, codes: Tensor) -> Tensor:
        """Codes [N, D] to whitened ones [N, K]: zero mean, and unit covariance within classes."""
        return (codes - self.mean) @ (self.axes / self.axes.square().sum(0))

    def colour(self, whitened: Tensor) -> Tensor:
        """Whitened codes [N, K] to codes [N, D]."""
        return self.mean + whitened @ self.axes.T

    def label(self, name: str | None) -> int:
        """The label of a class; 0 for None.

        Raises:
            InputError: The sampler does not know it.
        """
        if name is None:
            return UNKNOWN
        if name not in self.classes:
            known = f"one of {', '.join(self.classes)}" if self.classes else "left out: none was learned"
            raise InputError(f"The class of a sample must be {known}, got {name!r}.")
        return self.classes.index(name) + 1

    def prior(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """v of the classes' Gaussians for noised codes [B, K] at levels [B] with labels [B], 0 for any."""
        signal = self.schedule.signal(t, 2)
        fit = signal.sqrt() * (z @ self.centres.T) - signal / 2 * self.centres.square().sum(1)
        likely = (self.shares.log() + fit).softmax(1) @ self.centres
        centre = torch.where((label == UNKNOWN)[:, None], likely, self.centres[label])
        return -(1 - signal).sqrt() * centre

    def errors(
        self, network: CodeDenoiser, codes: Tensor, *, t: Tensor, noise: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error of v with the network's answer and without it, [B] each.

        Args:
            network: This sampler's network, or an average of it.
            codes: Codes [B, D].
            t: Levels [B].
            noise: Standard normal noise [B, K].
            label: Labels [B], 0 where the class is not told.
        """
        z0 = self.whiten(codes)
        signal = self.schedule.signal(t, 2)
        z = add_noise(z0, noise, signal)
        left = v_from(z0, noise, signal) - self.prior(z, t, label)
        return (network(z, t, label) - left).square().mean(1), left.square().mean(1)

    @torch.no_grad()
    def draw(self, noise: Tensor, label: Tensor, *, steps: int = DRAW_STEPS) -> Tensor:
        """Codes [N, D] from standard normal noise [N, K], by the default solver about the told classes.

        Args:
            noise: One row a code.
            label: Class of each code [N], as `label` gives it; 0 draws from all.
            steps: Network calls, 1..T-1.
        """

        def eps(z: Tensor, t: Tensor) -> Tensor:
            v = self.prior(z, t, label) + self.network(z, t, label)
            return eps_from_v(z, v, self.schedule.signal(t, 2))

        mean = torch.where((label == UNKNOWN)[:, None], 0.0, self.centres[label])
        start = self.schedule.alpha_bar[-1].sqrt() * mean + noise
        z0 = samplers.decode(eps, start, schedule=self.schedule, steps=steps, gaussian=Gaussian(mean))
        return self.colour(z0)
