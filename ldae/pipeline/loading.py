# SPDX-License-Identifier: Apache-2.0
"""Networks from the folders of their components, checked to belong together."""

from __future__ import annotations

from pathlib import Path

import torch

from ldae.data.artefact import NETWORKS
from ldae.nets.blocks import to_channels_last
from ldae.pipeline.folder import PipelineIndex, check_component, check_sha256, component_folder
from ldae.pipeline.networks import Networks, choose_device
from ldae.stages.components import load_autoencoder, load_denoiser, load_representation


def load_networks(
    parent: Path, *, index: PipelineIndex, device: str = "auto", dtype: torch.dtype = torch.float32
) -> Networks:
    """The three stages' networks from folders beside each other.

    Raises:
        FileNotFoundError: One is missing; the message says what makes it.
        CheckpointError: One is damaged, or not what the index names, or not made with the others.
        InputError: This machine has no such device.
    """
    place = choose_device(device)
    for kind in NETWORKS:
        # before the network is built: an edited configuration may ask for one of any size
        check_sha256(component_folder(parent, kind), kind=kind, index=index)
    autoencoder, first = load_autoencoder(component_folder(parent, "autoencoder"))
    denoiser, second = load_denoiser(component_folder(parent, "denoiser"))
    folder = component_folder(parent, "representation")
    representation, third = load_representation(folder, unet=denoiser.model.unet.config)
    for component in (first, second, third):
        check_component(component, index=index, folder=parent)
    networks = Networks(autoencoder, denoiser, representation=representation, dtype=dtype).to(place)
    if place.type == "cpu":
        to_channels_last(networks)
    return networks
