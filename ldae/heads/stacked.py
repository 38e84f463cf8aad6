# SPDX-License-Identifier: Apache-2.0
"""Several networks of one form side by side, trained and applied as one: members of an ensemble, folds.

Weights have a leading axis R over networks, and every layer is one batched product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ldae.errors import CheckpointError
from ldae.heads.checks import check_arrays

GRADIENT_LIMIT = 1.0
Network = TypeVar("Network", bound=nn.Module)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator seeded inside, and as it was outside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class StackedLinear(nn.Module):
    """R linear layers, [R, N, inputs] to [R, N, outputs].

    Args:
        networks: R.
        inputs: Input width.
        outputs: Output width.
        used: How many of the inputs each network uses, the others being zero [R]; None for all of them.
        zero: Start from zero instead of from uniform weights.
    """

    def __init__(
        self,
        networks: int,
        inputs: int,
        outputs: int,
        *,
        used: Sequence[int] | None = None,
        zero: bool = False,
    ) -> None:
        super().__init__()
        reach = torch.tensor(used or [inputs] * networks).float().rsqrt().reshape(-1, 1, 1)
        weight = (2 * torch.rand(networks, inputs, outputs) - 1) * reach
        self.weight = nn.Parameter(torch.zeros_like(weight) if zero else weight)
        self.bias = nn.Parameter(torch.zeros(networks, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[R, N, inputs] to [R, N, outputs]."""
        return torch.baddbmm(self.bias, x, self.weight)


class StackedMLP(nn.Module):
    """R classifiers of standardised features: blocks of linear, layer norm, GELU and dropout, next to a
    linear one.

    Args:
        networks: R.
        inputs: Input width.
        outputs: Number of classes.
        hidden: Width of each block; none gives linear classifiers.
        dropout: Share of hidden values dropped in training.
        used: As for `StackedLinear`.
    """

    def __init__(
        self,
        networks: int,
        inputs: int,
        outputs: int,
        *,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        used: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.blocks = nn.ModuleList(
            StackedLinear(networks, before, after, used=None if index else used)
            for index, (before, after) in enumerate(pairwise(widths))
        )
        self.dropout = dropout
        self.last = StackedLinear(networks, widths[-1], outputs, zero=True)
        self.straight = StackedLinear(networks, inputs, outputs, zero=True) if hidden else None

    def forward(self, x: Tensor) -> Tensor:
        """Features [R, N, inputs] to logits [R, N, outputs]."""
        straight = 0 if self.straight is None else self.straight(x)
        for block in self.blocks:
            h = block(x)
            x = functional.gelu(functional.layer_norm(h, h.shape[-1:]))
            x = functional.dropout(x, self.dropout, self.training)
        out: Tensor = self.last(x) + straight
        return out


@dataclass(frozen=True)
class Optimisation:
    """How a stack is trained: AdamW on shuffled batches, gradients clipped per network.

    Attributes:
        epochs: Passes over the rows.
        batch_size: Rows a step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, decoupled.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float


Loss = Callable[[Tensor, Tensor, int], Tensor]
"""Outputs [R, n, C], rows [n] and epoch (from 1) to losses [R, n]."""


def train_stack(
    network: nn.Module,
    inputs: Tensor,
    *,
    loss: Loss,
    weights: Tensor,
    optimisation: Optimisation,
) -> Iterator[int]:
    """Train all networks of a stack at once; yields the number of each finished epoch, from 1.

    Networks do not see one another: each has its own mean loss and its own clipped gradient.

    Args:
        network: Takes [R, n, W].
        inputs: Features [R, N, W], or [1, N, W] for all alike.
        loss: Loss of each output.
        weights: Weight of each row in each network [R, N]; 0 holds it out.
        optimisation: How to train.
    """
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=optimisation.learning_rate, weight_decay=optimisation.weight_decay
    )
    for epoch in range(1, optimisation.epochs + 1):
        network.train()
        for rows in torch.split(torch.randperm(inputs.shape[1]), optimisation.batch_size):
            chosen = weights[:, rows]
            outputs = network(inputs[:, rows].expand(len(weights), -1, -1))
            mean = (loss(outputs, rows, epoch) * chosen).sum(1) / chosen.sum(1).clamp_min(1e-6)
            optimiser.zero_grad()
            torch.autograd.backward(mean.sum())
            clip_gradients(network)
            optimiser.step()
        network.eval()
        yield epoch


def clip_gradients(network: nn.Module) -> None:
    """Scale the gradient of each network of a stack to length `GRADIENT_LIMIT` where it is longer."""
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    factor = (GRADIENT_LIMIT / squares.sqrt().clamp_min(1e-12)).clamp_max(1)
    for gradient in gradients:
        gradient.mul_(factor.reshape(-1, *[1] * (gradient.ndim - 1)))


def to_arrays(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The weights of a network by name, as float32 arrays."""
    return {name: value.float().numpy().copy() for name, value in network.state_dict().items()}


def from_arrays(network: Network, arrays: dict[str, NDArray[np.float32]], *, head: str) -> Network:
    """The network with these weights, in float64 and for prediction only.

    Raises:
        CheckpointError: The weights do not fit it.
    """
    return for_prediction(load_arrays(network, arrays, head=head))


def load_arrays(network: Network, arrays: dict[str, NDArray[np.float32]], *, head: str) -> Network:
    """The network with these weights.

    Raises:
        CheckpointError: The weights do not fit it.
    """
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    checked = check_arrays(arrays, shapes=shapes, head=head)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in checked.items()})
    return network


def for_prediction(network: Network) -> Network:
    """The network in float64, without gradients.

    A product in float32 depends on the number of rows in its last bits, which a sampler blows up.
    """
    network.double().eval().requires_grad_(False)
    return network


def subset(arrays: dict[str, NDArray[np.float32]], prefix: str) -> dict[str, NDArray[np.float32]]:
    """The arrays whose name starts with a prefix, without it.

    Raises:
        CheckpointError: There is none.
    """
    found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    if not found:
        raise CheckpointError(f"A saved head must hold arrays named {prefix}..., got {sorted(arrays)}.")
    return found
