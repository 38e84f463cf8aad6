# SPDX-License-Identifier: Apache-2.0
"""A synthetic cohort with known anatomy: brain-extracted T1w scans, their table, and how they were made."""

from __future__ import annotations

import functools
import gzip
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import pandas as pd

from ldae.data.artefact import atomic_path, read_json, sha256_file, sha256_json, whole, write_json
from ldae.data.phantom_anatomy import label_anatomies
from ldae.data.phantom_factors import Factors, draw_cohort, session_name, subject_name
from ldae.data.phantom_fields import Grid
from ldae.data.phantom_growth import CENTRE
from ldae.data.phantom_plan import Plan, Renderer, stored_voxels
from ldae.data.phantom_render import Rendering
from ldae.errors import InputError

logger = logging.getLogger(__name__)

RECIPE = 6  # raise it when the same parameters give other voxels
TABLE = "cohort.csv"
PARAMETERS = "phantom.json"
JOURNAL = "scans/rendered.jsonl"
COLUMNS = {
    "age": "years at the visit",
    "visit_months": "months since the first visit",
    "ventricle_ml": "volume of both lateral ventricles in the scan, ml",
    "atrophy": "cortical volume lost against the base anatomy, percent",
    "severity": "latent severity of the disease, about 0 in CN and 1 in AD at the first visit",
    "gamma": "exponent of the intensities",
    "scale": "factor of the intensities",
    "bias": "largest deviation of the bias field from 1",
    "noise": "standard deviation of the noise, in units of the template's maximum",
    "blur_mm": "full width at half maximum of the added blur, mm",
    "base": "anatomy that the subject is warped from",
}


def make_phantom(
    out: str | Path,
    *,
    subjects: int = 1200,
    seed: int = 0,
    spacing: float = 5.0,
    size: Sequence[int] = (32, 40, 32),
    visits_test: tuple[float, float] = (0.05, 0.4),
    visits_other: tuple[float, float] = (0.02, 0.03),
    label_maps: str | Path | None = None,
    jobs: int | None = None,
    progress: bool = False,
) -> Path:
    """Make a synthetic cohort, or finish it, or find it finished.

    Subjects are warped from the MNI152 template by smooth invertible maps with known factors, whose units
    stand in phantom.json. The split is drawn here, by subject: most later visits go to test subjects.

    Args:
        out: Folder of the cohort; cohort.csv is written last.
        subjects: How many, CN, MCI and AD in turns; at least 6.
        seed: Another seed, another cohort.
        spacing: Edge of a voxel, mm, 0.5 to 10.
        size: Voxels along x, y and z, at least 8 each.
        visits_test: Shares of the test subjects with two and with three visits, 12 months apart.
        visits_other: The same for all other subjects.
        label_maps: Folder of label maps with FreeSurfer's numbers, to be used instead of the template.
        jobs: Threads, by default one a core; they do not change the result.
        progress: Whether to log how far it is.

    Returns:
        The path of cohort.csv.

    Raises:
        InputError: A parameter out of range, or a folder that holds a cohort of other parameters.
    """
    shape = _checked(subjects, spacing, size, visits_test, visits_other)
    anatomies = () if label_maps is None else tuple(label_anatomies(label_maps))
    out = Path(out)
    parameters = {
        "recipe": RECIPE,
        "subjects": subjects,
        "seed": seed,
        "spacing": float(spacing),
        "size": list(shape),
        "visits_test": list(visits_test),
        "visits_other": list(visits_other),
        "label_maps": {path.name: sha256_file(path) for path in anatomies} or None,
    }
    _claim(out, parameters, label_maps=label_maps)
    plan = Plan(Grid.centred(CENTRE, spacing=float(spacing), shape=shape), anatomies)
    scans, split = draw_cohort(subjects, seed=seed, visits_test=visits_test, visits_other=visits_other)
    done = _journal(out)
    missing = [factors for factors in scans if scan_path(factors) not in done]
    if not missing and (out / TABLE).is_file():
        logger.info("%s is up to date: %d scans", out / TABLE, len(scans))
        return out / TABLE
    done |= _render_all(missing, plan, out=out, jobs=jobs or os.cpu_count() or 1, progress=progress)
    rows = [_row(factors, split[factors.subject], done[scan_path(factors)], plan) for factors in scans]
    with atomic_path(out / TABLE) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    return out / TABLE


def scan_path(factors: Factors) -> str:
    """Where a scan lies, relative to the cohort's folder."""
    subject, session = subject_name(factors.subject), session_name(factors.visit)
    return f"scans/{subject}/{subject}_{session}_T1w.nii.gz"


def _checked(
    subjects: int,
    spacing: float,
    size: Sequence[int],
    visits_test: tuple[float, float],
    visits_other: tuple[float, float],
) -> tuple[int, int, int]:
    """The size as a triple, after all parameters were found in range."""
    if subjects < 6:
        raise InputError(f"subjects must be at least 6, got {subjects}. Two of each diagnosis are the least.")
    if not 0.5 <= spacing <= 10:
        raise InputError(f"spacing must be 0.5 to 10 mm, got {spacing}.")
    if len(size) != 3 or any(int(n) != n or n < 8 for n in size):
        raise InputError(f"size must be three whole numbers of at least 8 voxels, got {list(size)}.")
    for name, shares in (("visits_test", visits_test), ("visits_other", visits_other)):
        if len(shares) != 2 or min(shares) < 0 or sum(shares) > 1:
            raise InputError(
                f"{name} must be the shares of subjects with two and with three visits, together at most 1, "
                f"got {list(shares)}."
            )
    x, y, z = (int(n) for n in size)
    return x, y, z


def _claim(out: Path, parameters: dict[str, Any], *, label_maps: str | Path | None) -> None:
    """Write phantom.json, or find the same parameters in it; where the label maps lie is not one of them."""
    path = out / PARAMETERS
    if path.is_file():
        with whole(path):
            held = dict(read_json(path)["parameters"])
        differing = [f"{k} {held.get(k)} there, {v} now" for k, v in parameters.items() if held.get(k) != v]
        if differing:
            raise InputError(
                f"{out} must be empty or hold a cohort of the same parameters, got another one "
                f"({'; '.join(differing)}). Name another folder, or delete this one."
            )
        return
    if (out / TABLE).exists():
        raise InputError(
            f"{out} must be empty or hold a synthetic cohort, got a {TABLE} without {PARAMETERS}. "
            "Name another folder."
        )
    folder = None if label_maps is None else os.path.abspath(label_maps)
    document = {"parameters": parameters, "sha256": sha256_json(parameters), "columns": COLUMNS}
    write_json(path, {**document, "label_maps": folder})


def _journal(out: Path) -> dict[str, float]:
    """Ventricle volume of every scan that is there and whole, by path."""
    path = out / JOURNAL
    done: dict[str, float] = {}
    if not path.is_file():
        return done
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            scan, size, ventricles = out / entry["path"], entry["bytes"], float(entry["ventricle_ml"])
        except (ValueError, KeyError, TypeError):  # the line at which an earlier run was killed
            continue
        if scan.is_file() and scan.stat().st_size == size:
            done[entry["path"]] = ventricles
    return done


def _render_all(
    scans: Sequence[Factors], plan: Plan, *, out: Path, jobs: int, progress: bool
) -> dict[str, float]:
    """Make the scans, in order of anatomy, and note each in the journal as soon as it is whole."""
    done: dict[str, float] = {}
    if not scans:
        return done
    ordered = sorted(scans, key=lambda factors: str(plan.base(factors)))
    journal = out / JOURNAL
    journal.parent.mkdir(parents=True, exist_ok=True)
    write = functools.partial(_write_scan, out=out, grid=plan.grid)
    with journal.open("a", encoding="utf-8") as stream:
        stream.write("\n")  # ends a line that an earlier run was killed in
        for count, entry in enumerate(Renderer(plan).each(write, ordered, jobs=jobs), start=1):
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            done[entry["path"]] = entry["ventricle_ml"]
            if progress and (count % 100 == 0 or count == len(ordered)):
                logger.info("%d of %d scans made", count, len(ordered))
    return done


def _write_scan(factors: Factors, rendering: Rendering, *, out: Path, grid: Grid) -> dict[str, Any]:
    """Write one scan; what the journal says of it."""
    path = out / scan_path(factors)
    data = _nifti(rendering, grid)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return {"path": scan_path(factors), "bytes": len(data), "ventricle_ml": round(rendering.ventricle_ml, 4)}


def _nifti(rendering: Rendering, grid: Grid) -> bytes:
    """Compressed NIfTI; the same voxels give the same bytes."""
    image = nib.Nifti1Image(stored_voxels(rendering), grid.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(grid.affine, code="mni")
    image.set_qform(grid.affine, code="mni")
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _row(factors: Factors, split: str, ventricle_ml: float, plan: Plan) -> dict[str, object]:
    """One line of the cohort's table."""
    acquisition = factors.acquisition
    base = plan.base(factors)
    return {
        "subject": subject_name(factors.subject),
        "session": session_name(factors.visit),
        "path": scan_path(factors),
        "diagnosis": factors.diagnosis,
        "age": round(factors.age, 1),
        "sex": factors.sex,
        "site": factors.site,
        "split": split,
        "visit_months": round(12 * factors.years),
        "ventricle_ml": round(ventricle_ml, 3),
        "atrophy": round(factors.atrophy, 3),
        "severity": round(factors.severity, 4),
        "gamma": round(acquisition.gamma, 4),
        "scale": round(acquisition.scale, 4),
        "bias": round(acquisition.bias, 4),
        "noise": round(acquisition.noise, 5),
        "blur_mm": round(2.3548 * acquisition.blur * plan.grid.spacing, 3),
        "base": "mni152" if base is None else base.name,
    }
