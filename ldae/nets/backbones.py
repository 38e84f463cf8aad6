# SPDX-License-Identifier: Apache-2.0
"""Slice backbones: single-channel 2D images in, one token each out."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ldae.errors import InputError
from ldae.nets.blocks import group_norm


class SliceBackbone(nn.Module, ABC):
    """Turns slices [N, 1, H, W] in [0, 1] into tokens [N, `width`]."""

    width: int

    @abstractmethod
    def forward(self, slices: Tensor) -> Tensor:
        """Slices [N, 1, H, W] to tokens [N, width]."""


@dataclass(frozen=True)
class BackboneConfig:
    """A backbone by class path and constructor arguments.

    Attributes:
        class_path: Import path of a `SliceBackbone`.
        init_args: Its constructor arguments.
    """

    class_path: str = "ldae.nets.backbones.TimmBackbone"
    init_args: dict[str, Any] = field(default_factory=dict)


def make_backbone(config: BackboneConfig) -> SliceBackbone:
    """Build the backbone that a configuration names.

    Raises:
        InputError: The class path does not lead to a slice backbone, or the arguments do not fit it.
    """
    module_name, _, class_name = config.class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"backbone class_path must name a class, got {config.class_path!r}: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, SliceBackbone)):
        raise InputError(f"backbone class_path must name a ldae.nets.backbones.SliceBackbone, got {config.class_path}.")
    try:
        return found(**config.init_args)
    except TypeError as error:
        raise InputError(f"init_args of {config.class_path} must be its arguments: {error}.") from error


class ConvBackbone(SliceBackbone):
    """Small strided convolutional network, for small scans; average and maximum over the slice at the end.

    Args:
        channels: Channels of each level; every level halves the slice.
        groups: Groups of the normalisations.
    """

    def __init__(self, channels: tuple[int, ...] = (32, 64, 128), groups: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for outputs in channels:
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), group_norm(outputs, groups), nn.SiLU()]
            layers += [nn.Conv2d(outputs, outputs, 3, padding=1), group_norm(outputs, groups), nn.SiLU()]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.width = 2 * inputs

    def forward(self, slices: Tensor) -> Tensor:
        """Slices [N, 1, H, W] to tokens [N, width]."""
        features = self.layers(slices)
        return torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)


class TimmBackbone(SliceBackbone):
    """A 2D network of timm, its first convolution summed to one channel (published: ConvNeXt-Small, ImageNet).

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
            raise FileNotFoundError(f"backbone weights {weights} are missing. Give the path of a safetensors file.")
        self.net = timm.create_model(name, in_chans=1, num_classes=0, checkpoint_path=weights or "")
        self.width = int(self.net.num_features)
        self.checkpointing = checkpointing

    def forward(self, slices: Tensor) -> Tensor:
        """Slices [N, 1, H, W] to tokens [N, width]."""
        if self.checkpointing and self.training:
            out: Tensor = checkpoint(self.net, slices, use_reentrant=False)
            return out
        tokens: Tensor = self.net(slices)
        return tokens


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
        "backbone.init_args.weights, or start untrained with backbone.init_args.pretrained: false."
    )
