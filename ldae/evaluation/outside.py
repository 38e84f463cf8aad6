# SPDX-License-Identifier: Apache-2.0
"""Scans that a head was not made for: near ones, which look like its own, and far ones, which do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ldae.evaluation.corruptions import ghosting, motion

Replace = Callable[[Tensor, np.random.Generator], Tensor]

BRAIN = 0.05  # of the brightest voxel
SEVERE_MOTION, SEVERE_GHOSTS = 8.0, 1.0


def inverted_contrast(scan: Tensor, generator: np.random.Generator) -> Tensor:
    """Dark where the brain was bright, as in a T2-weighted scan; the background stays dark."""
    mask = torch.from_numpy(ndimage.binary_fill_holes(scan[0].numpy() > BRAIN * float(scan.max())))
    return torch.where(mask, 1 - scan.clamp(0, 1), torch.zeros_like(scan))


def strong_artefact(scan: Tensor, generator: np.random.Generator) -> Tensor:
    """Movements of up to 8 degrees and voxels, and all the ghosts there can be."""
    return ghosting(motion(scan, SEVERE_MOTION, generator), SEVERE_GHOSTS, generator)


def noise(scan: Tensor, generator: np.random.Generator) -> Tensor:
    """Uniform noise in [0, 1]."""
    return torch.from_numpy(generator.random(tuple(scan.shape), dtype=np.float32))


def blank(scan: Tensor, generator: np.random.Generator) -> Tensor:
    """Nothing."""
    return torch.zeros_like(scan)


def turned(scan: Tensor, generator: np.random.Generator) -> Tensor:
    """The brain on its side and facing down: two quarter turns, padded and cut to the grid."""
    moved = torch.rot90(torch.rot90(scan, 1, (1, 3)), 1, (2, 3))
    out = torch.zeros_like(scan)
    sides = list(zip(moved.shape[1:], scan.shape[1:], strict=True))
    theirs = [slice(max(0, (a - b) // 2), max(0, (a - b) // 2) + min(a, b)) for a, b in sides]
    ours = [slice(max(0, (b - a) // 2), max(0, (b - a) // 2) + min(a, b)) for a, b in sides]
    out[:, ours[0], ours[1], ours[2]] = moved[:, theirs[0], theirs[1], theirs[2]]
    return out


UNSEEN = "unseen_diagnosis"
NEAR = (UNSEEN, "inverted_contrast", "strong_artefact")
FAR = ("noise", "blank", "turned")
OUTSIDE: dict[str, Replace] = {
    "inverted_contrast": inverted_contrast,
    "strong_artefact": strong_artefact,
    "noise": noise,
    "blank": blank,
    "turned": turned,
}
REPLACED = tuple(OUTSIDE)
"""Made from a part's own scans; the others are scans of the cohort."""
