# SPDX-License-Identifier: Apache-2.0
"""Older checkpoints as component folders: MONAI Generative's networks, and the published LDAE layout.

No pickle is executed, and no key is lost unseen: whatever a network misses or has too much stops the
conversion with a list, and whatever a file holds besides the networks is named in the report.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ldae.data.artefact import save_component, sha256_file
from ldae.data.spec import PreprocessingSpec
from ldae.diffusion.schedule import ScheduleConfig
from ldae.errors import InputError
from ldae.nets.autoencoder import Autoencoder
from ldae.nets.estimator import GradientEstimator
from ldae.nets.normaliser import LatentNormaliser
from ldae.nets.semantic import PlaneName, SemanticEncoder
from ldae.nets.unet import UNet
from ldae.pipeline.convert_encoder import ENCODER_ANCHOR, HEADS, convert_encoder
from ldae.pipeline.convert_files import OldCheckpoint, part_of, read_checkpoint
from ldae.pipeline.convert_ldae import SHIFT_START, UNET_ANCHOR, Heads, convert_estimator, convert_unet
from ldae.pipeline.convert_monai import (
    AUTOENCODER_ANCHOR,
    DEAD_LAYER,
    DIFFUSION_UNET_ANCHOR,
    convert_autoencoder,
    convert_diffusion_unet,
)

logger = logging.getLogger(__name__)

Kind = Literal["autoencoder", "ldae", "diffusion_unet"]
KINDS: tuple[Kind, ...] = ("autoencoder", "ldae", "diffusion_unet")
# the published code scales each volume by its own minimum and maximum
PUBLISHED_SPEC = PreprocessingSpec(lower_percentile=0.0, upper_percentile=100.0)
PUBLISHED_SCALE = 0.8730
PUBLISHED_GROUPS = 32


@dataclass(frozen=True)
class ConversionOptions:
    """What the weights do not tell. None takes it from the file's stored arguments, else as published.

    Attributes:
        spec: Preprocessing that the networks were trained with.
        split: Hash of the subject split they were trained on; needed to assemble a pipeline.
        prefix: What stands before the keys of the network, for a file that holds several ("autoencoder" and
            "diffusion_unet").
        groups: Groups of the autoencoder's normalisations.
        heads: Attention heads of the UNet.
        scale: Factor on the autoencoder's latents before the diffusion.
        plane: Along which plane the semantic encoder cuts the scans.
        arguments: Constructor arguments of MONAI's DiffusionModelUNet ("diffusion_unet").
    """

    spec: PreprocessingSpec = PUBLISHED_SPEC
    split: str | None = None
    prefix: str | None = None
    groups: int | None = None
    heads: Heads | None = None
    scale: float = PUBLISHED_SCALE
    plane: PlaneName = "axial"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """What came of a conversion.

    Attributes:
        components: sha256 of each component folder that was written.
        left_out: Why each key of the files that has no place in them was left out.
    """

    components: dict[str, str]
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Part:
    """One network of a file, its keys without the prefix, and the arguments of the whole file."""

    source: OldCheckpoint
    prefix: str
    tensors: dict[str, Tensor]


def convert_checkpoint(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    kind: Kind,
    options: ConversionOptions | None = None,
) -> Conversion:
    """Write what an older checkpoint holds as component folders.

    Args:
        source: A state dict (.pth, .pt, .safetensors) or a Lightning checkpoint, or several that belong
            together.
        out: For "autoencoder" and "diffusion_unet" the component's folder, for "ldae" a run folder, in which
            `autoencoder/`, `denoiser/` and, where the files hold it, `representation/` are written.
        kind: "autoencoder" (MONAI Generative's AutoencoderKL), "diffusion_unet" (MONAI Generative's
            DiffusionModelUNet, which no pipeline of this package uses) or "ldae" (the published layout).
        options: What the weights do not tell.

    Returns:
        The folders, and the keys that were left out.

    Raises:
        FileNotFoundError: A source does not exist.
        InputError: A source cannot be read without executing it, or its architecture has no form here.
        CheckpointError: Keys are missing or left over, or shapes differ; all of them are listed.
    """
    options = options or ConversionOptions()
    paths = [source] if isinstance(source, str | Path) else list(source)
    checkpoints = [read_checkpoint(path) for path in paths]
    if kind == "ldae":
        return _convert_ldae(checkpoints, Path(out), options=options)
    if kind == "autoencoder":
        part = _find(checkpoints, AUTOENCODER_ANCHOR, prefix=options.prefix, what="AutoencoderKL")
        autoencoder = _autoencoder(part, options)
        sha256 = _save_autoencoder(autoencoder, Path(out), source=part.source, options=options)
    else:
        part = _find(checkpoints, DIFFUSION_UNET_ANCHOR, prefix=options.prefix, what="DiffusionModelUNet")
        unet = convert_diffusion_unet(part.tensors, options.arguments)
        sha256 = _save(
            Path(out), kind, unet, config=options.arguments, sources=[part.source], options=options
        )
    return Conversion({str(out): sha256}, _left_out(checkpoints, [part]))


@dataclass(frozen=True)
class _Networks:
    """The published networks in this package's form; the last two are there after stage 3 only."""

    autoencoder: Autoencoder
    unet: UNet
    encoder: SemanticEncoder | None
    estimator: GradientEstimator | None


def _convert_ldae(
    checkpoints: Sequence[OldCheckpoint], run_dir: Path, *, options: ConversionOptions
) -> Conversion:
    parts = {
        "autoencoder": _find(checkpoints, AUTOENCODER_ANCHOR, what="AutoencoderKL"),
        "unet": _find(checkpoints, UNET_ANCHOR, what="UNet or shift UNet"),
    }
    if any(name.startswith(SHIFT_START) for name in parts["unet"].tensors):
        parts["encoder"] = _find(checkpoints, ENCODER_ANCHOR, what="semantic encoder")
    schedule = _schedule(_arguments(parts["unet"], "timesteps_args"))
    # every network is converted before the first folder is written
    networks = _networks(parts, options)
    files = {name: part.source for name, part in parts.items()}
    written = _write_ldae(networks, run_dir, schedule=schedule, files=files, options=options)
    folders = {str(run_dir / name): sha256 for name, sha256 in written.items()}
    return Conversion(folders, _left_out(checkpoints, list(parts.values())))


def _networks(parts: Mapping[str, _Part], options: ConversionOptions) -> _Networks:
    size, part = options.spec.size, parts["unet"]
    heads = options.heads or Heads.from_arguments(_arguments(part, "unet_args"))
    autoencoder = _autoencoder(parts["autoencoder"], options)
    shape = _latent_shape(autoencoder, size)
    unet = convert_unet(part.tensors, heads=heads)
    if "encoder" not in parts:
        return _Networks(autoencoder, unet, None, None)
    encoder = convert_encoder(
        parts["encoder"].tensors,
        size=size,
        plane=options.plane,
        heads=int(_arguments(parts["encoder"], "enc_args").get("num_heads", HEADS)),
    )
    estimator = convert_estimator(part.tensors, heads=heads, unet=unet.config, latent_shape=shape)
    return _Networks(autoencoder, unet, encoder, estimator)


def _write_ldae(
    networks: _Networks,
    run_dir: Path,
    *,
    schedule: ScheduleConfig,
    files: Mapping[str, OldCheckpoint],
    options: ConversionOptions,
) -> dict[str, str]:
    autoencoder, encoder, estimator = networks.autoencoder, networks.encoder, networks.estimator
    written = {
        "autoencoder": _save_autoencoder(
            autoencoder, run_dir / "autoencoder", source=files["autoencoder"], options=options
        )
    }
    written["denoiser"] = _save(
        run_dir / "denoiser",
        "denoiser",
        nn.ModuleDict({"unet": networks.unet, "normaliser": _normaliser(networks.unet, options.scale)}),
        config={
            "unet": asdict(networks.unet.config),
            "schedule": asdict(schedule),
            "prediction": "eps",
            "statistics": "channel",
        },
        parents=dict(written),
        sources=[files["unet"]],
        options=options,
    )
    if encoder is not None and estimator is not None:
        written["representation"] = _save(
            run_dir / "representation",
            "representation",
            nn.ModuleDict({"encoder": encoder, "estimator": estimator}),
            config={
                "encoder": asdict(encoder.config),
                "estimator": asdict(estimator.config),
                "size": list(options.spec.size),
                "latent_shape": list(_latent_shape(autoencoder, options.spec.size)),
            },
            parents=dict(written),
            sources=[files["encoder"], files["unet"]],
            options=options,
        )
    return written


def _find(
    checkpoints: Sequence[OldCheckpoint], anchor: str, *, what: str, prefix: str | None = None
) -> _Part:
    holders = [
        checkpoint for checkpoint in checkpoints if any(name.endswith(anchor) for name in checkpoint.tensors)
    ]
    if len(holders) != 1:
        names = ", ".join(str(checkpoint.path) for checkpoint in (holders or checkpoints))
        raise InputError(
            f"One file must hold the {what}, got {len(holders)} of {len(checkpoints)} with a key that ends "
            "in "
            f"{anchor!r}: {names}. {'Leave one out.' if holders else 'Add its file, or check the kind.'}"
        )
    start, tensors = part_of(
        holders[0].tensors, anchor=anchor, prefix=prefix, what=f"{what} in {holders[0].path}"
    )
    return _Part(holders[0], start, tensors)


def _arguments(part: _Part, name: str) -> dict[str, Any]:
    found = part.source.arguments.get(name, {})
    return dict(found) if isinstance(found, Mapping) else {}


def _autoencoder(part: _Part, options: ConversionOptions) -> Autoencoder:
    stored = {**part.source.arguments, **_arguments(part, "vae_args")}
    groups = options.groups or int(stored.get("norm_num_groups", PUBLISHED_GROUPS))
    return convert_autoencoder(part.tensors, groups=groups)


def _latent_shape(autoencoder: Autoencoder, size: tuple[int, int, int]) -> tuple[int, int, int]:
    factor = autoencoder.config.factor
    if any(side % factor for side in size):
        raise InputError(f"size must be multiples of {factor}, the autoencoder's factor, got {list(size)}.")
    return size[0] // factor, size[1] // factor, size[2] // factor


def _schedule(arguments: Mapping[str, Any]) -> ScheduleConfig:
    kind = arguments.get("betas_type", "linear")
    if kind != "linear":
        raise InputError(
            f"The noise schedule must be linear, got betas_type {kind!r}. It cannot be represented."
        )
    return ScheduleConfig(steps=int(arguments.get("timesteps", 1000)))


def _normaliser(unet: UNet, scale: float) -> LatentNormaliser:
    """The published code multiplies latents by one number and takes no mean off."""
    channels = unet.config.in_channels
    return LatentNormaliser(torch.zeros(channels, 1, 1, 1), torch.full((channels,), 1 / scale))


def _save_autoencoder(
    autoencoder: Autoencoder, folder: Path, *, source: OldCheckpoint, options: ConversionOptions
) -> str:
    _latent_shape(autoencoder, options.spec.size)
    config = asdict(autoencoder.config)
    return _save(folder, "autoencoder", autoencoder, config=config, sources=[source], options=options)


def _save(
    folder: Path,
    kind: str,
    module: nn.Module,
    *,
    config: Mapping[str, Any],
    sources: Sequence[OldCheckpoint],
    options: ConversionOptions,
    parents: Mapping[str, str] | None = None,
) -> str:
    origin = {source.path.name: sha256_file(source.path) for source in sources}
    logger.info("Writing %s", folder)
    return save_component(
        folder,
        kind=kind,
        config=config,
        tensors=module.state_dict(),
        spec=options.spec.to_dict(),
        split=options.split,
        parents=parents,
        extra={"converted_from": origin},
    )


def _left_out(checkpoints: Sequence[OldCheckpoint], parts: Sequence[_Part]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for checkpoint in checkpoints:
        prefixes = tuple(part.prefix for part in parts if part.source is checkpoint)
        for name in checkpoint.tensors:
            if not name.startswith(prefixes):
                reasons[name] = (
                    "belongs to none of the networks that were asked for, or to one without averaging"
                )
            elif DEAD_LAYER.search(name):
                reasons[name] = "the old network never used this layer"
    return reasons
