# SPDX-License-Identifier: Apache-2.0
"""How much memory a training step takes, found without taking it.

The networks are made of tensors that have a shape and no content. A forward and a backward pass are walked
through with them, and what is alive at any moment is added up. Weights, their average and Adam's two moments
stand beside it. A GPU needs more: its context, the convolutions' workspace and what the allocator cannot use;
`Need.on_device` allows for these.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldae.diffusion.model import GuidedDiffusion, LatentDenoiser
from ldae.diffusion.prediction import add_noise
from ldae.diffusion.schedule import Schedule
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.nets.backbones import BackboneConfig, SliceBackbone, TimmBackbone, make_backbone
from ldae.nets.by_path import class_by_path
from ldae.nets.estimator import EstimatorConfig, GradientEstimator
from ldae.nets.half_norms import norms_in_float32
from ldae.nets.medmamba import MedMambaBackbone
from ldae.nets.selective_scan import MOST_STATES
from ldae.nets.semantic import SemanticEncoder, semantic_config
from ldae.nets.unet import UNet, UNetConfig

if TYPE_CHECKING:
    from ldae.stages.autoencoder import AutoencoderLossConfig

WEIGHT_BYTES = 16
"""Of a trained weight beside its gradient: itself, its average, and Adam's two moments, float32 each."""
ALLOWANCE = 1.1
CONTEXT_BYTES = 10**9
LEVEL = 500
MEASURED = (1, 8, 32)
"""Batches that are walked through."""
MEASURED_SCANS = (1, 2, 8)
"""The same for MedMamba, whose selective scans take six seconds a scan to walk through."""

Settings = Mapping[str, Any]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are alive, and remembers the most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what comes out."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return out

    def _note(self, storage: Any) -> None:
        if storage in self._known:
            return
        size = int(storage.nbytes())
        self._known.add(storage)
        weakref.finalize(storage, self._forget, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, size: int) -> None:
        self.live -= size


@dataclass(frozen=True)
class Need:
    """What one training step of a stage takes.

    Attributes:
        stage: Kind of the stage.
        switched: Whether activations are recomputed in the backward pass.
        batch: Scans in a batch.
        trained: Trained weights.
        frozen: Frozen weights.
        step_bytes: Most that is alive during forward and backward pass, gradients included.
    """

    stage: str
    switched: bool
    batch: int
    trained: int
    frozen: int
    step_bytes: int

    @property
    def total_bytes(self) -> int:
        """With weights, average and the optimiser's moments."""
        return self.trained * WEIGHT_BYTES + self.frozen * 4 + self.step_bytes

    @property
    def on_device(self) -> int:
        """With the allowance for what a GPU needs besides."""
        return round(self.total_bytes * ALLOWANCE) + CONTEXT_BYTES


@dataclass
class StageNetworks:
    """Networks of a stage with random weights, and the loss of a batch of so many random scans."""

    trained: list[nn.Module]
    frozen: list[nn.Module]
    loss: Callable[[int], Tensor]


def _settings(model: Settings, key: str) -> dict[str, Any]:
    """A table of a model's arguments; as in `fit`, one that is left out or null has its defaults."""
    values = model.get(key) or {}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def autoencoder_config(models: Mapping[str, Settings]) -> AutoencoderConfig:
    """The form of stage 1's network."""
    return AutoencoderConfig(**_settings(models["autoencoder"], "autoencoder"))


def _backbone_class(model: Settings) -> type[SliceBackbone]:
    path = semantic_config(model.get("encoder") or {}).backbone.path
    return class_by_path(path, SliceBackbone, what="backbone")  # type: ignore[type-abstract]


def _backbone(model: Settings, *, switched: bool) -> BackboneConfig:
    """Stage 3's backbone with random weights, and with its switch, if it has one, as asked."""
    config = semantic_config(model.get("encoder") or {}).backbone
    arguments = dict(config.arguments)
    kind = _backbone_class(model)
    if issubclass(kind, TimmBackbone):
        arguments |= {"pretrained": False, "weights": None}
    if "checkpointing" in inspect.signature(kind).parameters:
        arguments["checkpointing"] = switched
    return replace(config, arguments=arguments)


def has_switch(stage: str, models: Mapping[str, Settings]) -> bool:
    """Whether a stage can recompute activations in the backward pass; arguments as in `measure_need`."""
    if stage != "representation":
        return stage == "autoencoder"
    config = _backbone(models[stage], switched=True)
    if "checkpointing" not in config.arguments:
        return False
    try:
        with torch.device("meta"):
            make_backbone(config)
    except AssertionError:  # so timm says that an architecture cannot
        return False
    return True


def _autoencoder(config: AutoencoderConfig, model: Settings, *, size: tuple[int, int, int]) -> StageNetworks:
    # with Lightning, takes three seconds to import
    from ldae.stages.autoencoder import AutoencoderLossConfig

    net = Autoencoder(config).train()
    weights = AutoencoderLossConfig(**_settings(model, "loss"))
    trained: list[nn.Module] = [net]
    discriminator = _discriminator(weights) if weights.adversarial else None
    if discriminator is not None:
        trained.append(discriminator)

    def loss(batch: int) -> Tensor:
        x = torch.rand(batch, 1, *size)
        mean, sigma = net.encode(x)
        found = net.decode(mean + sigma * torch.randn_like(sigma)).float()
        total = functional.l1_loss(found, x) + mean.float().square().sum() + sigma.float().square().sum()
        if discriminator is not None:
            total = total + (discriminator(found)[-1].float() - 1).square().mean()
        return total

    return StageNetworks(trained, [], loss)


def _discriminator(weights: AutoencoderLossConfig) -> nn.Module:
    from monai.networks.nets.patchgan_discriminator import PatchDiscriminator

    net: nn.Module = PatchDiscriminator(
        spatial_dims=3,
        channels=weights.discriminator_channels,
        in_channels=1,
        num_layers_d=weights.discriminator_layers,
    )
    return net


def _denoiser(unet: UNetConfig, *, latent: tuple[int, ...]) -> StageNetworks:
    schedule = Schedule()
    model = LatentDenoiser(UNet(unet), schedule=schedule, prediction="v")

    def loss(batch: int) -> Tensor:
        z0 = torch.randn(batch, *latent)
        t, noise = torch.full((batch,), LEVEL), torch.randn(batch, *latent)
        z = add_noise(z0, noise, schedule.signal(t, z0.ndim))
        error: Tensor = model(z, t) - model.prediction.target(z0, noise, t)
        return error.square().mean()

    return StageNetworks([model], [], loss)


def _representation(
    model: Settings, unet: UNetConfig, *, size: tuple[int, int, int], latent: tuple[int, ...], switched: bool
) -> StageNetworks:
    backbone = _backbone(model, switched=switched)
    config = replace(semantic_config(model.get("encoder") or {}), backbone=backbone)
    encoder = SemanticEncoder(config, size=size).train()
    encoder.norm.eval()  # a single scan has no spread to whiten by
    frozen = LatentDenoiser(UNet(unet), schedule=Schedule(), prediction="v")
    frozen.requires_grad_(False)
    estimator = GradientEstimator(
        EstimatorConfig(**_settings(model, "estimator")),
        unet=frozen.unet.config,
        code_size=config.code_size,
        latent_shape=(latent[1], latent[2], latent[3]),
    )
    guided = GuidedDiffusion(frozen, estimator)

    def loss(batch: int) -> Tensor:
        z0, t = torch.randn(batch, *latent), torch.full((batch,), LEVEL)
        noise = torch.randn(batch, *latent)
        z = add_noise(z0, noise, guided.schedule.signal(t, z0.ndim))
        y = encoder(torch.rand(batch, 1, *size))
        error: Tensor = guided(z, t, y) - guided.prediction.target(z0, noise, t)
        return error.square().mean()

    return StageNetworks([encoder, estimator], [frozen], loss)


def build_stage(
    stage: str, models: Mapping[str, Settings], *, size: tuple[int, int, int], switched: bool = False
) -> StageNetworks:
    """The networks that a stage trains, and the loss of a batch; arguments as in `measure_need`."""
    built = _networks(stage, models, size=size, switched=switched)
    for module in (*built.trained, *built.frozen):
        norms_in_float32(module)
    return built


def _networks(
    stage: str, models: Mapping[str, Settings], *, size: tuple[int, int, int], switched: bool
) -> StageNetworks:
    autoencoder = autoencoder_config(models)
    channels = 1 if autoencoder.identity else autoencoder.latent_channels
    latent = (channels, *(side // autoencoder.factor for side in size))
    if stage == "autoencoder":
        config = replace(autoencoder, checkpointing=switched)
        return _autoencoder(config, models["autoencoder"], size=size)
    unet = UNetConfig(**_settings(models["denoiser"], "unet"))
    if stage == "denoiser":
        return _denoiser(unet, latent=latent)
    return _representation(models["representation"], unet, size=size, latent=latent, switched=switched)


def _count(modules: list[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _float32_as_on_a_card(module: nn.Module) -> None:
    """Let layer norms take float32, to which autocast takes them on a GPU and not on a CPU."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


@contextmanager
def _scanned_as_on_a_card() -> Iterator[None]:
    """Selective scans in parts as large as a GPU's; a processor's are many times as many to walk."""
    small = MOST_STATES["cpu"]
    MOST_STATES["cpu"] = MOST_STATES["cuda"]
    try:
        yield
    finally:
        MOST_STATES["cpu"] = small


def measure_need(
    stage: str,
    models: Mapping[str, Settings],
    *,
    size: tuple[int, int, int],
    batch: int,
    switched: bool = False,
    half: bool = True,
) -> Need:
    """What one training step of a stage takes.

    Args:
        stage: "autoencoder", "denoiser" or "representation".
        models: The model's arguments of each stage's configuration, by stage.
        size: Sides of the scans, in voxels.
        batch: Scans in a batch.
        switched: Recompute activations in the backward pass, where `has_switch`.
        half: Compute in half precision where autocast does.
    """
    # timm reads numbers from tensors while it builds, which tensors without content do not have
    with torch.device("meta"):
        built = build_stage(stage, models, size=size, switched=switched)
    modules = [*built.trained, *built.frozen]
    for module in modules:
        _make_plain(module)
        if half:
            _float32_as_on_a_card(module)
    with FakeTensorMode(allow_non_fake_inputs=True), _scanned_as_on_a_card():
        for module in modules:
            module.to_empty(device="cpu")
        counter = LiveBytes()
        with counter, torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = built.loss(batch)
        with counter:
            loss.backward()  # type: ignore[no-untyped-call]
    return Need(stage, switched, batch, _count(built.trained), _count(built.frozen), counter.peak)


def _make_plain(module: nn.Module) -> None:
    """Let all parameters be of torch's own class: of others torch 2.8 makes none without content."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if type(parameter) is not nn.Parameter:
                setattr(part, name, nn.Parameter(parameter.detach()))


def needs_by_batch(
    stage: str,
    models: Mapping[str, Settings],
    *,
    size: tuple[int, int, int],
    batches: Sequence[int],
    switched: bool = False,
    half: bool = True,
) -> list[Need]:
    """The same for several batches: some are walked through, others lie on the lines between and beyond."""
    scanning = stage == "representation" and issubclass(_backbone_class(models[stage]), MedMambaBackbone)
    walked = MEASURED_SCANS if scanning else MEASURED
    known = [
        measure_need(stage, models, size=size, batch=batch, switched=switched, half=half) for batch in walked
    ]
    steps = [need.step_bytes for need in known]
    slope = (steps[-1] - steps[-2]) / (walked[-1] - walked[-2])
    on_lines = np.interp(batches, walked, steps) + slope * np.maximum(np.subtract(batches, walked[-1]), 0)
    return [
        replace(known[0], batch=batch, step_bytes=round(step))
        for batch, step in zip(batches, on_lines.tolist(), strict=True)
    ]
