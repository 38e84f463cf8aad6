# SPDX-License-Identifier: Apache-2.0
"""Figures of a scan that tell bad ones."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Standard deviation of Rician noise in air over the underlying Gaussian's (Gudbjartsson and Patz, 1995).
RAYLEIGH = 0.6551


def measure(voxels: NDArray[np.float32], affine: NDArray[np.float64]) -> dict[str, float]:
    """Figures of one scan.

    snr: median of the brighter tissue over the noise in air. cnr: distance of the two tissue levels over that
    noise. cut: share of the six faces' voxels that are tissue, where the field of view ends inside the head;
    the neck's face is not counted. volume_ml: the head, or brain, above the air. efc: entropy focus criterion
    (Atkinson et al., 1997), 0 for one bright voxel and 1 for an even image: it grows with ghosts and blur.

    Args:
        voxels: [X, Y, Z].
        affine: Voxels to millimetres, RAS+.
    """
    values = np.nan_to_num(voxels)
    threshold = otsu(values)
    head = ndimage.binary_fill_holes(_largest(values > threshold))
    air = values[~ndimage.binary_dilation(head, iterations=2)]
    noise = max(float(air.std()) / RAYLEIGH if air.size > 100 else 0.0, 1e-3 * float(values.max()))
    tissue = values[head & (values > threshold)]
    level = otsu(tissue)
    dark, bright = np.median(tissue[tissue <= level]), np.median(tissue[tissue > level])
    cell = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    return {
        "snr": round(float(bright) / noise, 2),
        "cnr": round(float(bright - dark) / noise, 2),
        "cut": round(_cut(head, affine), 4),
        "volume_ml": round(float(head.sum()) * cell, 1),
        "efc": round(_entropy_focus(values), 4),
    }


def otsu(values: NDArray[np.float32]) -> float:
    """The threshold between two classes of values (Otsu, 1979)."""
    low, high = float(values.min()), float(np.quantile(values, 0.999))
    counts, edges = np.histogram(np.clip(values, low, high), bins=256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between))])


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    whole: NDArray[np.bool_] = labels == int(sizes.argmax())
    return whole


def _cut(head: NDArray[np.bool_], affine: NDArray[np.float64]) -> float:
    """Largest share of tissue on a face, the lower one left out."""
    codes = nib.aff2axcodes(affine)
    shares = []
    for axis, code in enumerate(codes):
        lower = {"S": 0, "I": -1}.get(code)
        shares += [float(head.take(end, axis=axis).mean()) for end in (0, -1) if end != lower]
    return max(shares)


def _entropy_focus(values: NDArray[np.float32]) -> float:
    energy = float(np.sqrt((values.astype(np.float64) ** 2).sum()))
    shares = np.abs(values[values != 0]) / energy if energy else np.ones(1)
    highest = np.sqrt(values.size) * np.log(np.sqrt(values.size))
    return float(-(shares * np.log(shares)).sum() / highest)


def flag_outliers(quality: list[dict[str, float]], spacings: list[tuple[float, ...]]) -> list[list[str]]:
    """What is unusual of each scan beside the others of its cohort, or bad by itself."""
    limits = {name: _limits([row[name] for row in quality]) for name in ("snr", "cnr", "volume_ml", "efc")}
    middle = np.median(np.asarray(spacings), axis=0) if spacings else np.ones(3)
    flags = []
    for row, spacing in zip(quality, spacings, strict=True):
        found = [f"unusual {name}" for name, (low, high) in limits.items() if not low <= row[name] <= high]
        found += ["field of view cuts the head"] if row["cut"] > 0.1 else []
        found += (
            ["unusual spacing"] if np.abs(np.log(np.asarray(spacing) / middle)).max() > np.log(1.5) else []
        )
        flags.append(found)
    return flags


def _limits(values: list[float]) -> tuple[float, float]:
    """Median and 4.5 robust standard deviations around it; cohorts of fewer than five have no limits."""
    if len(values) < 5:
        return -np.inf, np.inf
    middle = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(np.asarray(values) - middle))), 0.02 * abs(middle))
    return middle - 4.5 * spread, middle + 4.5 * spread
