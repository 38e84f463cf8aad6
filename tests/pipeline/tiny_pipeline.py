# SPDX-License-Identifier: Apache-2.0
"""A tiny cohort, and stages with random weights on it, saved as trained ones are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from ldae.data.artefact import save_component
from ldae.data.cohort import read_cohort
from ldae.data.spec import PreprocessingSpec
from ldae.data.split import freeze_split, split_hash
from ldae.diffusion.schedule import ScheduleConfig
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.nets.backbones import BackboneConfig
from ldae.nets.estimator import EstimatorConfig, GradientEstimator
from ldae.nets.normaliser import LatentNormaliser
from ldae.nets.semantic import SemanticConfig, SemanticEncoder
from ldae.nets.unet import UNet, UNetConfig
from ldae.pipeline.assemble import assemble_pipeline

SPEC = PreprocessingSpec(spacing=(8.0, 8.0, 8.0), size=(16, 24, 16))
LATENT = (8, 12, 8)
CODE_SIZE = 12
AUTOENCODER = AutoencoderConfig(channels=(8, 16), res_blocks=1, groups=4)
UNET = UNetConfig(base=16, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=8, groups=8)
SEMANTIC = SemanticConfig(
    code_size=CODE_SIZE,
    token_size=4,
    backbone=BackboneConfig("ldae.nets.backbones.ConvBackbone", {"channels": [8, 8]}),
)
SUBJECTS = 14


def oblique_affine(spacing: float = 7.0, *, degrees: float = 12.0) -> NDArray[np.float64]:
    """Axes left, posterior, superior, turned about the vertical."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-spacing, -spacing, spacing])
    affine[:3, 3] = [60.0, 80.0, -50.0]
    return affine


def write_scan(path: Path, seed: int, *, bright: float = 1.0) -> Path:
    """A smooth blob as an oblique int16 scan with scaling."""
    random = np.random.default_rng(seed)
    shape = (18, 26, 17)
    voxels = ndimage.gaussian_filter(random.normal(size=shape), 2) * 4 + 1
    distance = np.linalg.norm((np.indices(shape).T / np.array(shape) - 0.5).T, axis=0)
    voxels = np.where(distance < 0.42, np.clip(voxels, 0.1, None), 0) * 500 * bright
    image = nib.Nifti1Image(np.round(voxels / 0.5).astype(np.int16), oblique_affine())
    image.header.set_slope_inter(0.5, 0)
    image.set_sform(oblique_affine(), code=1)
    image.set_qform(oblique_affine(), code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_cohort_csv(folder: Path) -> Path:
    """Fourteen subjects, every other one with two visits, with a frozen split."""
    rows = []
    for subject in range(SUBJECTS):
        for visit in range(1 + subject % 2):
            name = f"sub-{subject:02d}_ses-{visit + 1}_T1w.nii.gz"
            write_scan(folder / "scans" / name, seed=10 * subject + visit)
            rows.append(
                {
                    "subject": f"sub-{subject:02d}",
                    "session": f"ses-{visit + 1}",
                    "path": f"scans/{name}",
                    "diagnosis": ("CN", "AD")[subject // 2 % 2],
                    "age": 60 + subject + visit,
                    "site": "A",
                }
            )
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False)
    freeze_split(folder / "cohort.csv")
    return folder / "cohort.csv"


def shake(module: nn.Module, *, seed: int, size: float = 0.05) -> nn.Module:
    """Random weights everywhere: outputs that start at zero would let any mistake pass."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            # the code's normalisation: small, so that codes differ by about one
            if name.endswith("running_mean"):
                buffer.add_(0.02 * torch.randn(buffer.shape, generator=generator))
            if name.endswith("running_var"):
                buffer.copy_(2e-4 * (1 + torch.rand(buffer.shape, generator=generator)))
    return module


def save_stages(run_dir: Path, *, split: str, seed: int = 0) -> None:
    """Autoencoder, denoiser and representation as the stages export them, with random weights."""
    torch.manual_seed(seed)
    common = {"spec": SPEC.to_dict(), "split": split}
    autoencoder = shake(Autoencoder(AUTOENCODER), seed=seed)
    with torch.no_grad():
        autoencoder.net.decoder.blocks[-1].conv.bias.fill_(0.4)
    first = save_component(
        run_dir / "autoencoder",
        kind="autoencoder",
        config=asdict(AUTOENCODER),
        tensors=autoencoder.state_dict(),
        **common,
    )
    unet = shake(UNet(UNET), seed=seed + 1)
    normaliser = LatentNormaliser(torch.randn(3, *LATENT) * 0.1, torch.tensor([0.5, 0.8, 1.2]))
    second = save_component(
        run_dir / "denoiser",
        kind="denoiser",
        config={
            "unet": asdict(UNET),
            "schedule": asdict(ScheduleConfig()),
            "prediction": "v",
            "statistics": "voxel",
        },
        tensors={
            **{f"unet.{name}": value for name, value in unet.state_dict().items()},
            **{f"normaliser.{name}": value for name, value in normaliser.state_dict().items()},
        },
        parents={"autoencoder": first},
        **common,
    )
    encoder = shake(SemanticEncoder(SEMANTIC, size=SPEC.size), seed=seed + 2)
    estimator = GradientEstimator(EstimatorConfig(), unet=UNET, code_size=CODE_SIZE, latent_shape=LATENT)
    shake(estimator, seed=seed + 3)
    save_component(
        run_dir / "representation",
        kind="representation",
        config={
            "encoder": asdict(SEMANTIC),
            "estimator": asdict(EstimatorConfig()),
            "size": list(SPEC.size),
            "latent_shape": list(LATENT),
        },
        tensors={
            **{f"encoder.{name}": value for name, value in encoder.state_dict().items()},
            **{f"estimator.{name}": value for name, value in estimator.state_dict().items()},
        },
        parents={"autoencoder": first, "denoiser": second},
        **common,
    )


def make_run(folder: Path) -> Path:
    """A run folder with cohort, three stages with random weights, and the assembled pipeline."""
    cohort = write_cohort_csv(folder / "cohort")
    save_stages(folder, split=split_hash(read_cohort(cohort)))
    assemble_pipeline(folder, device="cpu")
    return folder
