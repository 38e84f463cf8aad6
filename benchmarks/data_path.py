# SPDX-License-Identifier: Apache-2.0
"""How fast scans reach the training: from the cache, against .nii.gz files read anew in every epoch.

    python benchmarks/data_path.py

The scans have 1 mm voxels as MNI-registered ones do (182x218x182, 16 bit, noise inside a head) and are
brought to 128x160x128 at 1.5 mm. "published" is MONAI's chain of load, resample, pad or crop and scale, by
which the published code reads a scan in every epoch; "own" is `PreprocessingSpec.apply`, which fills the
cache. Files lie in the page cache in both cases. The floor of a cached scan is 2 bytes a voxel read and 4
written, at the rate at which this machine copies memory. Latents of many scans are drawn at random from
memory.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import yaml
from monai import transforms
from turns import Result, in_turns, memory_rate, ratio, tell

from ldae.data.augmentation import Augmentation, AugmentationConfig, AugmentedDataset, Drawn
from ldae.data.cache import VolumeCache
from ldae.data.datamodule import LatentDataset, VolumeDataset
from ldae.data.samplers import EpochSampler
from ldae.data.spec import PreprocessingSpec

SOURCE = (182, 218, 182)
LATENT = (3, 16, 20, 16)
BATCH = 16
AUGMENTATION = Path(__file__).resolve().parents[1] / "configs" / "augmentation.yaml"


def write_scan(path: Path, *, seed: int) -> None:
    """A head-shaped scan with noise, so that it compresses about as a scan does."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in SOURCE), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.8
    voxels = np.where(inside, 600 + 150 * np.sin(9 * axes[0]) * np.cos(7 * axes[1]), 10)
    voxels += random.normal(0, 12, SOURCE)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(np.clip(voxels, 0, None).astype(np.int16), affine), path)


def published_chain(spec: PreprocessingSpec) -> Callable[[str], object]:
    """What the published code does with each scan of each epoch."""
    chain: Callable[[str], object] = transforms.Compose(
        [
            transforms.LoadImage(image_only=True, ensure_channel_first=True),
            transforms.Spacing(pixdim=spec.spacing),
            transforms.ResizeWithPadOrCrop(spatial_size=spec.size),
            transforms.ScaleIntensity(minv=0, maxv=1),
        ]
    )
    return chain


def measure_volumes(folder: Path, *, scans: int, repeats: int) -> Result:
    """Volumes a second of the three ways."""
    spec = PreprocessingSpec()
    paths = [str(folder / f"{number}.nii.gz") for number in range(scans)]
    for number, path in enumerate(paths):
        write_scan(Path(path), seed=number)
    cache = VolumeCache(folder / "cache", spec)
    cache.prepare(paths)
    cached, published = VolumeDataset(cache, paths), published_chain(spec)
    overlay = yaml.safe_load(AUGMENTATION.read_text())["data"]["init_args"]["augmentation"]
    changed = Augmentation(AugmentationConfig(**overlay), spacing=spec.spacing, seed=0)
    augmented = AugmentedDataset(cached, changed)
    taken = in_turns(
        {
            "cached": lambda: [cached[place] for place in range(scans)],
            "augmented": lambda: [augmented[Drawn(0, place)] for place in range(scans)],
            "published": lambda: [published(path) for path in paths],
            "own": lambda: [spec.apply(path) for path in paths],
        },
        repeats=repeats,
    )
    floor = 6 * float(np.prod(spec.size)) / memory_rate()
    best = min(taken["cached"]) / scans
    return {
        "volumes_per_second": {name: round(scans / min(times), 2) for name, times in taken.items()},
        "cached_over_published": ratio(taken["published"], taken["cached"]),
        "augmented_over_published": ratio(taken["published"], taken["augmented"]),
        "cached_over_own": ratio(taken["own"], taken["cached"]),
        "floor_ms": round(1e3 * floor, 2),
        "cached_ms": round(1e3 * best, 2),
        "share_of_memory_rate": round(floor / best, 2),
    }


def measure_latents(*, scans: int) -> Result:
    """Latents a second, shuffled, in batches; mean and sigma both held."""
    mean, sigma = torch.zeros(scans, *LATENT), torch.zeros(scans, *LATENT)
    dataset = LatentDataset(mean, sigma)
    order = list(EpochSampler(scans, seed=0))

    def epoch() -> None:
        for start in range(0, scans - BATCH + 1, BATCH):
            items = [dataset[place] for place in order[start : start + BATCH]]
            torch.stack([item["mean"] for item in items])
            torch.stack([item["sigma"] for item in items])

    taken = in_turns({"epoch": epoch}, repeats=3)["epoch"]
    return {
        "latents": scans,
        "latents_gib": round((mean.nbytes + sigma.nbytes) / 2**30, 2),
        "latents_per_second": round(scans / min(taken)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latents", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure_volumes(Path(folder), scans=args.scans, repeats=args.repeats)
    tell(result | measure_latents(scans=args.latents), out=args.out)


if __name__ == "__main__":
    main()
