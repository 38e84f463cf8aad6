# SPDX-License-Identifier: Apache-2.0
"""The members of a depth ensemble: which columns each sees, and its mapping to class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from ldae.errors import InputError
from ldae.heads.classifier import TrainingSet
from ldae.heads.stacked import Optimisation, StackedMLP, train_stack

MOST_MEMBERS = 5
VIEW_SHARE = 0.5
NARROWEST_VIEW = 32
DROPOUT = 0.1
PATIENCE = 10  # epochs without a lower held-out loss in any member
PRIOR_FLOOR = 1e-3
TEMPERATURES = (0.05, 20.0)

Columns = list[NDArray[np.intp]]


def member_columns(
    width: int, *, members: int | None, depths: Sequence[int] | None, generator: np.random.Generator
) -> Columns:
    """The columns of X that each member sees: the first depths, or random halves of one code.

    Args:
        width: Columns of X.
        members: K; None takes every depth, five at most, or five views.
        depths: Widths of the depths, which lie side by side in X.
        generator: Draws the views. A single member sees the whole code.

    Raises:
        InputError: Depths that do not add up to the width, or more members than depths.
    """
    if depths is None:
        count = MOST_MEMBERS if members is None else members
        size = width if count == 1 else min(width, max(NARROWEST_VIEW, round(VIEW_SHARE * width)))
        return [np.sort(generator.permutation(width)[:size]) for _ in range(count)]
    depths = list(depths)
    if min(depths, default=0) < 1 or sum(depths) != width:
        raise InputError(
            f"depths must be widths that add up to the {width} columns of X, got {depths}, "
            f"which add up to {sum(depths)}."
        )
    count = min(MOST_MEMBERS, len(depths)) if members is None else members
    if count > len(depths):
        raise InputError(
            f"members must be at most the {len(depths)} depths given, got {count}. Lower `members`."
        )
    ends = list(accumulate(depths))
    return [np.arange(end - size, end) for end, size in zip(ends[:count], depths[:count], strict=True)]


def code_columns(width: int, *, depths: Sequence[int] | None) -> NDArray[np.intp]:
    """The columns of the semantic code: the last depth, or all."""
    return np.arange(0 if depths is None else width - depths[-1], width)


def member_inputs(features: Tensor, columns: Columns) -> Tensor:
    """What each member sees of standardised features [N, F], padded with zeros: [K, N, W]."""
    widest = max(map(len, columns))
    return torch.stack([functional.pad(features[:, own], (0, widest - len(own))) for own in columns])


def mapping_networks(columns: Columns, *, classes: int, hidden: Sequence[int], copies: int = 1) -> StackedMLP:
    """Networks g_k from what a member sees to class logits, `copies` of the K of them in a row."""
    used = [len(own) for own in columns] * copies
    return StackedMLP(len(used), max(used), classes, hidden=hidden, dropout=DROPOUT, used=used)


@dataclass(frozen=True)
class FittedMembers:
    """Mapping networks fitted on all rows, and what networks that had not seen a row said of it.

    Attributes:
        networks: g_k, K of them.
        temperatures: What divides the logits of each [K, 1, 1].
        held_out: Out-of-fold logits [K, N, C].
    """

    networks: StackedMLP
    temperatures: Tensor
    held_out: Tensor


def fit_members(
    inputs: Tensor,
    training: TrainingSet,
    *,
    columns: Columns,
    hidden: Sequence[int],
    optimisation: Optimisation,
) -> FittedMembers:
    """Mapping networks by cross-entropy, each for as many epochs as serve it best out of fold.

    Args:
        inputs: What each member sees [K, N, W].
        training: Classes and folds.
        columns: Of the members.
        hidden: Widths of hidden layers.
        optimisation: How to train; its epochs are the most.
    """
    members, folds = len(inputs), len(training.folds)
    classes = int(training.encoded.max()) + 1
    targets = torch.from_numpy(training.encoded)

    def loss(logits: Tensor, rows: Tensor, _: int) -> Tensor:
        own = targets[rows].expand(len(logits), -1)
        flat = functional.cross_entropy(logits.flatten(0, 1), own.flatten(), reduction="none")
        return flat.reshape(own.shape)

    stack = mapping_networks(columns, classes=classes, hidden=hidden, copies=folds)
    weights = torch.from_numpy(training.fold_weights).repeat_interleave(members, 0)
    repeated = inputs.repeat(folds, 1, 1)
    best = _BestEpochs(members, training)
    for epoch in train_stack(stack, repeated, loss=loss, weights=weights, optimisation=optimisation):
        with torch.no_grad():
            logits = stack(repeated).unflatten(0, (folds, members))
        if best.look(logits, epoch):
            break
    networks = mapping_networks(columns, classes=classes, hidden=hidden)
    kept = {name: value.clone() for name, value in networks.state_dict().items()}
    everything = torch.ones(members, len(targets))
    for epoch in train_stack(networks, inputs, loss=loss, weights=everything, optimisation=optimisation):
        for name, value in networks.state_dict().items():
            kept[name][best.epochs == epoch] = value[best.epochs == epoch]
        if epoch == int(best.epochs.max()):
            break
    networks.load_state_dict(kept)
    temperatures = [best_temperature(logits.double().numpy(), training.encoded) for logits in best.logits]
    return FittedMembers(networks, torch.tensor(temperatures).reshape(-1, 1, 1), best.logits)


def prior_probabilities(logits: Tensor, temperatures: Tensor) -> Tensor:
    """z_k = softmax(logits / temperature) [K, N, C], kept off zero by 0.001 of the uniform distribution."""
    chances = (logits / temperatures).softmax(-1)
    return (1 - PRIOR_FLOOR) * chances + PRIOR_FLOOR / chances.shape[-1]


class _BestEpochs:
    """The out-of-fold logits of each member at its best epoch."""

    def __init__(self, members: int, training: TrainingSet) -> None:
        self.fold_of = torch.from_numpy(training.fold_of)
        self.targets = torch.from_numpy(training.encoded)
        self.losses = torch.full((members,), torch.inf)
        self.epochs = torch.zeros(members, dtype=torch.long)
        self.logits: Tensor

    def look(self, logits: Tensor, epoch: int) -> bool:
        """Whether no member [folds, K, N, C] has improved for too long."""
        held_out = logits[self.fold_of, :, torch.arange(len(self.targets))].transpose(0, 1)  # [K, N, C]
        targets = self.targets.expand(len(held_out), -1)
        losses = functional.cross_entropy(held_out.mT, targets, reduction="none").mean(1)
        better = losses < self.losses
        if epoch == 1:
            self.logits, better = held_out.clone(), torch.ones_like(better)
        self.losses[better], self.epochs[better] = losses[better], epoch
        self.logits[better] = held_out[better]
        return bool(epoch - self.epochs.max() >= PATIENCE)


def best_temperature(logits: NDArray[np.float64], encoded: NDArray[np.intp]) -> float:
    """What to divide logits [N, C] by for the lowest negative log-likelihood of class indices [N]."""
    rows = np.arange(len(encoded))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        largest = scaled.max(axis=1)
        total = np.log(np.exp(scaled - largest[:, None]).sum(axis=1)) + largest
        return float((total - scaled[rows, encoded]).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))
