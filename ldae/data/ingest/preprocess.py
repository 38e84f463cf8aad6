# SPDX-License-Identifier: Apache-2.0
"""A cohort of heads to a cohort of brains in template space, scan by scan, with a page for review."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.data.artefact import atomic_path, sha256_file, sha256_json, write_json
from ldae.data.cohort import read_cohort, write_cohort
from ldae.data.ingest.brain import check_program, given_mask, hd_bet_mask
from ldae.data.ingest.extras import need
from ldae.data.ingest.manifest import Record, RejectionError, Work, count_reasons
from ldae.data.ingest.mosaic import View, draw_mosaic
from ldae.data.ingest.pool import each
from ldae.data.ingest.publish import earlier_split, keep_split, link, remove_stale
from ldae.data.ingest.register import SPACE, TRANSFORMS, Registered, register
from ldae.data.ingest.review import apply_reviews, keep_reviews, write_page
from ldae.data.ingest.tables import NO_FACES, write_tables
from ldae.data.nifti import open_scan, read_geometry, write_on_affine, write_on_geometry
from ldae.errors import InputError

BRAINS = ("template", "hd-bet")
# Below either a registration is called failed. By affine transforms a real head reaches a similarity of 0.51,
# an extracted brain 0.86; a head the wrong way round 0.32 at most, a ball 0.26, cut ones 0.16, noise 0.07.
LEAST_OVERLAP = 0.85
LEAST_SIMILARITY = 0.4
# What a mask may hold far from the brain, as a share of it, before a face may show; and what it must keep.
MOST_BEYOND = 0.01
LEAST_KEPT = 0.85
# Litres of a grown-up's brain with its fluid, generously.
BRAIN_ML = (800.0, 2200.0)
COHORT = "cohort.csv"
TABLE = "preprocess.csv"
FIGURES = {
    "overlap": ("overlap", "Dice of the registered brain's tissue with the template's brain"),
    "similarity": ("similarity", "correlation with the template inside of its brain"),
    "kept": ("brain kept", "share of the template's brain that the mask keeps"),
    "beyond": ("beyond", "what the mask holds over 10 mm away from the template's brain, as a share of it"),
    "brain_ml": ("brain, ml", "volume of the brain mask, drawn on the scan on the left"),
}


@dataclass(frozen=True)
class Way:
    """How every scan is treated.

    Attributes:
        out: Folder of the results.
        transform: affine or syn.
        brain: template, hd-bet or given.
        spacing: Millimetres of the result.
    """

    out: Path
    transform: str
    brain: str
    spacing: int


@dataclass(frozen=True)
class Task:
    """A scan to work on: its record with labels and facts, its file, its brain mask if it came with one."""

    record: Record
    path: Path
    mask: Path | None


@dataclass
class Preprocessed:
    """What was done.

    Attributes:
        table: One row a scan: subject, session, overlap, similarity, brain_ml, flags, reason (empty for scans
            that are in the new cohort) and detail.
        cohort: The new cohort, or None where no scan is in it.
        page: review.html, or None where no scan came as far.
        rejected: Scans left out, by reason.
        review: What the reviewers' files did, see `apply_reviews`.
    """

    table: pd.DataFrame
    cohort: Path | None
    page: Path | None
    rejected: dict[str, int]
    review: dict[str, Any]


def preprocess(
    cohort: str | Path,
    out: str | Path,
    *,
    transform: str = "affine",
    brain: str = "template",
    masks: str | None = None,
    spacing: int = 1,
    reviews: Sequence[str | Path] = (),
    jobs: int = 1,
    progress: bool = False,
) -> Preprocessed:
    """Preprocess every scan of a cohort; what is done already is not done again.

    Args:
        cohort: The cohort.
        out: Folder of the results; the scans themselves are only read.
        transform: affine or syn.
        brain: template (its mask is carried back by the registration) or hd-bet (that program finds it).
        masks: Column of the cohort with a brain mask a scan, in place of either.
        spacing: Millimetres of the result.
        reviews: Files of the review page, one or two reviewers'. They are kept and hold for later runs.
        jobs: Processes.
        progress: Show a bar.

    Raises:
        InputError: antspyx or hd-bet is missing, or an argument is wrong.
    """
    out = Path(out)
    _check(Path(cohort), out, transform=transform, brain=brain, masks=masks)
    frame = read_cohort(cohort, check="table")  # a scan that cannot be read stops itself only
    tasks = _tasks(frame, Path(cohort), masks=masks)
    Work(out).claim({"verb": "preprocess"})
    kept = keep_reviews(Work(out).reviews, reviews)
    Work(out).sweep()
    Work(out).forget({task.record.item for task in tasks})
    way = Way(out, transform, "given" if masks else brain, spacing)
    records = each(partial(_one, way=way), tasks, jobs=jobs, lost=_lost, name="preprocess", progress=progress)
    shown = [record for record in records if record.content]
    review = apply_reviews(records, kept)
    # masks lie on the grids of the scans before
    frame = frame.drop(columns=masks) if masks else frame
    return _publish(frame, records, out=out, shown=shown, review=review)


def _check(cohort: Path, out: Path, *, transform: str, brain: str, masks: str | None) -> None:
    if transform not in TRANSFORMS:
        raise InputError(f"transform must be one of {', '.join(TRANSFORMS)}, got {transform!r}.")
    if brain not in BRAINS:
        raise InputError(f"brain must be one of {', '.join(BRAINS)}, got {brain!r}.")
    if masks and brain != BRAINS[0]:
        raise InputError(f"brain must be left out where masks are given, got {brain!r} beside {masks!r}.")
    home = cohort if cohort.is_dir() else cohort.parent
    if os.path.realpath(home) == os.path.realpath(out):
        raise InputError(f"The results' folder must not be the cohort's, got {out}. Choose another --out.")
    need("ants", package="antspyx", extra="prep", verb="ldae preprocess")
    if brain == "hd-bet":
        check_program()


def _tasks(frame: pd.DataFrame, cohort: Path, *, masks: str | None) -> list[Task]:
    if masks is not None and masks not in frame.columns:
        raise InputError(
            f"masks must name a column of {cohort}, got {masks!r}. It has {', '.join(frame.columns)}."
        )
    base = cohort if cohort.is_dir() else cohort.parent
    tasks = []
    for row in frame.to_dict("records"):
        facts = {str(name): value for name, value in row.items()}
        subject, session = _label(facts["subject"], "sub-"), _label(facts["session"], "ses-")
        record = Record(
            f"{subject}_{session}", "nifti", 1, step="preprocess", subject=subject, session=session
        )
        record.facts = facts
        mask = None if masks is None else base / ("" if pd.isna(facts[masks]) else str(facts[masks]))
        tasks.append(Task(record, Path(facts["path"]), mask))
    twice = [item for item, times in Counter(task.record.item for task in tasks).items() if times > 1]
    if twice:
        raise InputError(
            f"Subjects and sessions must differ in letters or digits, got {twice[0]} twice in {cohort}."
        )
    return tasks


def _label(text: Any, prefix: str) -> str:
    """A BIDS label: letters and digits of a subject's or session's name after the prefix."""
    plain = re.sub(r"[^A-Za-z0-9]", "", str(text).removeprefix(prefix))
    return prefix + (plain or sha256_json(str(text))[:8])


def _target(record: Record, out: Path) -> Path:
    """Where a scan's brain lies once it is in the cohort."""
    return out / record.subject / record.session / "anat" / _name(record)


def _name(record: Record) -> str:
    return f"{record.item}_space-{SPACE}_desc-brain_T1w.nii.gz"


def _made_at(record: Record, out: Path) -> Path:
    """Where it lies until then: what does not fit or is rejected never comes among the results."""
    return Work(out).root / "brains" / record.item / _name(record)


def _mask_path(target: Path) -> Path:
    """The mask lies in the scan's own space, so its name tells none."""
    return target.with_name(target.name.replace(f"_space-{SPACE}_desc-brain_T1w", "_desc-brain_mask"))


def _lost(task: Task) -> Record:
    task.record.reject(RejectionError("preprocess", "failed: its process died"))
    return task.record


def _one(task: Task, *, way: Way) -> Record:
    """Preprocess a scan, unless it was done from the same files in the same way."""
    record = task.record
    try:
        made = _made(task, way)
    except RejectionError as error:
        record.reject(error)
    except Exception as error:
        # one bad scan must not stop the others, whatever a reader or ITK makes of it; the table tells why
        detail = " ".join(str(error).split())[:300]
        record.reject(RejectionError("preprocess", f"failed: {type(error).__name__}", detail=detail))
    else:
        record.content, record.quality = made["content"], made["quality"]
        _judge(record)
    return record


def _made(task: Task, way: Way) -> dict[str, Any]:
    work, target = Work(way.out), _made_at(task.record, way.out)
    sources = [sha256_file(path) for path in (task.path, task.mask) if path is not None and path.is_file()]
    key = [way.transform, way.brain, way.spacing, *sources]
    compute = partial(_compute, task, way=way, target=target)
    made = work.cached("preprocess", task.record.item, key=key, compute=compute)
    there = (target, _mask_path(target), work.mosaic(task.record.item))
    return made if all(path.is_file() for path in there) else compute()


def _compute(task: Task, *, way: Way, target: Path) -> dict[str, Any]:
    """Register one scan and write all that comes of it."""
    scratch = Work(way.out).scratch(task.record.item)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        mask = _mask(task, way, scratch=scratch)
        kind, spacing = way.transform, way.spacing
        result = register(task.path, mask=mask, transform=kind, spacing=spacing, scratch=scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _write(task, way, result=result, target=target)
    geometry = read_geometry(open_scan(task.path), task.path)
    millilitres = float(result.mask.sum()) * abs(float(np.linalg.det(geometry.affine[:3, :3]))) / 1000
    quality = {name: round(getattr(result, name), 4) for name in FIGURES if name != "brain_ml"}
    return {"content": sha256_file(target), "quality": quality | {"brain_ml": round(millilitres, 1)}}


def _mask(task: Task, way: Way, *, scratch: Path) -> NDArray[np.bool_] | None:
    """The brain on the scan's own grid, or None where the template's is carried back."""
    if task.mask is not None:
        return given_mask(task.mask, scan=task.path)
    return hd_bet_mask(task.path, scratch=scratch) if way.brain == "hd-bet" else None


def _write(task: Task, way: Way, *, result: Registered, target: Path) -> None:
    """Brain in template space, mask in the scan's, their sidecars, the picture of both."""
    geometry = read_geometry(open_scan(task.path), task.path)
    own = _mask_path(target)
    write_on_affine(result.brain, result.affine, target)
    write_on_geometry(result.mask.astype(np.float32), geometry, own)
    source = {"Sources": [task.path.name]}
    steps = ["N4BiasFieldCorrection", TRANSFORMS[way.transform], f"brain mask: {way.brain}"]
    facts = {"SkullStripped": True, "SpatialReference": SPACE, "Steps": steps}
    write_json(target.with_name(target.name.replace(".nii.gz", ".json")), source | facts)
    write_json(own.with_name(own.name.replace(".nii.gz", ".json")), source | {"Type": "Brain"})
    views = [
        View(result.head, geometry.affine, result.mask),
        View(result.brain, result.affine, result.template_mask),
    ]
    draw_mosaic(views, Work(way.out).mosaic(task.record.item), slices=4)


def _judge(record: Record) -> None:
    figures = record.quality
    low, high = BRAIN_ML
    if not low <= figures["brain_ml"] <= high:
        record.flags.append("unusual volume of the brain")
    if figures["kept"] < LEAST_KEPT:
        record.flags.append("a part of the brain is cut off")
    reasons = []
    if figures["beyond"] > MOST_BEYOND:
        reasons.append("more than the brain is left: a face may show")
    if figures["overlap"] < LEAST_OVERLAP or figures["similarity"] < LEAST_SIMILARITY:
        reasons.append("registration failed: it does not fit the template")
    record.flags += reasons
    if reasons:
        record.reject(RejectionError("preprocess", reasons[0]))


def _publish(
    frame: pd.DataFrame,
    records: Sequence[Record],
    *,
    out: Path,
    shown: Sequence[Record],
    review: dict[str, Any],
) -> Preprocessed:
    """Cohort, tables and page."""
    names = ("subject", "session")
    table = pd.DataFrame(
        {name: getattr(record, name) for name in names}
        | {name: record.quality.get(name) for name in FIGURES}
        | {"flags": "; ".join(record.flags), "reason": record.reason, "detail": record.detail}
        for record in records
    )
    with atomic_path(out / TABLE) as temporary:
        table.to_csv(temporary, index=False)
    good = [record for record in records if record.accepted]
    _lay(good, out)
    changed = frame.assign(
        path=[str(_target(record, out)) for record in records],
        brain_extracted=True,
        **{name: table[name].to_numpy() for name in FIGURES},
    )
    accepted = (table["reason"] == "").to_numpy()
    if good:
        write_cohort(_with_split(changed[accepted], out), out / COHORT)
    else:
        (out / COHORT).unlink(missing_ok=True)
    labels = {name: [getattr(record, name) for record in records] for name in names}
    people = changed.assign(**labels)[accepted]
    write_tables(people, out, verb="preprocess", faces=0)
    return Preprocessed(
        table=table,
        cohort=out / COHORT if good else None,
        page=write_page(shown, out, figures=FIGURES, note=NO_FACES) if shown else None,
        rejected=count_reasons(records),
        review=review,
    )


def _with_split(frame: pd.DataFrame, out: Path) -> pd.DataFrame:
    """With the split that was drawn in the results' folder, where the cohort itself has none."""
    if "split" in frame.columns or not earlier_split(out):
        return frame
    words = keep_split(frame.assign(diagnosis=frame["diagnosis"].fillna("")), out, seed=0)
    return frame if words is None else frame.assign(split=words)


def _lay(records: Sequence[Record], out: Path) -> None:
    """Put the files of these scans, and no others, among the results."""
    targets = [_target(record, out) for record in records]
    stems = [path.relative_to(out).as_posix() for own in targets for path in (own, _mask_path(own))]
    remove_stale(out, {stem.removesuffix(".nii.gz") for stem in stems})
    for record, target in zip(records, targets, strict=True):
        for made in sorted(_made_at(record, out).parent.iterdir()):
            link(made, target.with_name(made.name))
