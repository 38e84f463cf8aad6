# SPDX-License-Identifier: Apache-2.0
"""Scans to subjects and visits: duplicates, one scan a visit, order in time, the nearest clinical visit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import date
from itertools import count

from ldae.data.ingest.choose import BY_HEADER, UNNAMED
from ldae.data.ingest.clinical import Visit
from ldae.data.ingest.manifest import REVIEWED, Record, RejectionError
from ldae.data.split import natural_key

SEVERAL = "several scans, and no telling whether of one person: see --subject"
# How far apart the ages of visits may be that count for one scan.
MOST_YEARS = 1.0
# How far a dated visit's age may be from the header's, which counts whole years.
AGES_APART = 2.0


def match(
    records: Sequence[Record],
    visits: Sequence[Visit],
    *,
    window: int,
    keep: bool,
    guessed: Collection[str] = (),
    unwanted: Collection[str] = (),
) -> None:
    """Give every accepted record its session and label, in place.

    Args:
        records: All items.
        visits: What is known of the subjects.
        window: Most days between a scan and its clinical visit.
        keep: Keep the source's session labels where it has them.
        guessed: Items whose subject nothing names for certain: several at one visit may be several people.
        unwanted: Items that a reviewer rejected; another scan of the visit takes their place.
    """
    _reject_duplicates(_accepted(records), guessed)
    _reject_second_scans(_accepted(records), guessed, unwanted=unwanted)
    subjects: dict[str, list[Record]] = defaultdict(list)
    for record in _accepted(records):
        subjects[record.subject].append(record)
    known: dict[str, list[Visit]] = defaultdict(list)
    for visit in visits:
        known[visit.subject].append(visit)
    for subject, scans in subjects.items():
        _order(scans, keep=keep)
        for scan in scans:
            _label(scan, known[subject], window=window)
            if visits and not known[subject]:
                scan.flags.append("subject is not in the clinical table")
        _check_ages(scans)
        _check_person(scans)


def _accepted(records: Iterable[Record]) -> list[Record]:
    return sorted((record for record in records if record.accepted), key=lambda record: record.item)


def _reject_duplicates(records: Sequence[Record], guessed: Collection[str]) -> None:
    """One of each image stays; a file's place is no proof against a header that names the patient."""
    same: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        same[record.content].append(record)
    for items in same.values():
        group = sorted(items, key=lambda record: (record.item in guessed, record.item))
        if len({record.subject for record in group if record.item not in guessed}) == 1:
            pass
        elif len({record.subject for record in group}) > 1:
            for record in group:
                record.reject(RejectionError("match", "same image under several subjects"))
        for record in group[1:]:
            if record.accepted:
                record.reject(RejectionError("match", "duplicate of another item"))


def _reject_second_scans(
    records: Sequence[Record], guessed: Collection[str], *, unwanted: Collection[str]
) -> None:
    """Of several scans at a visit one stays that no reviewer rejected, the best by `_worth`."""
    same: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        same[record.subject, *_moment(record)].append(record)
    for group in same.values():
        best = min(group, key=lambda record: (record.item in unwanted, *_worth(record)))
        heads = [record for record in group if not record.facts.get("brain_extracted")]
        if len(heads) > 1 and not best.visit and any(record.item in guessed for record in heads):
            for record in group:
                record.reject(RejectionError("match", SEVERAL))
            continue
        for record in group:
            if record is not best and record.item in unwanted:
                record.reject(RejectionError(*REVIEWED))
            elif record is not best:
                record.reject(RejectionError("match", "another scan of the visit was taken"))
        if len(group) > 1:
            best.flags.append(f"chosen among {len(group)} scans of the visit")


def _moment(record: Record) -> tuple[str, str]:
    """What tells visits apart: the source's label, else the day, else the DICOM study."""
    return record.visit, "" if record.visit else str(record.facts["date"] or record.facts.get("study", ""))


def _worth(record: Record) -> tuple[bool, bool, float, float, str]:
    """First what is the contrast by name, then whole heads, then the finest, then by signal to noise.

    A skull-stripped copy has air without noise, and so a signal beyond compare.
    """
    unsure = not {BY_HEADER, UNNAMED}.isdisjoint(record.flags)
    stripped = bool(record.facts.get("brain_extracted"))
    return unsure, stripped, _voxel(record), -record.quality["snr"], record.item


def _voxel(record: Record) -> float:
    size = 1.0
    for axis in "xyz":
        size *= float(record.facts[f"spacing_{axis}_mm"])
    return round(size, 3)


def _order(scans: list[Record], *, keep: bool) -> None:
    """Sessions 1, 2, ... in time, or in the order of the source's labels where a date is missing."""
    dated = all(scan.facts["date"] for scan in scans)
    scans.sort(key=lambda scan: (scan.facts["date"] if dated else "", natural_key(scan.visit), scan.item))
    labels = {scan.visit for scan in scans if keep}
    free = (number for number in count(1) if str(number) not in labels)
    for scan in scans:
        scan.session = f"ses-{scan.visit if keep and scan.visit else next(free)}"
        scan.step = "match"
    labelled = len({scan.visit for scan in scans}) == len(scans)
    if dated or len(scans) < 2 or (labelled and not any(scan.facts["date"] for scan in scans)):
        return
    for scan in scans:
        scan.flags.append(f"order {'by label' if labelled else 'unknown'}, as dates are missing")


def _label(scan: Record, visits: Sequence[Visit], *, window: int) -> None:
    near, distance = _nearest(scan, visits, window=window)
    scan.facts["visit_days"] = distance
    told = {visit.label.diagnosis for visit in near if visit.label.diagnosis}
    conflict = len(told) > 1 or any(visit.label.conflict for visit in near)
    from_table = next((visit.label for visit in near if visit.label.diagnosis), None)
    header = scan.facts.pop("header_diagnosis"), scan.facts.pop("header_words")
    if header[0] and from_table and header[0] != from_table.diagnosis:
        conflict = True
    diagnosis, words, source = (
        (from_table.diagnosis, from_table.matched, "table") if from_table else (*header, "header")
    )
    if conflict:
        scan.flags.append("conflicting diagnoses")
        diagnosis, words = "", ""
    if not diagnosis and not conflict and any(visit.label.unknown for visit in near):
        scan.flags.append("diagnosis in words that the vocabulary does not know")
    scan.facts |= {"diagnosis": diagnosis, "diagnosis_words": words}
    scan.facts["diagnosis_source"] = source if diagnosis else ""
    if visits and not near:
        scan.flags.append("no clinical visit within the window")
    if diagnosis and not scan.facts["date"] and not scan.visit and any(visit.when for visit in near):
        scan.flags.append("diagnosis of a visit whose distance is unknown, as the scan has no date")
    _complete(scan, near)


def _complete(scan: Record, near: Sequence[Visit]) -> None:
    """Age and sex where the header has none; sexes and ages that differ are flagged."""
    ages = [visit.age for visit in near if visit.age is not None]
    sex = next((visit.sex for visit in near if visit.sex), None)
    if any(visit.odd_age for visit in near):
        scan.flags.append("age in a form that is not known")
    if scan.facts["age"] is None and ages:
        if max(ages) - min(ages) > MOST_YEARS:
            scan.flags.append("several ages, and no date to choose by")
        else:
            scan.facts["age"] = ages[0]
    elif scan.facts["visit_days"] is not None and any(abs(a - scan.facts["age"]) > AGES_APART for a in ages):
        scan.flags.append("age differs between header and table")
    if scan.facts["sex"] and sex and scan.facts["sex"] != sex:
        scan.flags.append("sex differs between header and table")
    scan.facts["sex"] = scan.facts["sex"] or sex or ""


def _nearest(scan: Record, visits: Sequence[Visit], *, window: int) -> tuple[list[Visit], int | None]:
    """The visits that tell of a scan: same label, else nearest in time, else those without time or label.

    Visits that tell a diagnosis come before nearer ones that tell none.
    """
    if scan.visit and (same := [visit for visit in visits if visit.session == scan.visit]):
        same = [visit for visit in same if abs(_days(scan, visit) or 0) <= window]
        return same, _days(scan, same[0]) if same else None
    dated = [(abs(days), visit) for visit in visits if (days := _days(scan, visit)) is not None]
    if dated:
        inside = [(days, visit) for days, visit in dated if days <= window]
        telling = [pair for pair in inside if pair[1].label.diagnosis or pair[1].label.conflict] or inside
        least = min((days for days, _ in telling), default=None)
        near = [visit for days, visit in telling if days == least]
        return near, _days(scan, near[0]) if near else None
    return [visit for visit in visits if not visit.session or not scan.visit], None


def _days(scan: Record, visit: Visit) -> int | None:
    when = scan.facts["date"]
    return (visit.when - date.fromisoformat(when)).days if when and visit.when else None


def _check_ages(scans: Sequence[Record]) -> None:
    """Ages must not fall from session to session."""
    before = None
    for scan in scans:
        age = scan.facts["age"]
        if before is not None and age is not None and age < before - 1:
            scan.flags.append("age falls with time")
        before = age if age is not None else before


def _check_person(scans: Sequence[Record]) -> None:
    """One identifier must not stand for two people."""
    births = {scan.facts.get("birth", "") for scan in scans} - {""}
    sexes = {scan.facts["sex"] for scan in scans} - {""}
    for what, values in (("birth dates", births), ("sexes", sexes)):
        if len(values) > 1:
            for scan in scans:
                scan.flags.append(f"several {what} under one identifier: perhaps several people")
