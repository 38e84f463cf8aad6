# SPDX-License-Identifier: Apache-2.0
"""The network of the code sampler: an MLP whose every layer sees the noised code again.

As the latent DPM of DiffAE (arXiv 2111.15640, appendix A.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ldae.configured import check_numbers
from ldae.nets.blocks import TimeEmbedding, zeroed

TIME_BASE = 64
UNKNOWN = 0
"""Label of a code whose class is not known, or not told."""


@dataclass(frozen=True)
class CodeDenoiserConfig:
    """Size of the MLP.

    Attributes:
        width: Width of the hidden layers.
        layers: Number of layers, the last one included.
        embedding: Width of the embedding of noise level and class.
        dropout: Dropout after each hidden layer.
    """

    width: int = 2048
    layers: int = 10
    embedding: int = 512
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Stop on numbers of which no network can be built."""
        least = {"width": 1, "layers": 2, "embedding": 1, "dropout": 0}
        check_numbers(self, "network", least=least, below={"dropout": 1})


class _HiddenLayer(nn.Module):
    """Linear, scaled by the embedding, LayerNorm, SiLU."""

    def __init__(self, inputs: int, config: CodeDenoiserConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, config.width)
        self.scale = nn.Linear(config.embedding, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scaled = self.linear(x) * (1 + self.scale(functional.silu(embedding)))
        out: Tensor = self.dropout(functional.silu(self.norm(scaled)))
        return out


class CodeDenoiser(nn.Module):
    """MLP with skip inputs over codes, told the noise level and, where known, the class.

    Args:
        config: Size.
        size: Numbers K in a code.
        classes: Number of classes that can be told.
    """

    def __init__(self, config: CodeDenoiserConfig, *, size: int, classes: int = 0) -> None:
        super().__init__()
        self.config = config
        self.time = TimeEmbedding(TIME_BASE, config.embedding)
        self.label = nn.Embedding(classes + 1, config.embedding)
        widths = [size, *[config.width + size] * (config.layers - 2)]
        self.hidden = nn.ModuleList(_HiddenLayer(inputs, config) for inputs in widths)
        self.output = zeroed(nn.Linear(config.width + size, size))

    def forward(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Noised codes [B, K], levels [B] and labels [B] (0: unknown) to the output, float32 [B, K]."""
        embedding = self.time(t) + self.label(label)
        x = z
        for layer in self.hidden:
            x = torch.cat([layer(x, embedding), z], dim=1)
        out: Tensor = self.output(x).float()
        return out
