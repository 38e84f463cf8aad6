# SPDX-License-Identifier: Apache-2.0
"""Classifiers of noised codes and latents, and their training; level 0 is the clean code, t + 1 level t."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldae.diffusion.prediction import add_noise
from ldae.diffusion.schedule import Schedule
from ldae.nets.blocks import TimeEmbedding, zeroed
from ldae.nets.latent_resnet import LatentResNet, LatentResNetConfig

TIME_BASE, EMBEDDING = 32, 64
LEVELS_A_RADIAN = 20  # of the fastest wave: posteriors change slowly with the level
DROPOUT = 0.1
PATIENCE = 10  # epochs without a lower held-out loss
VALIDATION_DRAWS = 8


class NoisedMLP(nn.Module):
    """Class logits of noised codes: a linear map next to blocks of linear, layer norm, GELU and dropout.

    Every number of the code has a gain, and every hidden one a scale and a shift, that depend on the level.

    Args:
        dim: Width D of the code.
        classes: Number of classes.
        hidden: Widths of the hidden layers; none leaves the linear map.
    """

    def __init__(self, dim: int, *, classes: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.time = TimeEmbedding(TIME_BASE, EMBEDDING)
        self.gain = zeroed(nn.Linear(EMBEDDING, dim))
        self.straight = zeroed(nn.Linear(dim, classes))
        self.blocks = nn.ModuleList(nn.Linear(*widths) for widths in pairwise([dim, *hidden]))
        self.films = nn.ModuleList(nn.Linear(EMBEDDING, 2 * width) for width in hidden)
        self.leave = zeroed(nn.Linear(hidden[-1], classes)) if hidden else None

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Noised codes [B, D] and levels [B] to logits [B, classes]."""
        embedding = functional.silu(self.time(t / LEVELS_A_RADIAN))
        h = z * (1 + self.gain(embedding))
        logits: Tensor = self.straight(h)
        for block, film in zip(self.blocks, self.films, strict=True):
            scale, shift = film(embedding).chunk(2, 1)
            h = block(h)
            h = functional.gelu(torch.addcmul(shift, functional.layer_norm(h, h.shape[1:]), 1 + scale))
            h = functional.dropout(h, DROPOUT, self.training)
        return logits if self.leave is None else logits + self.leave(h)


class NoisedClassifier(nn.Module):
    """log p(y | z_t, t) of codes or latents, from sqrt(A) z_t, what is expected of one of unit variance.

    Args:
        shape: Shape of a code (D,) or latent (C, h, w, d).
        classes: Number of classes.
        hidden: Widths of the MLP's hidden layers, for codes.
        width: Channels of the residual network, for latents.
    """

    signal: Tensor

    def __init__(self, shape: Sequence[int], *, classes: int, hidden: Sequence[int], width: int) -> None:
        super().__init__()
        table = Schedule().alpha_bar
        self.register_buffer("signal", torch.cat([torch.ones(1), table]), persistent=False)
        self.network: NoisedMLP | LatentResNet
        if len(shape) == 1:
            self.network = NoisedMLP(shape[0], classes=classes, hidden=hidden)
        else:
            config = LatentResNetConfig(shape[0], width, dropout=DROPOUT)
            self.network = LatentResNet(config, classes=classes, size=(shape[1], shape[2], shape[3]))

    @property
    def levels(self) -> int:
        """Number of levels T + 1."""
        return len(self.signal)

    def signal_of(self, level: Tensor, ndim: int) -> Tensor:
        """A of each level [B, 1, ...] with `ndim` dimensions; 1 at level 0."""
        return self.signal[level].reshape(-1, *[1] * (ndim - 1))

    def noised(self, z0: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Clean codes at levels [B]."""
        return add_noise(z0, noise, self.signal_of(level, z0.ndim))

    def forward(self, z: Tensor, level: Tensor) -> Tensor:
        """Noised codes or latents [B, ...] at levels [B] to logits [B, classes]."""
        out: Tensor = self.network(self.signal_of(level, z.ndim).sqrt() * z, level)
        return out


@dataclass(frozen=True)
class NoisedTraining:
    """How a classifier of noised codes is trained.

    Attributes:
        epochs: Passes over the rows.
        batch_size: Rows a step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, decoupled.
        clean: Share of rows without noise; the levels of the others are uniform.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    clean: float


Labelled = tuple[Tensor, Tensor]
"""Standardised codes or latents [N, ...] and class indices [N]."""


def train_noised(
    network: NoisedClassifier, rows: Labelled, *, training: NoisedTraining, held_out: Labelled | None = None
) -> int:
    """Train by cross-entropy; the number of epochs after which the held-out loss was lowest, else all."""
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    judge = None if held_out is None else _Judge(network, held_out, clean=training.clean)
    for epoch in range(1, training.epochs + 1):
        network.train()
        for chosen in torch.split(torch.randperm(len(rows[1])), training.batch_size):
            z0, targets = rows[0][chosen], rows[1][chosen]
            level = _levels(len(z0), network.levels, clean=training.clean)
            logits = network(network.noised(z0, torch.randn_like(z0), level), level)
            optimiser.zero_grad()
            torch.autograd.backward(functional.cross_entropy(logits, targets))
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        network.eval()
        if judge is not None and judge.look(network, epoch):
            break
    return training.epochs if judge is None else judge.best


def _levels(count: int, levels: int, *, clean: float) -> Tensor:
    drawn = torch.randint(1, levels, (count,))
    return torch.where(torch.rand(count) < clean, 0, drawn)


class _Judge:
    """The epoch with the lowest loss on fixed noise, in the shares of training."""

    def __init__(self, network: NoisedClassifier, held_out: Labelled, *, clean: float) -> None:
        z0, self.targets = (part.repeat(VALIDATION_DRAWS, *[1] * (part.ndim - 1)) for part in held_out)
        self.level = _levels(len(z0), network.levels, clean=clean)
        self.z = network.noised(z0, torch.randn_like(z0), self.level)
        self.lowest, self.best = float("inf"), 1

    def look(self, network: NoisedClassifier, epoch: int) -> bool:
        """Whether there has been no lower loss for too long."""
        with torch.no_grad():
            loss = float(functional.cross_entropy(network(self.z, self.level), self.targets))
        if loss < self.lowest:
            self.lowest, self.best = loss, epoch
        return epoch - self.best >= PATIENCE


def fit_noised(
    network: NoisedClassifier, rows: Labelled, *, training: NoisedTraining, folds: tuple[Tensor, Tensor]
) -> tuple[NoisedClassifier, int]:
    """The network fitted on all rows for as many epochs as served best on the held-out ones.

    Args:
        network: Before training.
        rows: All rows.
        training: How to train; its epochs are the most.
        folds: Rows to learn from and rows to judge by.
    """
    parts = [(rows[0][part], rows[1][part]) for part in folds]
    epochs = train_noised(deepcopy(network), parts[0], training=training, held_out=parts[1])
    chosen = NoisedTraining(**{**vars(training), "epochs": epochs})
    train_noised(network, rows, training=chosen)
    return network, epochs
