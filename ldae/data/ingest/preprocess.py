# SPDX-License-Identifier: Apache-2.0
"""Scans to brains in template space: reorient, N4, registration to MNI152, the template's mask carried back.

All of it is antspyx's (Tustison et al., 2010, for N4; Avants et al., 2008, for SyN). Template and mask are
those that nilearn carries, so nothing is downloaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ldae import __version__
from ldae.data.artefact import atomic_path, read_json, sha256_file, sha256_json, write_json
from ldae.data.cohort import read_cohort, write_cohort
from ldae.data.ingest.extras import need
from ldae.data.ingest.pool import each
from ldae.errors import InputError

TRANSFORMS = {"affine": "Affine", "syn": "SyN"}
SPACE = "MNI152NLin2009aSym"
# Below this overlap with the template's mask a registration is called failed.
LEAST_DICE = 0.85
COHORT = "cohort.csv"


def preprocess(
    cohort: str | Path,
    out: str | Path,
    *,
    transform: str = "affine",
    masks: str | None = None,
    spacing: int = 1,
    jobs: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """Preprocess every scan of a cohort; what is done already is not done again.

    Args:
        cohort: The cohort.
        out: Folder of the results; the scans themselves are only read.
        transform: affine or syn.
        masks: Column of the cohort with a brain mask a scan; the template's is carried over where it is None.
        spacing: Millimetres of the result.
        jobs: Processes.
        progress: Show a bar.

    Returns:
        One row a scan of the cohort with `dice`, the overlap of its brain with the template's, and `reason`,
        empty for scans that are in the new cohort.

    Raises:
        InputError: antspyx is missing, or an argument is wrong.
    """
    if transform not in TRANSFORMS:
        raise InputError(f"transform must be one of {', '.join(TRANSFORMS)}, got {transform!r}.")
    need("ants", package="antspyx", extra="prep", verb="ldae preprocess")
    frame, out = read_cohort(cohort), Path(out)
    if masks is not None and masks not in frame.columns:
        raise InputError(f"masks must name a column of {cohort}, got {masks!r}.")
    for path in out.rglob(".partial-*"):
        path.unlink()
    rows = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    work = partial(_one, out=out, transform=transform, masks=masks, spacing=spacing)
    results = each(work, rows, jobs=jobs, lost=_lost, name="preprocess", progress=progress)
    table = frame.assign(
        path=[str(out / f"{_name(row)}_T1w.nii.gz") for row in rows],
        dice=[result["dice"] for result in results],
        reason=[result["reason"] for result in results],
    )
    description = {"Name": out.name, "BIDSVersion": "1.10.0", "DatasetType": "derivative"}
    made = [{"Name": "ldae preprocess", "Version": __version__}]
    write_json(out / "dataset_description.json", {**description, "GeneratedBy": made})
    with atomic_path(out / "preprocess.csv") as temporary:
        table[["subject", "session", "dice", "reason"]].to_csv(temporary, index=False)
    good = table[table["reason"] == ""].drop(columns="reason")
    if not good.empty:
        write_cohort(good, out / COHORT)
    return table


def _name(row: dict[str, Any]) -> str:
    """Place of a scan's results, without description and suffix; labels get their BIDS prefix."""
    subject, session = (
        str(row[name]) if str(row[name]).startswith(prefix) else f"{prefix}{row[name]}"
        for name, prefix in (("subject", "sub-"), ("session", "ses-"))
    )
    return f"{subject}/{session}/anat/{subject}_{session}_space-{SPACE}_desc-brain"


def _lost(row: dict[str, Any]) -> dict[str, Any]:
    return {"dice": None, "reason": "failed: its process died"}


def _one(
    row: dict[str, Any], *, out: Path, transform: str, masks: str | None, spacing: int
) -> dict[str, Any]:
    """Preprocess a scan, unless its sidecar tells that it was done from the same file in the same way."""
    target = out / f"{_name(row)}_T1w.nii.gz"
    sidecar = target.with_name(target.name.replace(".nii.gz", ".json"))
    mask = None if masks is None else str(row[masks])
    try:
        inputs = [sha256_file(row["path"]), None if mask is None else sha256_file(mask)]
        key = sha256_json([__version__, transform, spacing, *inputs])
        if sidecar.is_file() and (done := read_json(sidecar)).get("Key") == key:
            return {"dice": done["Dice"], "reason": done["Reason"]}
        dice = _register(str(row["path"]), mask, target=target, transform=transform, spacing=spacing)
    except Exception as error:
        # one bad scan must not stop the others, whatever a reader or ITK makes of it; the table tells why
        cause = next(iter(str(error).splitlines()), "")
        return {"dice": None, "reason": f"failed: {type(error).__name__} {cause}".rstrip()}
    reason = "" if dice >= LEAST_DICE else "registration failed: too little overlap with the template"
    steps = ["reorient", "N4BiasFieldCorrection", TRANSFORMS[transform]]
    facts = {"Sources": inputs, "SkullStripped": True, "Steps": steps, "SpatialReference": SPACE}
    write_json(sidecar, {**facts, "Dice": dice, "Reason": reason, "Key": key})
    return {"dice": dice, "reason": reason}


def _register(path: str, mask: str | None, *, target: Path, transform: str, spacing: int) -> float:
    """Write the brain in template space and its mask in the scan's; return their overlap."""
    with _deterministic() as ants:
        template, template_mask = _template(ants, spacing)
        scan = ants.reorient_image2(ants.image_read(path), "RAS")
        head = ants.get_mask(scan)
        scan = ants.n4_bias_field_correction(scan, mask=head, shrink_factor=4)
        brain = None if mask is None else ants.reorient_image2(ants.image_read(mask), "RAS")
        moving = scan if brain is None else scan * brain
        found = ants.registration(template, moving, type_of_transform=TRANSFORMS[transform])
        if brain is None:
            brain = ants.apply_transforms(
                scan,
                template_mask,
                found["invtransforms"],
                interpolator="nearestNeighbor",
                whichtoinvert=[True] + [False] * (len(found["invtransforms"]) - 1),
            )
        there = ants.apply_transforms(template, scan * brain, found["fwdtransforms"], interpolator="linear")
        # What is bright in the registered brain must fill the template's: Otsu leaves air and fluid out.
        bright = ants.threshold_image(there, "Otsu", 1).numpy() > 0
        inside = template_mask.numpy() > 0
        overlap = 2 * float((bright & inside).sum()) / max(float(bright.sum() + inside.sum()), 1.0)
        _write(ants, there, target)
        own = target.name.replace(f"_space-{SPACE}_desc-brain_T1w", "_desc-brain_mask")
        _write(ants, brain, target.with_name(own))
        return round(overlap, 4)


def _write(ants: Any, image: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        ants.image_write(image, str(temporary))


def _template(ants: Any, spacing: int) -> tuple[Any, Any]:
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

    brain = ants.from_nibabel_nifti(load_mni152_template(resolution=spacing))
    mask = ants.from_nibabel_nifti(load_mni152_brain_mask(resolution=spacing))
    return brain, mask


@contextmanager
def _deterministic() -> Iterator[Any]:
    """antspyx with one thread and a fixed seed, its transform files in a folder that goes away."""
    names = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1", "ANTS_RANDOM_SEED": "0"}
    os.environ.update(names)
    ants = need("ants", package="antspyx", extra="prep", verb="ldae preprocess")
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="ldae-") as folder:
        tempfile.tempdir = folder
        try:
            yield ants
        finally:
            tempfile.tempdir = before
