# SPDX-License-Identifier: Apache-2.0
"""An ordinary network with as many parameters as a modulated one, to compare it with."""

from __future__ import annotations

import torch

from ldae.heads.evidential import EvidenceNetwork


def modulated_parameters(dim: int, *, classes: int, context: int = 0) -> int:
    """Number of parameters of a linear evidential classifier behind HaC."""
    return _count(dim, classes=classes, hidden=(), modulation=True, context=context)


def plain_parameters(dim: int, *, classes: int, hidden: tuple[int, ...]) -> int:
    """Number of parameters of an evidential classifier with hidden layers and no modulation."""
    return _count(dim, classes=classes, hidden=hidden, modulation=False, context=0)


def matched_hidden(dim: int, *, classes: int, context: int = 0) -> tuple[int, int]:
    """Widths of two hidden layers, as many as HaC has, that come nearest to the number of its parameters.

    Args:
        dim: Width of the code.
        classes: Number of classes.
        context: Width of the context that HaC takes.
    """
    wanted = modulated_parameters(dim, classes=classes, context=context)

    def missed(width: int) -> int:
        return abs(plain_parameters(dim, classes=classes, hidden=(width, width)) - wanted)

    width = 1
    while missed(width + 1) < missed(width):
        width += 1
    return width, width


def _count(dim: int, *, classes: int, hidden: tuple[int, ...], modulation: bool, context: int) -> int:
    with torch.device("meta"):
        network = EvidenceNetwork(
            1, dim=dim, classes=classes, hidden=hidden, modulation=modulation, context=context
        )
    return sum(weights.numel() for weights in network.parameters())
