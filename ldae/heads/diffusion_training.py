# SPDX-License-Identifier: Apache-2.0
"""Training of a head's diffusion model, which starts from Gaussians.

Its network is kept only where it does better on held-out scans than the Gaussians alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ldae.diffusion.prediction import add_noise, v_from
from ldae.diffusion.schedule import Schedule
from ldae.heads.class_diffusion import Diffusion, class_v, measure_classes
from ldae.nets.code_denoiser import UNKNOWN

UNTOLD = 0.2  # share of training codes whose class is not told
EMA_DECAY = 0.999
WEIGHT_DECAY = 0.01
CHECK_EVERY = 100  # steps
PATIENCE = 3  # checks without a lower loss
VALIDATION_DRAWS = 8


@dataclass(frozen=True)
class DiffusionTraining:
    """How the network is trained.

    Attributes:
        steps: Most training steps; 0 leaves the Gaussians.
        batch_size: Codes a step.
        learning_rate: Of AdamW at the start.
    """

    steps: int
    batch_size: int
    learning_rate: float


def denoising_errors(model: Diffusion, z0: Tensor, labels: Tensor, *, t: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error of v at each place's scale [B], for whitened codes with labels [B], 0 not told."""
    signal = model.schedule.signal(t, z0.ndim)
    z = add_noise(z0, noise, signal)
    missed = class_v(model, z, t, labels) - v_from(z0, noise, signal)
    return (missed / model.scale(t, labels)).square().flatten(1).mean(1)


Loss = Callable[[Diffusion], float]
"""What held-out scans say of a model."""


def train_diffusion(
    model: Diffusion,
    values: Tensor,
    labels: Tensor,
    *,
    training: DiffusionTraining,
    held_out: Loss | None = None,
) -> int:
    """Measure the classes, train the network, keep its average (EMA); the best number of steps comes out.

    Levels are drawn evenly in signal variance, as the likelihood weighs them.

    Args:
        model: Model, which is changed.
        values: Standardised codes or latents [N, ...].
        labels: Their labels [N], from 1.
        training: How to train.
        held_out: Where given, the steps with the lowest loss are kept and counted, none among them.
    """
    measure_classes(model, values, labels)
    best = None if held_out is None else _Best(model, held_out)
    whitened = model.whiten(values)
    average = AveragedModel(model.network, multi_avg_fn=_follow)
    optimiser = torch.optim.AdamW(
        model.network.parameters(), lr=training.learning_rate, weight_decay=WEIGHT_DECAY
    )
    for step in range(1, training.steps + 1):
        model.network.train()
        chosen = torch.randint(len(whitened), (training.batch_size,))
        told = torch.where(torch.rand(len(chosen)) >= UNTOLD, labels[chosen], UNKNOWN)
        t = _levels(model.schedule, torch.rand(len(chosen)))
        noise = torch.randn(len(chosen), *whitened.shape[1:])
        optimiser.zero_grad()
        torch.autograd.backward(denoising_errors(model, whitened[chosen], told, t=t, noise=noise).mean())
        nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model.network)
        if best is not None and step % CHECK_EVERY == 0 and best.look(average.module, step):
            break
    if best is not None:
        return best.keep()
    if training.steps:
        model.network.load_state_dict(average.module.state_dict())
    return training.steps


@torch.no_grad()
def _follow(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
    """An average over the last steps, of fewer of them at the start."""
    decay = min(EMA_DECAY, float((1 + count) / (10 + count)))
    for kept, new in zip(averaged, current, strict=True):
        kept.lerp_(new, 1 - decay)


def _levels(schedule: Schedule, signal: Tensor) -> Tensor:
    """The levels nearest above these signal variances [B]."""
    return torch.searchsorted(-schedule.alpha_bar, -signal).clamp(max=len(schedule) - 1)


def denoising_loss(values: Tensor, labels: Tensor) -> Loss:
    """The mean error of v over held-out standardised codes or latents [N, ...], noise fixed, class told."""
    scans = values.repeat(VALIDATION_DRAWS, *[1] * (values.ndim - 1))
    told = labels.repeat(VALIDATION_DRAWS)
    even = torch.linspace(0.01, 0.99, len(told))[torch.randperm(len(told))]
    noise = torch.randn_like(scans)

    def loss(model: Diffusion) -> float:
        t = _levels(model.schedule, even)
        return float(denoising_errors(model, model.whiten(scans), told, t=t, noise=noise).mean())

    return loss


class _Best:
    """The weights with the lowest loss."""

    def __init__(self, model: Diffusion, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.lowest, self.steps, self.since = float("inf"), 0, 0
        self.weights: dict[str, Tensor] = {}
        self.look(model.network, 0)

    @torch.no_grad()
    def look(self, network: nn.Module, step: int) -> bool:
        """Whether there has been no lower loss for too long."""
        trained, self.model.network = self.model.network, network.eval()  # type: ignore[assignment]
        loss = self.loss(self.model)
        self.model.network = trained
        self.since += 1
        if loss < self.lowest:
            self.lowest, self.steps, self.since = loss, step, 0
            self.weights = {name: value.clone() for name, value in network.state_dict().items()}
        return self.since >= PATIENCE

    def keep(self) -> int:
        """Put the best weights into the model; after how many steps they were had."""
        self.model.network.load_state_dict(self.weights)
        return self.steps
