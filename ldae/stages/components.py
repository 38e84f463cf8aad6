# SPDX-License-Identifier: Apache-2.0
"""Networks from their component folders."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ldae.data.artefact import CONFIG_NAME, Component, load_component, whole
from ldae.diffusion.code_sampler import CodeAxes, CodeSampler
from ldae.diffusion.model import LatentDenoiser
from ldae.diffusion.schedule import Schedule, ScheduleConfig
from ldae.errors import CheckpointError
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.nets.backbones import BackboneConfig
from ldae.nets.code_denoiser import CodeDenoiser, CodeDenoiserConfig
from ldae.nets.estimator import EstimatorConfig, GradientEstimator
from ldae.nets.image_networks import ImageNetwork, NetworkConfig, make_network
from ldae.nets.normaliser import LatentNormaliser
from ldae.nets.semantic import SemanticEncoder, semantic_config
from ldae.nets.unet import UNet, UNetConfig


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def load_weights(module: nn.Module, tensors: dict[str, Tensor], *, what: str) -> None:
    """Load weights into a module, every key accounted for.

    Raises:
        CheckpointError: Names or shapes differ; the message lists them.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"weights of {what} must fit its configuration: missing {missing or 'none'}, unexpected "
            f"{unexpected or 'none'}, other shape {shapes or 'none'}."
        )
    module.load_state_dict(tensors)


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@dataclass
class Denoiser:
    """Stage 2's result: the denoiser, and the statistics that its latents are normalised by."""

    model: LatentDenoiser
    normaliser: LatentNormaliser


@dataclass
class Representation:
    """Stage 3's result: semantic encoder and gradient estimator."""

    encoder: SemanticEncoder
    estimator: GradientEstimator


@dataclass
class Supervised:
    """A network that was trained end to end, and what its outputs mean.

    Attributes:
        network: Scans [B, 1, X, Y, Z] to outputs [B, O].
        name: What it is called.
        target: The column that it predicts.
        classes: Class of each output; empty for a number.
        mean: Of the training scans' numbers.
        std: Of the same.
    """

    network: ImageNetwork
    name: str
    target: str
    classes: list[Any]
    mean: float
    std: float

    def predict(self, volumes: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] in [0, 1] to probabilities [B, C], or to numbers [B]."""
        outputs: Tensor = self.network(volumes).float()
        return outputs.softmax(1) if self.classes else outputs[:, 0] * self.std + self.mean


def load_autoencoder(folder: Path) -> tuple[Autoencoder, Component]:
    """The autoencoder of a component folder, in eval mode."""
    component = load_component(folder, "autoencoder")
    with whole(folder / CONFIG_NAME):
        autoencoder = Autoencoder(AutoencoderConfig(**_tuples(component.config)))
    load_weights(autoencoder, component.tensors, what=str(folder))
    return autoencoder.eval(), component


def load_denoiser(folder: Path) -> tuple[Denoiser, Component]:
    """The denoiser of a component folder, in eval mode."""
    component = load_component(folder, "denoiser")
    with whole(folder / CONFIG_NAME):
        unet = UNet(UNetConfig(**_tuples(component.config["unet"])))
    load_weights(unet, _with_prefix(component.tensors, "unet."), what=str(folder))
    statistics = _with_prefix(component.tensors, "normaliser.")
    with whole(folder / CONFIG_NAME):
        normaliser = LatentNormaliser(statistics["mean"], statistics["std"])
        model = LatentDenoiser(
            unet,
            schedule=Schedule(ScheduleConfig(**component.config["schedule"])),
            prediction=component.config["prediction"],
            prior=component.tensors.get("prior"),
        )
    return Denoiser(model.eval(), normaliser), component


def _without_other_weights(encoder: dict[str, Any]) -> dict[str, Any]:
    """An encoder's configuration whose weights are in a component: neither a cache nor a file is asked."""
    backbone = {**asdict(BackboneConfig()), **encoder.get("backbone", {})}
    if backbone["path"] == BackboneConfig.path:
        backbone["arguments"] = {**backbone["arguments"], "pretrained": False, "weights": None}
    return {**encoder, "backbone": backbone}


def load_supervised(folder: Path) -> tuple[Supervised, Component]:
    """The network of a component folder, in eval mode."""
    component = load_component(folder, "supervised")
    with whole(folder / CONFIG_NAME):
        config = component.config
        network = NetworkConfig(**config["network"])
        if network.path == NetworkConfig.path:
            encoder = _without_other_weights(network.arguments.get("encoder") or {})
            network = replace(network, arguments={**network.arguments, "encoder": encoder})
        classes = config.get("classes", [])
        built = make_network(network, size=tuple(config["size"]), outputs=len(classes) or 1)
        supervised = Supervised(
            built.eval(),
            name=config["name"],
            target=config["target"],
            classes=classes,
            mean=config.get("mean", 0.0),
            std=config.get("std", 1.0),
        )
    load_weights(built, component.tensors, what=str(folder))
    return supervised, component


def load_representation(folder: Path, *, unet: UNetConfig) -> tuple[Representation, Component]:
    """Semantic encoder and gradient estimator of a component folder, in eval mode."""
    component = load_component(folder, "representation")
    with whole(folder / CONFIG_NAME):
        config = component.config
        semantic = semantic_config(_without_other_weights(config["encoder"]))
        encoder = SemanticEncoder(semantic, size=tuple(config["size"]))
        estimator = GradientEstimator(
            EstimatorConfig(**config["estimator"]),
            unet=unet,
            code_size=encoder.config.code_size,
            latent_shape=tuple(config["latent_shape"]),
        )
    load_weights(encoder, _with_prefix(component.tensors, "encoder."), what=f"{folder} (encoder)")
    load_weights(estimator, _with_prefix(component.tensors, "estimator."), what=f"{folder} (estimator)")
    return Representation(encoder.eval(), estimator.eval()), component


def load_code_sampler(folder: Path) -> tuple[CodeSampler, Component]:
    """The code sampler of a component folder, in eval mode."""
    component = load_component(folder, "code_sampler")
    config, tensors = component.config, component.tensors
    axes = CodeAxes(*(tensors[name] for name in CodeAxes._fields))
    network = CodeDenoiser(
        CodeDenoiserConfig(**config["network"]), size=axes.axes.shape[1], classes=len(config["classes"])
    )
    load_weights(network, _with_prefix(tensors, "network."), what=str(folder))
    schedule = Schedule(ScheduleConfig(**config["schedule"]))
    sampler = CodeSampler(network, axes, schedule=schedule, classes=config["classes"])
    return sampler.requires_grad_(False).eval(), component
