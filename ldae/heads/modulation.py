# SPDX-License-Identifier: Apache-2.0
"""HaC: a code scaled and shifted, feature by feature and through a gate, by what is known of the scan."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldae.heads.stacked import StackedLinear

WIDTH = 64
GATE_BIAS = -1.0
CONTEXT_DROPOUT = 0.1


class HaC(nn.Module):
    """h = z + a (gamma z + beta), where (gamma, beta) and the gate a come from the code and its context.

    CLEAR-Mamba's hyper-adaptive conditioning (arXiv 2601.20601) on a pooled code, where it loses nothing: its
    parameters are constant over space. gamma and beta start at zero, so that the first output is the code.

    Args:
        dim: Width D of the code.
        context_dim: Width of the context (site, scanner, quality, age); 0 conditions on the code alone.
        networks: Number R of copies side by side.
    """

    def __init__(self, dim: int, context_dim: int = 0, *, networks: int = 1) -> None:
        super().__init__()
        self.first = StackedLinear(networks, dim + context_dim, WIDTH)
        self.second = StackedLinear(networks, WIDTH, WIDTH)
        self.change = StackedLinear(networks, WIDTH, 2 * dim, zero=True)
        self.gate = StackedLinear(networks, WIDTH, dim)
        nn.init.constant_(self.gate.bias, GATE_BIAS)
        self.missing = nn.Parameter(torch.zeros(networks, 1, context_dim))

    def forward(self, code: Tensor, context: Tensor | None = None) -> Tensor:
        """Codes [R, N, D], context [R, N, K] (NaN where unknown) to codes [R, N, D].

        An unknown value counts as a learned one. In training, one in ten is taken for unknown.
        """
        gate, gamma, beta = self._affine(code, context)
        return code + gate * (gamma * code + beta)

    def strength(self, code: Tensor, context: Tensor | None = None) -> Tensor:
        """Mean over features of (a gamma)^2 [R, N]: by how much of itself each code is changed."""
        gate, gamma, _ = self._affine(code, context)
        return (gate * gamma).square().mean(2)

    def _affine(self, code: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """a, gamma and beta [R, N, D]."""
        seen = code if context is None else torch.cat([code, self._known(context)], 2)
        h = _normed(self.second(_normed(self.first(seen))))
        gamma, beta = self.change(h).chunk(2, 2)
        return torch.sigmoid(self.gate(h)), gamma, beta

    def _known(self, context: Tensor) -> Tensor:
        unknown = context.isnan()
        if self.training:
            unknown = unknown | (torch.rand(context.shape) < CONTEXT_DROPOUT)
        return torch.where(unknown, self.missing, context)


def _normed(h: Tensor) -> Tensor:
    return functional.gelu(functional.layer_norm(h, h.shape[-1:]))
