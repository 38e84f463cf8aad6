# SPDX-License-Identifier: Apache-2.0
"""A head into template space and the template's brain mask back, all by antspyx.

N4 (Tustison et al., 2010), then an affine transform or SyN (Avants et al., 2008) to the template that nilearn
carries, so nothing is downloaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldae.data.ingest.extras import need

TRANSFORMS = {"affine": "Affine", "syn": "SyN"}
SPACE = "MNI152NLin2009aSym"
# Millimetres around the brain of the template in which a whole head is compared with it: the dark fluid.
AROUND = 4
# Finest spacing, in mm, at which an affine transform is fitted. At 1 mm an adult's whole head took 443 s of a
# CPU instead of 142, and the two masks agree to a Dice of 0.996.
COARSE = 2
# Millimetres from the template's brain at which a mask holds scalp or face, however a brain is shaped.
FAR = 10

Affine = NDArray[np.float64]


@dataclass(frozen=True)
class Registered:
    """A brain in template space.

    Attributes:
        head: The scan after N4, float32 [X, Y, Z] on its own grid.
        mask: Its brain, on the same grid.
        brain: The brain on the template's grid, float32 [X, Y, Z].
        affine: The template's voxels to millimetres, RAS+.
        template_mask: The template's brain, on the template's grid.
        overlap: Dice of what is bright in `brain` with the template's mask. Otsu's threshold leaves air and
            fluid out, so that air or skull inside of a carried mask lowers it.
        similarity: Correlation of `brain` with the template inside of the template's mask.
        kept: Share of the template's brain in which `brain` shows something.
        beyond: What `brain` shows far from the template's brain, see `check_mask`.
    """

    head: NDArray[np.float32]
    mask: NDArray[np.bool_]
    brain: NDArray[np.float32]
    affine: Affine
    template_mask: NDArray[np.bool_]
    overlap: float
    similarity: float
    kept: float
    beyond: float


def register(
    scan: Path, *, mask: NDArray[np.bool_] | None, transform: str, spacing: int, scratch: Path
) -> Registered:
    """Register a scan to the template.

    Args:
        scan: NIfTI file of a head, or of a brain.
        mask: Its brain on its own grid; the template's is carried back where it is None.
        transform: affine or syn.
        spacing: Of the template, in mm.
        scratch: A folder for transforms.
    """
    template = _template(spacing)
    with _deterministic(scratch) as ants:
        fixed, inside = (ants.from_nibabel_nifti(image) for image in template)
        head = ants.image_read(str(scan))
        head = ants.n4_bias_field_correction(head, mask=ants.get_mask(head), shrink_factor=4)
        brain = None if mask is None else head.new_image_like(mask.astype(np.float32))
        found = _fit(ants, head, brain=brain, transform=transform, spacing=spacing)
        if brain is None:
            brain = _carry_back(ants, found, head, inside)
        there = ants.apply_transforms(fixed, head * brain, found["fwdtransforms"], interpolator="linear")
        bright = ants.threshold_image(there, "Otsu", 1).numpy() > 0
        shown = ants.apply_transforms(fixed, brain, found["fwdtransforms"], interpolator="linear")
    values, known = there.numpy().astype(np.float32), inside.numpy() > 0
    kept, beyond = check_mask(shown.numpy() > 0.5, known, spacing=spacing)
    return Registered(
        head=head.numpy().astype(np.float32),
        mask=brain.numpy() > 0.5,
        brain=values,
        affine=np.asarray(template[0].affine, dtype=np.float64),
        template_mask=known,
        overlap=dice(bright, known),
        similarity=float(np.corrcoef(values[known], fixed.numpy()[known])[0, 1]),
        kept=kept,
        beyond=beyond,
    )


def _template(spacing: int) -> tuple[Any, Any]:
    """The template and its brain mask, as nibabel images."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    return load_mni152_template(resolution=spacing), load_mni152_brain_mask(resolution=spacing)


def _fit(ants: Any, head: Any, *, brain: Any | None, transform: str, spacing: int) -> dict[str, Any]:
    """From the template to the scan: affine on a grid that is coarse enough for it, a warp on the finest."""
    found = _fit_affine(ants, head, brain=brain, spacing=max(spacing, COARSE))
    if transform == "affine":
        return found
    start = found["fwdtransforms"][0]
    return _registration(
        ants, head, brain=brain, spacing=spacing, type_of_transform="SyNOnly", initial_transform=start
    )


def _fit_affine(ants: Any, head: Any, *, brain: Any | None, spacing: int) -> dict[str, Any]:
    """A brain straight away; a whole head in steps, as it is compared with a template that is a brain alone.

    Its size is left alone at first: mutual information would blow the head up until the mask holds nothing
    but brain. The correlation of intensities needs the dark fluid around the brain where the template has it.
    """
    if brain is not None:
        return _registration(ants, head, brain=brain, spacing=spacing, type_of_transform="Affine")
    correlation = {"aff_metric": "GC", "aff_sampling": 1, "aff_random_sampling_rate": 1.0}
    found = _registration(ants, head, brain=None, spacing=spacing, type_of_transform="Rigid")
    for step in ("Similarity", "Affine"):
        options = {"type_of_transform": step, "initial_transform": found["fwdtransforms"][0], **correlation}
        found = _registration(ants, head, brain=None, spacing=spacing, **options)
    return found


def _registration(ants: Any, head: Any, *, brain: Any | None, spacing: int, **options: Any) -> dict[str, Any]:
    """One call of ANTs: of a brain everywhere, of a whole head in and closely around the template's brain."""
    fixed, inside = (ants.from_nibabel_nifti(image) for image in _template(spacing))
    found: dict[str, Any]
    if brain is not None:
        found = ants.registration(fixed, head * brain, **options)
    else:
        around = ants.iMath(inside, "MD", max(1, round(AROUND / spacing)))
        found = ants.registration(fixed, head, mask=around, mask_all_stages=True, **options)
    return found


def _carry_back(ants: Any, found: dict[str, Any], head: Any, inside: Any) -> Any:
    """The template's mask on the scan's grid: the affine part inverted, the warp by its own inverse."""
    back = found["invtransforms"]
    invert = [True] + [False] * (len(back) - 1)
    return ants.apply_transforms(head, inside, back, interpolator="nearestNeighbor", whichtoinvert=invert)


def check_mask(mask: NDArray[np.bool_], known: NDArray[np.bool_], *, spacing: int) -> tuple[float, float]:
    """Whether a mask keeps the brain and nothing of the face.

    Args:
        mask: The scan's brain mask on the template's grid, [X, Y, Z].
        known: The template's brain, on the same grid.
        spacing: Of the grid, in mm.

    Returns:
        The share of the template's brain that the mask keeps, and what it holds further than `FAR` mm away
        from it, as a share of the brain's volume.
    """
    far = mask & (spacing * ndimage.distance_transform_edt(~known) > FAR)
    whole = max(int(known.sum()), 1)
    return float((mask & known).sum()) / whole, float(far.sum()) / whole


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|), 0 for two empty masks."""
    return 2 * float((first & second).sum()) / max(float(first.sum() + second.sum()), 1.0)


@contextmanager
def _deterministic(scratch: Path) -> Iterator[Any]:
    """antspyx with one thread and a fixed seed, its transform files in a folder of ours."""
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # read when ITK is loaded
    ants = need("ants", package="antspyx", extra="prep", verb="ldae preprocess")
    # antspyx takes no notice of ANTS_RANDOM_SEED, and ANTs takes 0 for the time of day
    import_module("ants.config").set_ants_deterministic(on=True, seed_value=1)
    before = tempfile.tempdir
    tempfile.tempdir = str(scratch)
    try:
        yield ants
    finally:
        tempfile.tempdir = before
