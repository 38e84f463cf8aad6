# SPDX-License-Identifier: Apache-2.0
"""What one semantic code fixes and what it leaves open: mean and spread of its variations, voxel by voxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ldae.data.scan import DifferenceMap, Scan
from ldae.errors import InputError
from ldae.pipeline.pipeline import LDAEPipeline
from ldae.pipeline.scan_jobs import InputScan, JobResult, Sampling, ScanJob


@dataclass(frozen=True)
class VariationMaps:
    """Voxel-wise statistics of scans with one semantic code.

    Attributes:
        mean: Their mean, a scan at their place: what the code fixes.
        std: Their standard deviation (unbiased variance): what it leaves open.
    """

    mean: Scan
    std: DifferenceMap


def variation_maps(scans: Sequence[Scan]) -> VariationMaps:
    """Voxel-wise mean and standard deviation of what `LDAEPipeline.vary` made of one code.

    Raises:
        InputError: Fewer than two scans, or scans of different sizes.

    Example:
        >>> from ldae import LDAEPipeline
        >>> pipe = LDAEPipeline.from_pretrained("outputs/demo/pipeline")  # doctest: +SKIP
        >>> maps = variation_maps(pipe.vary("sub-01_T1w.nii.gz", n=8))  # doctest: +SKIP
        >>> maps.std.save("std.nii.gz")  # doctest: +SKIP
    """
    if len(scans) < 2:
        raise InputError(f"A spread must be taken over 2 variations or more, got {len(scans)}. Raise n.")
    voxels = torch.stack([scans[0].like(scan.data).data for scan in scans]).double()
    std, mean = torch.std_mean(voxels, dim=0)
    average = scans[0].like(mean.float())
    return VariationMaps(mean=average, std=DifferenceMap(std.float(), average))


def vary_scans(
    pipeline: LDAEPipeline,
    scans: Sequence[InputScan],
    *,
    out: str | Path,
    n: int = 8,
    seed: int = 0,
    sampling: Sampling | None = None,
    progress: bool = False,
) -> JobResult:
    """Render each scan's semantic code with `n` fresh stochastic codes.

    Writes desc-variation1 and on, and of two or more desc-variationMean and desc-variationStd.
    """
    job = ScanJob(pipeline, out, scans=scans, sampling=sampling or Sampling(), progress=progress)
    for scan, code in job.codes():
        made = pipeline.vary(
            code, n=n, seed=seed, steps=job.sampling.down, stop_fraction=job.sampling.stop_fraction
        )
        for number, rendered in enumerate(made, start=1):
            job.write(
                scan,
                rendered,
                desc=f"variation{number}",
                description=f"The scan's semantic code with fresh stochastic code number {number}.",
                details={"Seed": seed, "Variation": number},
            )
        if n > 1:
            _write_maps(job, scan, variation_maps(made), n=n, seed=seed)
    return job.finish("vary")


def _write_maps(job: ScanJob, scan: InputScan, maps: VariationMaps, *, n: int, seed: int) -> None:
    told = {"Seed": seed, "Variations": n}
    job.write_map(
        scan,
        maps.mean,
        desc="variationMean",
        description="Mean of the variations, voxel by voxel: what the code fixes.",
        details={**told, "Statistic": "mean"},
    )
    job.write_map(
        scan,
        maps.std,
        desc="variationStd",
        description="Standard deviation of the variations, voxel by voxel: what the code leaves open.",
        details={**told, "Statistic": "std"},
    )
