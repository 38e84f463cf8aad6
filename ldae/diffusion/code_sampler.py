# SPDX-License-Identifier: Apache-2.0
"""A diffusion model of the semantic codes, from which new codes are drawn (DiffAE, arXiv 2111.15640, 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ldae.diffusion import samplers
from ldae.diffusion.prediction import add_noise, eps_from_v, v_from
from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError
from ldae.nets.code_denoiser import UNKNOWN, CodeDenoiser

DRAW_STEPS = 100


class CodeAxes(NamedTuple):
    """Where training codes lie.

    Attributes:
        mean: Their mean [D].
        axes: Their principal axes [D, K], each as long as the codes' spread along it.
        centres: Whitened mean of each label's codes [1 + classes, K]; that of label 0, unknown, is 0.
    """

    mean: Tensor
    axes: Tensor
    centres: Tensor


def measure_codes(codes: Tensor, labels: Tensor, *, classes: int, variance: float = 0.999) -> CodeAxes:
    """Mean, principal axes and centres of training codes [N, D] with labels [N].

    As many axes as hold the given share of the variance. The centres are shrunken towards 0 by what chance
    alone adds to their length (James and Stein, 1961), so that a small class does not stand apart by noise.

    Raises:
        InputError: Fewer than two codes, or codes that are all equal.
    """
    if len(codes) < 2:
        raise InputError(f"A code sampler needs at least 2 training codes, got {len(codes)}.")
    mean = codes.double().mean(0)
    _, spread, directions = torch.linalg.svd(codes.double() - mean, full_matrices=False)
    variances = spread.square() / (len(codes) - 1)
    if variances.sum() == 0:
        raise InputError("Training codes must differ, got equal ones. Train stage 3 again: ldae doctor.")
    kept = int((variances.cumsum(0) / variances.sum() < variance).sum()) + 1
    kept = min(kept, int((variances > variances[0] * 1e-10).sum()))
    axes = directions[:kept].T * variances[:kept].sqrt()
    whitened = (codes.double() - mean) @ (axes / axes.square().sum(0))
    centres = torch.zeros(classes + 1, kept, dtype=torch.float64)
    for label in range(1, classes + 1):
        members = whitened[labels == label]
        if len(members):
            centre = members.mean(0)
            chance = kept / len(members)
            centres[label] = centre * (1 - chance / centre.square().sum()).clamp(min=0)
    return CodeAxes(mean.float(), axes.float(), centres.float())


class CodeSampler(nn.Module):
    """Denoiser of whitened codes with the way to whitened codes and back.

    The answer is v (arXiv 2202.00512). For whitened codes that are Gaussian about the centre m of their class
    it is -sqrt(1-A) m exactly; the network adds to this. So an untrained network draws from Gaussians with
    the training codes' covariance, and all that is learned is how the codes differ from them.

    Args:
        network: Denoiser of K numbers.
        axes: Mean and principal axes of the training codes.
        schedule: Noise schedule.
        classes: Names of the classes that can be asked for; the label of the first is 1.
    """

    mean: Tensor
    axes: Tensor
    centres: Tensor

    def __init__(
        self, network: CodeDenoiser, axes: CodeAxes, *, schedule: Schedule, classes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.classes = tuple(classes)
        self.register_buffer("mean", axes.mean)
        self.register_buffer("axes", axes.axes)
        self.register_buffer("centres", axes.centres)

    @property
    def size(self) -> int:
        """Numbers K in a whitened code."""
        return int(self.axes.shape[1])

    def whiten(self, codes: Tensor) -> Tensor:
        """Codes [N, D] to whitened ones [N, K]: zero mean and unit covariance over training codes."""
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

    def error(
        self, network: CodeDenoiser, codes: Tensor, *, t: Tensor, noise: Tensor, label: Tensor
    ) -> Tensor:
        """Mean squared error of v for codes [B, D] at levels [B] with noise [B, K], [B]."""
        z0 = self.whiten(codes)
        signal = self.schedule.signal(t, 2)
        z = add_noise(z0, noise, signal)
        v = self.gaussian(t, label) + network(z, t, label)
        return (v - v_from(z0, noise, signal)).square().mean(1)

    def gaussian(self, t: Tensor, label: Tensor) -> Tensor:
        """v of Gaussians about the centres, [B, K]."""
        return -(1 - self.schedule.signal(t, 2)).sqrt() * self.centres[label]

    def gaussian_error(self, codes: Tensor, *, t: Tensor, noise: Tensor, label: Tensor) -> Tensor:
        """The same without a network."""
        v = v_from(self.whiten(codes), noise, self.schedule.signal(t, 2))
        return (self.gaussian(t, label) - v).square().mean(1)

    @torch.no_grad()
    def draw(self, noise: Tensor, *, label: int = UNKNOWN, steps: int = DRAW_STEPS) -> Tensor:
        """Codes [N, D] from standard normal noise [N, K], by DDIM.

        Args:
            noise: One row a code.
            label: Class, as `label` gives it.
            steps: Network calls, 1..T-1.
        """
        labels = torch.full((len(noise),), label, device=noise.device)

        def eps(z: Tensor, t: Tensor) -> Tensor:
            v = self.gaussian(t, labels) + self.network(z, t, labels)
            return eps_from_v(z, v, self.schedule.signal(t, 2))

        return self.colour(samplers.decode(eps, noise, schedule=self.schedule, steps=steps))
