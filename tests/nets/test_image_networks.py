# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ldae.errors import InputError
from ldae.nets.image_networks import ImageNetwork, NetworkConfig, make_network
from ldae.nets.semantic import SemanticConfig, semantic_config

ROOM = "ldae.nets.image_networks"
SIZE = (16, 24, 16)
STEPS = 30
CONV = {
    "path": "ldae.nets.backbones.ConvBackbone",
    "arguments": {"channels": [8], "patch": 4, "grid": [4, 6]},
}
RESNET = {
    "path": "ldae.nets.backbones.TimmBackbone",
    "arguments": {"name": "test_resnet", "pretrained": False},
}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "encoder": ("SupervisedEncoder", {"encoder": {"code_size": 16, "token_size": 8, "backbone": CONV}}),
    "resnet_slices": (
        "SupervisedEncoder",
        {"encoder": {"code_size": 16, "token_size": 8, "backbone": RESNET}},
    ),
    "cnn": ("SmallCNN", {"channels": [8, 16]}),
    "cnn_attention": ("AttentionCNN", {"channels": [8, 16]}),
    "resnet": ("ResNet3D", {"depth": 10, "stem_stride": 2}),
    "densenet": ("DenseNet3D", {"blocks": [2, 2], "growth": 8, "features": 8}),
}


def network(name: str, *, outputs: int = 2) -> ImageNetwork:
    path, arguments = NETWORKS[name]
    torch.manual_seed(0)
    return make_network(NetworkConfig(f"{ROOM}.{path}", arguments), size=SIZE, outputs=outputs)


def cubes() -> tuple[Tensor, Tensor]:
    """Eight noisy volumes, every other one with a bright cube."""
    volumes = 0.2 * torch.rand(8, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8) % 2
    volumes[labels == 1, :, 4:9, 8:13, 6:11] += 0.7
    return volumes, labels


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "resnet" else ()) for name in NETWORKS]
)
def test_it_learns_eight_volumes_by_heart(name: str) -> None:
    net = network(name)
    volumes, labels = cubes()
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    # few steps, in which running statistics must forget where they began, and the weights come to rest
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
            part.momentum = 0.5
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=STEPS)
    for _ in range(STEPS):
        loss = functional.cross_entropy(net(volumes), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    net.eval()
    with torch.inference_mode():
        outputs = net(volumes)
        # what is said of a scan does not depend on the others
        torch.testing.assert_close(net(volumes[:1]), outputs[:1], atol=1e-4, rtol=1e-4)
    assert outputs.shape == (8, 2)
    assert outputs.argmax(1).tolist() == labels.tolist()


def test_what_a_configuration_says_wrongly_is_told() -> None:
    def make(path: str, **arguments: object) -> None:
        make_network(NetworkConfig(path, dict(arguments)), size=SIZE, outputs=2)

    with pytest.raises(InputError, match=r"network path must name a class, got 'cnn'"):
        make("cnn")
    with pytest.raises(InputError, match=r"network path must name a .*ImageNetwork, got torch.nn.Linear"):
        make("torch.nn.Linear")
    with pytest.raises(InputError, match=r"arguments of .*SmallCNN must be its arguments: .*'width'"):
        make(f"{ROOM}.SmallCNN", width=3)
    with pytest.raises(InputError, match=r"channels must be few enough for scans of \(16, 24, 16\) voxels"):
        make(f"{ROOM}.SmallCNN", channels=[2, 2, 2, 2, 2])
    with pytest.raises(InputError, match="depth must be one of 10, 18"):
        make(f"{ROOM}.ResNet3D", depth=19)
    with pytest.raises(InputError, match="pooling must be one of tokens, queries, attention, got 'mean'"):
        make(f"{ROOM}.SupervisedEncoder", encoder={"pooling": "mean"})
    with pytest.raises(InputError, match="keys of a semantic encoder must be those of SemanticConfig"):
        make(f"{ROOM}.SupervisedEncoder", encoder={"width": 3})


def test_a_table_of_values_is_a_semantic_configuration() -> None:
    assert semantic_config({}) == SemanticConfig()
    assert semantic_config({"backbone": CONV}).backbone.path == CONV["path"]
