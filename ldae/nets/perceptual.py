# SPDX-License-Identifier: Apache-2.0
"""Perceptual distance of volumes: LPIPS on a share of their slices along each axis ("fake 3D")."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ldae.errors import InputError

SQUEEZENET_FILE = "squeezenet1_1-b8a52dc0.pth"
# How the slices of each plane become a batch, and the axis that they are counted along.
PLANES = (
    ("b 1 x y z -> (b x) 1 y z", 2),
    ("b 1 x y z -> (b y) 1 x z", 3),
    ("b 1 x y z -> (b z) 1 x y", 4),
)


@dataclass(frozen=True)
class PerceptualConfig:
    """LPIPS-squeeze (arXiv 1801.03924).

    Attributes:
        weights: File with torchvision's SqueezeNet 1.1 weights; None looks into torch's local cache.
        slice_share: Share of the slices along each axis on which the distance is taken, 0..1.
    """

    weights: str | None = None
    slice_share: float = 0.25


def _squeezenet_weights(config: PerceptualConfig) -> Path:
    path = (
        Path(config.weights)
        if config.weights
        else Path(torch.hub.get_dir()) / "checkpoints" / SQUEEZENET_FILE
    )
    if not path.is_file():
        raise InputError(
            f"SqueezeNet weights of the perceptual loss must be at {path}, but there is no such file. Run "
            "`python -c \"import torchvision; torchvision.models.squeezenet1_1(weights='DEFAULT')\"` once "
            "where there is a network, give their path as model.init_args.perceptual.weights, or switch the "
            "loss off with model.init_args.loss.perceptual: 0."
        )
    return path


def make_lpips(config: PerceptualConfig) -> nn.Module:
    """LPIPS-squeeze from local weights; nothing is fetched.

    Raises:
        InputError: The backbone's weights are not there.
    """
    weights = torch.load(_squeezenet_weights(config), weights_only=True, map_location="cpu")
    # lpips and torchvision take four seconds to import
    from lpips import LPIPS

    net: Any = LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    # lpips cuts the backbone into slices, `slice3.5.squeeze.weight`, but keeps the index of every layer
    own = net.net.state_dict()
    net.net.load_state_dict({name: weights[f"features.{name.split('.', 1)[1]}"] for name in own})
    frozen: nn.Module = net.eval().requires_grad_(False)
    return frozen


class SlicePerceptualLoss(nn.Module):
    """Mean LPIPS over randomly drawn slices of all three planes."""

    def __init__(self, config: PerceptualConfig) -> None:
        super().__init__()
        self.slice_share = config.slice_share
        self.net = make_lpips(config)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Volumes [B, 1, X, Y, Z] in [0, 1] to a scalar; LPIPS itself wants three channels in [-1, 1]."""
        distances = []
        for pattern, axis in PLANES:
            count = max(1, round(self.slice_share * a.shape[axis]))
            chosen = torch.randperm(a.shape[axis], device=a.device)[:count]
            pair = [rearrange(volume.index_select(axis, chosen), pattern) for volume in (a, b)]
            left, right = (2 * slices.expand(-1, 3, -1, -1) - 1 for slices in pair)
            distances.append(self.net(left, right).mean())
        return torch.stack(distances).mean()
