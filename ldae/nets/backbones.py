# SPDX-License-Identifier: Apache-2.0
"""Slice backbones: single-channel 2D images in, one token each out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional

from ldae.errors import InputError
from ldae.nets.by_path import class_by_path

MOST_DEPTHS = 5  # LaDiNE's (arXiv 2310.15952)


class SliceBackbone(nn.Module, ABC):
    """Turns slices [N, 1, H, W] in [0, 1] into tokens [N, `width`]."""

    width: int

    @abstractmethod
    def forward(self, slices: Tensor) -> Tensor:
        """Slices [N, 1, H, W] to tokens [N, width]."""

    @abstractmethod
    def with_depths(self, slices: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens [N, width] and features averaged over the slice [N, w_k], one a stage, shallow first.

        All of one pass.
        """


@dataclass(frozen=True)
class BackboneConfig:
    """A backbone by class path and constructor arguments.

    Attributes:
        path: Import path of a `SliceBackbone`.
        arguments: Its constructor arguments.
    """

    path: str = "ldae.nets.backbones.TimmBackbone"
    arguments: dict[str, Any] = field(default_factory=dict)


def make_backbone(config: BackboneConfig) -> SliceBackbone:
    """Build the backbone that a configuration names.

    Raises:
        InputError: The class path does not lead to a slice backbone, or the arguments do not fit it.
    """
    found = class_by_path(config.path, SliceBackbone, what="backbone")  # type: ignore[type-abstract]
    try:
        return found(**config.arguments)
    except TypeError as error:
        raise InputError(f"arguments of {config.path} must be its arguments: {error}.") from error


class ConvBackbone(SliceBackbone):
    """Small network for small scans: a patch stem, then strided convolutions.

    The token keeps where things are.

    Args:
        channels: Channels of the stem and of each convolution after it.
        patch: Side of the stem's patches, pixels.
        grid: Places along the two sides of the slice that the token keeps; the last features have as many, or
            are averaged to it.
    """

    def __init__(
        self, channels: tuple[int, ...] = (32, 64), patch: int = 4, grid: tuple[int, int] = (4, 5)
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels[0], patch, stride=patch)
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1) for inputs, outputs in pairwise(channels)
        )
        self.grid = (grid[0], grid[1])
        self.width = channels[-1] * grid[0] * grid[1]

    def forward(self, slices: Tensor) -> Tensor:
        """Slices [N, 1, H, W] to tokens [N, width]."""
        *_, last = self._features(slices)
        return self._token(last)

    def with_depths(self, slices: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens, and what the stem and each convolution say."""
        found = list(self._features(slices))
        return self._token(found[-1]), [features.mean((2, 3)) for features in found]

    def _features(self, slices: Tensor) -> Iterator[Tensor]:
        features = slices
        for conv in (self.stem, *self.convs):
            features = functional.gelu(conv(features))
            yield features

    def _token(self, features: Tensor) -> Tensor:
        if tuple(features.shape[2:]) != self.grid:
            features = functional.adaptive_avg_pool2d(features, self.grid)
        return features.flatten(1)


class TimmBackbone(SliceBackbone):
    """A 2D network of timm, its first convolution summed to one channel.

    Published: ConvNeXt-Small, ImageNet.

    Args:
        name: timm's name of the architecture.
        pretrained: Whether to start from published weights. They are taken from `weights`, or else from the
            local Hugging Face cache; nothing is fetched here.
        weights: safetensors file with the architecture's weights for three channels.
        checkpointing: Recompute activations in the backward pass, to save memory.
    """

    def __init__(
        self,
        name: str = "convnext_small.fb_in22k_ft_in1k",
        pretrained: bool = True,
        weights: str | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        import timm

        if pretrained and weights is None:
            weights = _cached_timm_weights(name)
        if weights is not None and not os.path.isfile(weights):
            raise FileNotFoundError(
                f"backbone weights {weights} are missing. Give the path of a safetensors file."
            )
        self.net = timm.create_model(name, in_chans=1, num_classes=0, checkpoint_path=weights or "")
        self.width = cast(int, self.net.num_features)
        # block by block: the network as a whole would be recomputed with all its activations at once
        cast(Any, self.net).set_grad_checkpointing(checkpointing)

    def forward(self, slices: Tensor) -> Tensor:
        """Slices [N, 1, H, W] to tokens [N, width]."""
        tokens: Tensor = self.net(slices)
        return tokens

    def with_depths(self, slices: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Tokens, and each stage of a pyramid such as ConvNeXt (four), or the first five blocks of a ViT."""
        net = cast(Any, self.net)
        count = min(MOST_DEPTHS, len(net.feature_info))
        last, maps = net.forward_intermediates(slices, indices=list(range(count)))
        return net.forward_head(last), [features.mean((2, 3)) for features in maps]


def _cached_timm_weights(name: str) -> str:
    from huggingface_hub import try_to_load_from_cache

    repository = f"timm/{name}"
    for file_name in ("model.safetensors", "pytorch_model.bin"):
        found = try_to_load_from_cache(repository, file_name)
        if isinstance(found, str) and found.endswith(".safetensors"):
            return found
    raise InputError(
        f"ImageNet weights of backbone {name!r} are not in the local cache. Run "
        f"`hf download {repository} model.safetensors` once where there is a network, give their path as "
        "backbone.arguments.weights, or start untrained with backbone.arguments.pretrained: false."
    )
