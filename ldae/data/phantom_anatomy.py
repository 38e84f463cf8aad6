# SPDX-License-Identifier: Apache-2.0
"""The anatomies that synthetic subjects are warped from.

Either the MNI152 T1 template that nilearn carries in its package, with its grey- and white-matter maps, or
label maps with FreeSurfer's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ldae.data.phantom_fields import Grid, reduce, refine
from ldae.data.phantom_growth import CENTRE, SOURCES, Growth, Tissue, atrophy_velocity, ventricle_growth
from ldae.errors import InputError

AIR = 4  # voxels around the brain
REACH = 6.0  # mm; no less than half the diagonal of the largest common voxel, 5 mm, and its sub-points
HIPPOCAMPI = ((27.0, -20.0, -15.0), (-27.0, -20.0, -15.0))  # MNI mm

VENTRICLE = (4, 43, 5, 44)
WHITE = {2: 0.88, 41: 0.88, 7: 0.84, 46: 0.84, 85: 0.80, 77: 0.80, 25: 0.80, 57: 0.80}
WHITE |= dict.fromkeys(range(251, 256), 0.88)
GREY = {3: 0.64, 42: 0.64, 8: 0.62, 47: 0.62, 17: 0.63, 53: 0.63, 18: 0.62, 54: 0.62}
NUCLEI = {10: 0.74, 49: 0.74, 11: 0.66, 50: 0.66, 12: 0.69, 51: 0.69, 13: 0.80, 52: 0.80, 16: 0.80}
NUCLEI |= {26: 0.66, 58: 0.66, 28: 0.76, 60: 0.76}
FLUID = {4: 0.24, 43: 0.24, 5: 0.26, 44: 0.26, 14: 0.25, 15: 0.26, 24: 0.28, 30: 0.40, 62: 0.40, 72: 0.25}
FLUID |= dict.fromkeys((31, 63, 80, 136, 137, 163, 164), 0.42)  # choroid plexus and the like
CLASSES = (WHITE, GREY, NUCLEI, FLUID)
CORTEX = (3, 42)
HIPPOCAMPUS = (17, 53)
FLUID_AROUND = 24
EXTRACEREBRAL = 500


@dataclass(frozen=True)
class Anatomy:
    """One brain, ready to be warped.

    Attributes:
        name: "mni152", or the label map's file name.
        grid: Grid of `image` and `ventricle`, RAS, brain centred at CENTRE.
        image: [K, X, Y, Z], contributions of K tissue classes to a T1w image in [0, 1]; they add up.
        ventricle: [1, X, Y, Z], share of each voxel that is lateral ventricle.
        support: [X, Y, Z] of bool, the brain and REACH around it.
        support_grid: Grid of `support`.
        growth: Ventricles of any size.
        atrophy_velocity: [3, ...] on FIELD, mm; shrinks the cortex by 1 % at unit rate.
    """

    name: str
    grid: Grid
    image: Tensor
    ventricle: Tensor
    support: Tensor
    support_grid: Grid
    growth: Growth
    atrophy_velocity: Tensor


@dataclass(frozen=True)
class _Tissue:
    """Shares of tissue in each voxel of a 1 mm grid, [X, Y, Z] each."""

    grid: Grid
    ventricle: NDArray[np.float32]
    parenchyma: NDArray[np.float32]
    cortex: NDArray[np.float32]
    fluid: NDArray[np.float32]
    hippocampus: NDArray[np.float32]


@lru_cache(maxsize=2)
def template_anatomy(*, step: float) -> Anatomy:
    """The MNI152 template, prepared for sampling every `step` mm. Nothing is downloaded."""
    from nilearn import datasets

    images = {
        "t1": datasets.load_mni152_template(resolution=1),
        "grey": datasets.load_mni152_gm_template(resolution=1),
        "white": datasets.load_mni152_wm_template(resolution=1),
    }
    box = _box(np.asarray(images["t1"].dataobj) > 0)
    t1, grey, white = (np.pad(np.asarray(i.dataobj[box], dtype=np.float32), AIR) for i in images.values())
    x, y, z = (float(o + s.start - AIR) for o, s in zip(images["t1"].affine[:3, 3], box, strict=True))
    grid = Grid((x, y, z), 1.0, (t1.shape[0], t1.shape[1], t1.shape[2]))
    fluid = np.clip(1 - grey - white, 0, 1) * (t1 > 0)
    ventricle = lateral_ventricles(fluid, grid)
    tissue = _Tissue(
        grid=grid,
        ventricle=ventricle,
        parenchyma=np.clip(grey + white, 0, 1) * (t1 > 0),
        cortex=grey * _far_from(ventricle, grid),
        fluid=fluid - ventricle,
        hippocampus=_balls(HIPPOCAMPI, grid) * grey,
    )
    return _anatomy("mni152", tissue, image=t1[None], step=step)


def lateral_ventricles(fluid: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """The lateral ventricles within a map of cerebrospinal fluid, as the share of each voxel.

    They are the largest connected piece of fluid that does not reach the brain's surface: in the template
    the third ventricle hangs together with the outer fluid, through the cisterns.

    Args:
        fluid: [X, Y, Z] share of fluid inside the brain mask.
        grid: Where the voxels lie, 1 mm.

    Returns:
        [X, Y, Z] in [0, 1].
    """
    pieces, _ = ndimage.label(fluid > 0.5)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    sizes[np.argmax(sizes)] = 0
    body = pieces == np.argmax(sizes)
    ventricles: NDArray[np.float32] = fluid * ndimage.binary_dilation(body)
    return ventricles


def label_anatomies(folder: str | Path) -> list[Path]:
    """The label maps in a folder, sorted.

    Raises:
        InputError: The folder is missing or holds no NIfTI file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"label maps must be a folder of .nii or .nii.gz files, got {folder}, which is none."
        )
    paths = sorted([*folder.glob("*.nii"), *folder.glob("*.nii.gz")])
    if not paths:
        raise InputError(
            f"label maps must be .nii or .nii.gz files, found none in {folder}. Name another folder."
        )
    return paths


def label_anatomy(path: Path, *, step: float) -> Anatomy:
    """A brain from a label map with FreeSurfer's numbers, moved (not scaled) to CENTRE.

    Raises:
        InputError: The file is not a 3D map of about 1 mm, or has no lateral ventricles or no cortex in it.
    """
    labels, spacing = _read_labels(path)
    brain = (labels > 0) & (labels < EXTRACEREBRAL)
    known = {label for levels in CLASSES for label in levels}
    unknown = sorted(set(np.unique(labels[brain]).tolist()) - known)
    if unknown:
        raise InputError(f"label maps must use FreeSurfer's numbers, got {unknown} in {path}.")
    for name, wanted in (("lateral ventricle (4, 43)", VENTRICLE), ("cerebral cortex (3, 42)", CORTEX)):
        if not np.isin(labels, wanted).any():
            raise InputError(f"label maps must use FreeSurfer's numbers, found no {name} in {path}.")
    # fluid far from tissue, down the neck, is no part of the brain; the stem says nothing about its middle
    solid = brain & (labels != FLUID_AROUND)
    brain = solid | (brain & ndimage.binary_dilation(solid, iterations=4))
    labels = np.pad(np.where(brain, labels, 0)[_box(brain)], AIR)
    middle = [(s.start + s.stop - 1) / 2 * spacing for s in _box(np.isin(labels, [*WHITE, *GREY]))]
    x, y, z = (c - m for c, m in zip(CENTRE, middle, strict=True))
    grid = Grid((x, y, z), spacing, (labels.shape[0], labels.shape[1], labels.shape[2]))
    ventricle = _share(labels, VENTRICLE)
    tissue = _Tissue(
        grid=grid,
        ventricle=ventricle,
        parenchyma=_share(labels, [*WHITE, *GREY, *NUCLEI]),
        cortex=_share(labels, CORTEX),
        fluid=_share(labels, [FLUID_AROUND]),
        hippocampus=_share(labels, HIPPOCAMPUS),
    )
    image = np.stack([_levels(labels, levels) for levels in CLASSES])
    return _anatomy(path.name, tissue, image=image, step=step)


def _read_labels(path: Path) -> tuple[NDArray[np.int32], float]:
    """Labels with the axes flipped and swapped to RAS, and their spacing in mm."""
    import nibabel as nib

    try:
        image: Any = nib.as_closest_canonical(nib.load(path))
        labels = np.asarray(image.dataobj)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise InputError(f"label maps must be readable NIfTI files, got {path}: {error}.") from error
    axes = np.asarray(image.affine[:3, :3])
    spacing = float(axes[0, 0])
    cubic = np.allclose(axes, spacing * np.eye(3), atol=0.02 * spacing)
    if labels.ndim != 3 or not cubic or not 0.4 < spacing < 2.1:
        raise InputError(
            f"label maps must be 3D with cubic, unrotated voxels of 0.5 to 2 mm, got shape {labels.shape} "
            f"and axes {np.round(axes, 3).tolist()} mm in {path}. Resample it."
        )
    return np.rint(labels).astype(np.int32), spacing


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box around a mask."""
    return tuple(ndimage.find_objects(mask.astype(np.uint8))[0])


def _share(labels: NDArray[np.int32], wanted: Sequence[int]) -> NDArray[np.float32]:
    return np.isin(labels, wanted).astype(np.float32)


def _levels(labels: NDArray[np.int32], levels: Mapping[int, float]) -> NDArray[np.float32]:
    """The T1w intensity of each voxel that belongs to a class, zero elsewhere."""
    table = np.zeros(int(labels.max()) + 1, dtype=np.float32)
    for label, level in levels.items():
        if label < len(table):
            table[label] = level
    return table[labels]


def _anatomy(name: str, tissue: _Tissue, *, image: NDArray[np.float32], step: float) -> Anatomy:
    """Bring image and ventricles to the working grid and build the velocities."""
    spacing = max(tissue.grid.spacing, 0.8 * step)
    shape = tuple(int(np.ceil((n - 1) * tissue.grid.spacing / spacing)) + 1 for n in tissue.grid.shape)
    grid = Grid(tissue.grid.origin, spacing, (shape[0], shape[1], shape[2]))
    working = torch.from_numpy(np.concatenate([image, tissue.ventricle[None]]))
    if spacing > tissue.grid.spacing:  # fine detail would alias on the working grid
        working = reduce(working, tissue.grid, onto=grid, sigma=0.5 * spacing)
    coarse = {
        name: reduce(torch.from_numpy(share)[None], tissue.grid, onto=SOURCES, sigma=1.5)[0].numpy()
        for name, share in vars(tissue).items()
        if name != "grid"
    }
    ventricle = working[-1:].contiguous()
    return Anatomy(
        name=name,
        grid=grid,
        image=working[:-1].contiguous(),
        ventricle=ventricle,
        support=_support(coarse),
        support_grid=SOURCES,
        growth=ventricle_growth(coarse, ventricle=ventricle, grid=grid),
        atrophy_velocity=atrophy_velocity(coarse),
    )


def _support(tissue: Tissue) -> Tensor:
    """Whether anything within REACH is brain, [X, Y, Z] of bool on SOURCES."""
    brain = tissue["parenchyma"] + tissue["fluid"] + tissue["ventricle"] > 0.02
    return torch.from_numpy(ndimage.distance_transform_edt(~brain, sampling=SOURCES.spacing) < REACH)


def _far_from(ventricle: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Near 0 within 12 mm of the ventricles, where grey matter is nuclei and not cortex, then rising to 1."""
    coarse = reduce(torch.from_numpy(ventricle)[None], grid, onto=SOURCES, sigma=1.5)[0].numpy()
    distance = ndimage.distance_transform_edt(coarse < 0.5, sampling=SOURCES.spacing)
    near = refine(torch.from_numpy(distance[None].astype(np.float32)), SOURCES, onto=grid)
    return ((near[0] - 12) / 8).clamp(0, 1).numpy()


def _balls(centres: Sequence[tuple[float, float, float]], grid: Grid) -> NDArray[np.float32]:
    """Gaussian balls of 8 mm."""
    balls = torch.zeros(grid.shape)
    for centre in centres:
        x, y, z = (
            torch.exp(-(((axis - c) / 8.0) ** 2) / 2) for axis, c in zip(grid.axes, centre, strict=True)
        )
        balls += x[:, None, None] * y[:, None] * z
    return balls.numpy()
