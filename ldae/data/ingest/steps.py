# SPDX-License-Identifier: Apache-2.0
"""What is done with each item on its own: extract, analyse, process, measure; every result kept on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldae.data.ingest.convert import extract_dicom, extract_nifti, is_image, read_sidecar, subject_of
from ldae.data.ingest.deidentify import Pseudonyms, parse_date
from ldae.data.ingest.discover import Item
from ldae.data.ingest.extras import need, silent_readers
from ldae.data.ingest.headers import (
    capped_age,
    dicom_age,
    dicom_facts,
    dicom_flags,
    sidecar_facts,
    sidecar_flags,
)
from ldae.data.ingest.labels import Vocabulary
from ldae.data.ingest.manifest import Record, RejectionError, Work
from ldae.data.ingest.mosaic import View, draw_mosaic
from ldae.data.ingest.quality import measure
from ldae.data.nifti import load_image, write_on_affine
from ldae.data.spec import PreprocessingSpec
from ldae.data.table import is_missing
from ldae.errors import InputError


@dataclass(frozen=True)
class Rules:
    """What an ingest asks for of each item.

    Attributes:
        out: The cohort's folder.
        names: Pseudonyms.
        contrast: T1w, T2w or FLAIR.
        min_slices: Fewest slices of a scan.
        vocabulary: Words of diagnoses.
        dates: Acquisition times of NIfTI files, by item.
    """

    out: Path
    names: Pseudonyms
    contrast: str
    min_slices: int
    vocabulary: Vocabulary
    dates: dict[str, str]


def run_item(item: Item, rules: Rules) -> Record:
    """Take one item through the steps that need no other; whatever goes wrong becomes its reason."""
    record = Record(item=item.name, source=item.kind, files=len(item.paths))
    try:
        with silent_readers():
            _run(item, rules, record=record)
    except RejectionError as error:
        record.reject(error)
    except Exception as error:
        # one bad series must not stop the others; the record keeps what happened
        record.reject(RejectionError(record.step, f"failed: {type(error).__name__}", detail=str(error)))
    return record


def _run(item: Item, rules: Rules, *, record: Record) -> None:
    work = Work(rules.out)
    key = [item.stamp, rules.contrast, rules.min_slices, rules.names.item("key"), rules.names.keep]
    volume = work.volume(item.name)
    extract = partial(_extract, item, rules, record=record)
    found = work.cached("extract", item.name, key=key, compute=extract)
    if "reason" not in found and not volume.is_file():
        found = extract()
    if "reason" in found:
        raise RejectionError(found["step"], found["reason"], detail=record.detail)
    record.content, record.flags = found["content"], list(found["flags"])
    record.facts = dict(found["geometry"])
    record.step = "analyse"
    told = f"{rules.dates.get(item.name, '')}\0{item.subject}"
    facts = work.cached(
        "analyse",
        item.name,
        key=[*key, rules.names.digest("told", told).hex(), asdict(rules.vocabulary)],
        compute=lambda: _analyse(item, rules),
    )
    # the source's own label may be a date, so it is kept in no file
    record.subject, record.visit = facts["subject"], item.visit
    record.facts |= facts["facts"]
    record.flags += facts["flags"]
    record.step = "process"
    made = work.cached(
        "process", item.name, key=[record.content], compute=lambda: _process(volume, work.mosaic(item.name))
    )
    record.quality = made["quality"]
    record.facts["brain_extracted"] = made["brain_extracted"]


def _extract(item: Item, rules: Rules, *, record: Record) -> dict[str, Any]:
    """Convert, and say what came out; a rejection is a result too, but its detail stays off the disk."""
    work = Work(rules.out)
    target = work.volume(item.name)
    try:
        if item.kind == "dicom":
            volume = extract_dicom(
                item,
                names=rules.names,
                contrast=rules.contrast,
                min_slices=rules.min_slices,
                scratch=work.scratch(item.name),
            )
        else:
            volume = extract_nifti(item, contrast=rules.contrast, min_slices=rules.min_slices)
    except RejectionError as error:
        record.detail = error.detail
        return {"step": error.step, "reason": error.reason}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_on_affine(volume.voxels, volume.affine, target)
    names = ("spacing_x_mm", "spacing_y_mm", "spacing_z_mm")
    return {
        "content": volume.content(),
        "flags": volume.flags,
        "geometry": dict(zip(names, volume.spacing(), strict=True)),
    }


def _analyse(item: Item, rules: Rules) -> dict[str, Any]:
    """Columns out of the headers, with pseudonyms and shifted dates only."""
    if item.kind == "dicom":
        return _analyse_dicom(item, rules)
    subject = rules.names.subject(item.subject)
    sidecar = read_sidecar(item.paths[0])
    told = rules.dates.get(item.name, ""), str(sidecar.get("AcquisitionDateTime") or "")
    when, flags = _first_date(told)
    facts = sidecar_facts(sidecar)
    site = f"{sidecar.get('InstitutionName', '')}{sidecar.get('DeviceSerialNumber', '')}"
    analysed = _analysed(rules, subject, when, facts=facts, site=site, text="")
    return analysed | {"flags": flags + sidecar_flags(sidecar)}


def _analyse_dicom(item: Item, rules: Rules) -> dict[str, Any]:
    pydicom = need("pydicom", package="pydicom", extra="dicom", verb="ldae ingest with DICOM files")
    datasets = (pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in item.paths)
    dataset = next(filter(is_image, datasets))
    subject = rules.names.subject(subject_of([dataset]))
    told = (str(dataset.get(name) or "") for name in ("StudyDate", "SeriesDate", "AcquisitionDate"))
    when, flags = _first_date(told)
    facts = dicom_facts(dataset)
    born = parse_date(str(dataset.get("PatientBirthDate", "")))
    if dicom_age(str(dataset.get("PatientAge", ""))) is None and born and when:
        facts["age"] = capped_age(round((when - born).days / 365.25, 2))
    site = str(dataset.get("InstitutionName", "")) or str(dataset.get("DeviceSerialNumber", ""))
    names = ("AdmittingDiagnosesDescription", "ReasonForStudy", "PatientComments")
    text = ". ".join(str(dataset.get(name, "")) for name in names)
    facts["study"] = rules.names.digest("study", str(dataset.get("StudyInstanceUID", ""))).hex()[:16]
    facts["birth"] = rules.names.digest("birth", born.isoformat()).hex()[:16] if born else ""
    analysed = _analysed(rules, subject, when, facts=facts, site=site, text=text)
    return analysed | {"flags": flags + dicom_flags(dataset)}


def _first_date(texts: Iterable[str]) -> tuple[date | None, list[str]]:
    """The first date that can be read, and a flag where there is text but none."""
    there = [text for text in texts if not is_missing(text)]
    found = next((day for text in there if (day := parse_date(text))), None)
    return found, ["date in a form that is not known"] if there and found is None else []


def _analysed(
    rules: Rules, subject: str, when: date | None, *, facts: dict[str, Any], site: str, text: str
) -> dict[str, Any]:
    label = rules.vocabulary.read(text)
    shifted = "" if when is None else (when + rules.names.shift(subject)).isoformat()
    told = {"date": shifted, "site": rules.names.site(site)}
    told |= {"header_diagnosis": label.diagnosis, "header_words": label.matched}
    return {"subject": subject, "facts": facts | told}


def _process(volume: Path, mosaic: Path) -> dict[str, Any]:
    image = load_image(volume)
    voxels = image.get_fdata(dtype="float32")
    voxel_ml = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    try:
        brain = PreprocessingSpec().intensity(voxels, path=volume, voxel_ml=voxel_ml).brain_extracted
    except InputError as error:
        # no later stage would take it
        reason = "intensities below zero or without contrast"
        raise RejectionError("process", reason, detail=str(error)) from error
    draw_mosaic([View(voxels, image.affine)], mosaic)
    return {"quality": measure(voxels, image.affine), "brain_extracted": brain}
