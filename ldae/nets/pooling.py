# SPDX-License-Identifier: Apache-2.0
"""From one token a slice to one vector a scan. Each returns the vector and how much each slice counted."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from einops import rearrange
from torch import Tensor, nn

PoolingName = Literal["tokens", "queries", "attention"]


class Pooling(Protocol):
    """Tokens [B, S, W] to a vector [B, D] and slice weights [B, S] that sum to one."""

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]: ...


def _positions(slices: int, width: int) -> Tensor:
    """Sinusoidal positional code [S, W] (arXiv 1706.03762, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) / width * -torch.log(torch.tensor(10000.0)))
    angles = torch.arange(slices)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


class TokenPooling(nn.Module):
    """Every slice keeps its own say: tokens narrowed, weighted, laid side by side, and projected.

    Args:
        width: Width W of a token.
        slices: Number of slices S.
        code_size: Width D of the result.
        token_size: Width to which each token is narrowed first.
    """

    def __init__(self, width: int, *, slices: int, code_size: int, token_size: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(width, token_size)
        self.score = nn.Linear(token_size, 1)
        self.project = nn.Linear(slices * token_size, code_size)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, S, W] to [B, D] and weights [B, S]."""
        narrow = self.narrow(tokens)
        weights = self.score(narrow).squeeze(2).softmax(1)
        weighted = narrow * (weights * weights.shape[1])[:, :, None]
        return self.project(weighted.flatten(1)), weights


class QueryPooling(nn.Module):
    """A few learned queries attend to the slices; their answers are laid side by side and projected.

    Args:
        width: Width W of a token.
        slices: Number of slices S.
        code_size: Width D of the result.
        queries: Number of learned queries.
        heads: Attention heads.
    """

    positions: Tensor

    def __init__(self, width: int, *, slices: int, code_size: int, queries: int = 8, heads: int = 8) -> None:
        super().__init__()
        self.register_buffer("positions", _positions(slices, width), persistent=False)
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.project = nn.Linear(queries * width, code_size)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, S, W] to [B, D] and weights [B, S]."""
        tokens = tokens + self.positions
        queries = self.queries.expand(len(tokens), -1, -1)
        answers, weights = self.attention(queries, tokens, tokens)
        return self.project(answers.flatten(1)), weights.mean(1)


class AttentionPooling(nn.Module):
    """One global query, sum softmax(w h + b) h, then one cross-attention over the slices; as published.

    The query's weights are the slice attention that is returned (LDAE, arXiv 2504.08635, section 3).

    Args:
        width: Width W of a token.
        slices: Number of slices S.
        code_size: Width D of the result.
        heads: Attention heads.
    """

    positions: Tensor

    def __init__(self, width: int, *, slices: int, code_size: int, heads: int = 8) -> None:
        super().__init__()
        self.register_buffer("positions", _positions(slices, width), persistent=False)
        self.score = nn.Linear(width, 1)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.project = nn.Identity() if width == code_size else nn.Linear(width, code_size)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, S, W] to [B, D] and weights [B, S]."""
        tokens = tokens + self.positions
        weights = self.score(tokens).squeeze(2).softmax(1)
        query = torch.einsum("bs,bsw->bw", weights, tokens)
        answer, _ = self.attention(rearrange(query, "b w -> b 1 w"), tokens, tokens, need_weights=False)
        return self.project(answer.squeeze(1)), weights


def make_pooling(name: PoolingName, *, width: int, slices: int, code_size: int, token_size: int) -> Pooling:
    """The pooling of that name."""
    if name == "tokens":
        return TokenPooling(width, slices=slices, code_size=code_size, token_size=token_size)
    if name == "queries":
        return QueryPooling(width, slices=slices, code_size=code_size)
    return AttentionPooling(width, slices=slices, code_size=code_size)
