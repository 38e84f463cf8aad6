# SPDX-License-Identifier: Apache-2.0
"""An ordinary network with as many parameters as a modulated one, to compare it with."""

from __future__ import annotations

from bisect import bisect_left
from math import isqrt

from ldae.heads.evidential import EvidenceNetwork
from ldae.heads.stacked import seeded


def modulated_parameters(dim: int, *, classes: int, context: int = 0) -> int:
    """Number of parameters of a linear evidential classifier behind HaC."""
    return _count(dim, classes=classes, hidden=(), modulation=True, context=context)


def plain_parameters(dim: int, *, classes: int, hidden: tuple[int, ...]) -> int:
    """Number of parameters of an evidential classifier with hidden layers and no modulation."""
    return _count(dim, classes=classes, hidden=hidden, modulation=False, context=0)


def matched_hidden(dim: int, *, classes: int) -> tuple[int, int]:
    """Widths of two hidden layers, as many as HaC has, that come nearest to the number of its parameters.

    Args:
        dim: Width of the code.
        classes: Number of classes.
    """
    wanted = modulated_parameters(dim, classes=classes)

    def count(width: int) -> int:
        return plain_parameters(dim, classes=classes, hidden=(width, width))

    widths = range(1, isqrt(wanted) + 2)  # the second layer alone has width squared
    above = bisect_left(widths, wanted, key=count)
    width = min(widths[max(above - 1, 0) : above + 1], key=lambda width: abs(count(width) - wanted))
    return width, width


def _count(dim: int, *, classes: int, hidden: tuple[int, ...], modulation: bool, context: int) -> int:
    with seeded(0):
        network = EvidenceNetwork(
            1, dim=dim, classes=classes, hidden=hidden, modulation=modulation, context=context
        )
    return sum(weights.numel() for weights in network.parameters())
