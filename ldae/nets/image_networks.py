# SPDX-License-Identifier: Apache-2.0
"""Networks from a whole scan to its outputs, trained end to end: what a frozen code is compared to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from ldae.errors import InputError
from ldae.nets.blocks import group_norm
from ldae.nets.by_path import class_by_path
from ldae.nets.pooling import AttentionPooling
from ldae.nets.semantic import SemanticEncoder, semantic_config

GROUPS = 8
MOST_HEADS = 8
Size = tuple[int, int, int]


class ImageNetwork(nn.Module, ABC):
    """Turns scans [B, 1, X, Y, Z] in [0, 1] into outputs [B, O]: a logit a class, or one number.

    A subclass takes `size`, the sides of the scans in voxels, and `outputs`, their number O, by keyword, and
    arguments of its own with defaults.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] to outputs [B, O]."""


@dataclass(frozen=True)
class NetworkConfig:
    """A network by class path and constructor arguments.

    Attributes:
        path: Import path of an `ImageNetwork`.
        arguments: Its constructor arguments, without `size` and `outputs`.
    """

    path: str = "ldae.nets.image_networks.SupervisedEncoder"
    arguments: dict[str, Any] = field(default_factory=dict)


def make_network(config: NetworkConfig, *, size: Size, outputs: int) -> ImageNetwork:
    """Build the network that a configuration names.

    Raises:
        InputError: The class path does not lead to an image network, or the arguments do not fit it.
    """
    found = class_by_path(config.path, ImageNetwork, what="network")  # type: ignore[type-abstract]
    try:
        return found(size=size, outputs=outputs, **config.arguments)
    except TypeError as error:
        raise InputError(f"arguments of {config.path} must be its arguments: {error}.") from error


class SupervisedEncoder(ImageNetwork):
    """The semantic encoder with a linear layer on its code; with a ResNet as backbone the usual 2.5D network.

    Args:
        size: Sides of the scans, voxels.
        outputs: Number of outputs.
        encoder: Keys of `SemanticConfig`; what is left out has its default.
    """

    def __init__(self, *, size: Size, outputs: int, encoder: dict[str, Any] | None = None) -> None:
        super().__init__()
        config = semantic_config(encoder or {})
        self.encoder = SemanticEncoder(config, size=size)
        self.head = nn.Linear(config.code_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] to outputs [B, O]."""
        out: Tensor = self.head(self.encoder(x))
        return out


def _trunk(channels: tuple[int, ...]) -> nn.Sequential:
    """3x3x3 convolutions, each normalised and followed by a pooling that halves the sides."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((1, *channels)):
        layers += [
            nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
            group_norm(outputs, GROUPS),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(2),
        ]
    return nn.Sequential(*layers)


def _grid(size: Size, levels: int) -> Size:
    """Places along each side after so many halvings.

    Raises:
        InputError: Nothing would be left.
    """
    x, y, z = (side >> levels for side in size)
    if min(x, y, z) < 1:
        raise InputError(f"channels must be few enough for scans of {size} voxels, got {levels} halvings.")
    return x, y, z


class SmallCNN(ImageNetwork):
    """Convolutions and poolings in turns, averaged over places.

    Args:
        size: Sides of the scans, voxels.
        outputs: Number of outputs.
        channels: Channels of each convolution; each halves the sides.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self, *, size: Size, outputs: int, channels: tuple[int, ...] = (16, 32, 64, 128), dropout: float = 0.2
    ) -> None:
        super().__init__()
        _grid(size, len(channels))
        self.trunk = _trunk(tuple(channels))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] to outputs [B, O]."""
        out: Tensor = self.head(self.trunk(x).mean((2, 3, 4)))
        return out


class AttentionCNN(ImageNetwork):
    """The same convolutions; a query of the whole scan attends to the places that are left.

    Args:
        size: Sides of the scans, voxels.
        outputs: Number of outputs.
        channels: Channels of each convolution; each halves the sides.
        dropout: Dropout before the last layer.
    """

    def __init__(
        self, *, size: Size, outputs: int, channels: tuple[int, ...] = (16, 32, 64, 128), dropout: float = 0.2
    ) -> None:
        super().__init__()
        width = channels[-1]
        places = prod(_grid(size, len(channels)))
        self.trunk = _trunk(tuple(channels))
        self.norm = nn.LayerNorm(width)
        heads = next(heads for heads in range(MOST_HEADS, 0, -1) if width % heads == 0)
        self.pooling = AttentionPooling(width, slices=places, code_size=width, heads=heads)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] to outputs [B, O]."""
        tokens = self.norm(rearrange(self.trunk(x), "b c x y z -> b (x y z) c"))
        out: Tensor = self.head(self.pooling(tokens)[0])
        return out


class ResNet3D(ImageNetwork):
    """MONAI's 3D ResNet, untrained.

    Args:
        size: Sides of the scans, voxels.
        outputs: Number of outputs.
        depth: 10, 18, 34, 50, 101, 152 or 200 layers.
        stem_stride: Stride of the first convolution; 2 keeps the memory of full-sized scans in bounds.
    """

    def __init__(self, *, size: Size, outputs: int, depth: int = 18, stem_stride: int = 2) -> None:
        super().__init__()
        # monai takes five seconds to import
        from monai.networks import nets

        make = getattr(nets, f"resnet{depth}", None)
        if make is None:
            raise InputError(f"depth must be one of 10, 18, 34, 50, 101, 152 or 200, got {depth}.")
        self.net = make(spatial_dims=3, n_input_channels=1, num_classes=outputs, conv1_t_stride=stem_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] to outputs [B, O]."""
        out: Tensor = self.net(x)
        return out


class DenseNet3D(ImageNetwork):
    """MONAI's 3D DenseNet, untrained.

    Args:
        size: Sides of the scans, voxels.
        outputs: Number of outputs.
        blocks: Layers of each dense block; (6, 12, 24, 16) is DenseNet-121.
        growth: Channels that each layer adds.
        features: Channels of the first convolution.
        dropout: Dropout after each layer.
    """

    def __init__(
        self,
        *,
        size: Size,
        outputs: int,
        blocks: tuple[int, ...] = (6, 12, 24, 16),
        growth: int = 32,
        features: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        from monai.networks.nets.densenet import DenseNet

        self.net = DenseNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=outputs,
            init_features=features,
            growth_rate=growth,
            block_config=tuple(blocks),
            dropout_prob=dropout,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] to outputs [B, O]."""
        out: Tensor = self.net(x)
        return out
