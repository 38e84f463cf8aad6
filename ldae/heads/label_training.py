# SPDX-License-Identifier: Apache-2.0
"""Training of LaDiNE's noise predictors on held-out priors, and the weights that are kept."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ldae.heads.label_denoiser import LabelDenoiser, prior_mean
from ldae.heads.label_diffusion import LEVELS, alpha_bar_table, noised
from ldae.heads.stacked import clip_gradients

EMA_DECAY = 0.995
BATCH_SIZE = 256
WEIGHT_DECAY = 0.1
CHECK_EVERY = 50  # steps
PATIENCE = 6  # checks without a lower validation loss
VALIDATION_DRAWS = 16


@dataclass(frozen=True)
class LabelledCodes:
    """Rows of one split.

    Attributes:
        priors: z_k of networks that have not seen the row [K, N, C].
        codes: Standardised codes [1, N, D].
        targets: Class indices [N].
    """

    priors: Tensor
    codes: Tensor
    targets: Tensor

    def rows(self, chosen: Tensor) -> LabelledCodes:
        """The chosen rows, an index each."""
        return LabelledCodes(self.priors[:, chosen], self.codes[:, chosen], self.targets[chosen])


def denoising_loss(network: LabelDenoiser, batch: LabelledCodes, *, level: Tensor, noise: Tensor) -> Tensor:
    """Loss summed over members: cross-entropy of the label ("y0") or squared error of the noise ("eps").

    Args:
        network: The predictors.
        batch: Rows.
        level: t of each row [N].
        noise: Standard normal [K, N, 1, C].
    """
    classes = batch.priors.shape[2]
    alpha_bar = alpha_bar_table()[level].float()[None, :, None, None]
    mean = prior_mean(batch.priors)[:, :, None]
    residual = functional.one_hot(batch.targets, classes).float()[None, :, None] - mean
    label = mean + noised(residual, noise, alpha_bar=alpha_bar)
    condition = network.condition(batch.priors, batch.codes)
    answer = network(label, condition, level=level)
    if network.parametrisation == "eps":
        error: Tensor = (answer - noise).square().mean(dim=(1, 2, 3)).sum()
        return error
    logits = network.logits(answer, label, condition, alpha_bar=alpha_bar)[:, :, 0]
    targets = batch.targets.expand(len(logits), -1)
    losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.reshape(targets.shape).mean(1).sum()


def train_denoiser(
    network: LabelDenoiser,
    training: LabelledCodes,
    *,
    validation: LabelledCodes,
    steps: int,
    learning_rate: float,
) -> LabelDenoiser:
    """The averaged weights (EMA) with the lowest validation loss, those before the first step among them.

    Antithetic levels, t and T-1-t in one batch; cosine decay of the learning rate; gradients clipped per
    member.

    Args:
        network: The predictors, which are trained.
        training: Rows to learn from.
        validation: Rows to judge by.
        steps: Most steps.
        learning_rate: Of AdamW at the start.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    average, judge = deepcopy(network), _Judge(validation)
    judge.look(average)
    for step in range(1, steps + 1):
        batch = training.rows(torch.randint(len(training.targets), (BATCH_SIZE,)))
        level = torch.randint(LEVELS, (BATCH_SIZE // 2,))
        noise = torch.randn(len(batch.priors), BATCH_SIZE, 1, batch.priors.shape[2])
        loss = denoising_loss(network, batch, level=torch.cat([level, LEVELS - 1 - level]), noise=noise)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        clip_gradients(network)
        optimiser.step()
        rate.step()
        _follow(average, network, decay=min(EMA_DECAY, (1 + step) / (10 + step)))
        if step % CHECK_EVERY == 0 and judge.look(average):
            break
    return judge.best


class _Judge:
    """Keeps the weights with the lowest loss on fixed noise."""

    def __init__(self, validation: LabelledCodes) -> None:
        chosen = torch.arange(len(validation.targets)).repeat(VALIDATION_DRAWS)
        self.rows = validation.rows(chosen)
        self.level = torch.linspace(0, LEVELS - 1, len(chosen)).long()[torch.randperm(len(chosen))]
        members, _, classes = validation.priors.shape
        self.noise = torch.randn(members, len(chosen), 1, classes)
        self.lowest, self.since = float("inf"), 0
        self.best: LabelDenoiser

    def look(self, network: LabelDenoiser) -> bool:
        """Whether there has been no lower loss for too long."""
        with torch.no_grad():
            loss = float(denoising_loss(network, self.rows, level=self.level, noise=self.noise))
        self.since += 1
        if loss < self.lowest:
            self.lowest, self.since, self.best = loss, 0, deepcopy(network)
        return self.since >= PATIENCE


@torch.no_grad()
def _follow(average: LabelDenoiser, network: LabelDenoiser, *, decay: float) -> None:
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
