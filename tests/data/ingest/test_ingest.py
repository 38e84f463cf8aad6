# SPDX-License-Identifier: Apache-2.0
"""A hospital's export becomes a cohort that tells nobody's name, again after every kill."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")

import pydicom
from dicom_series import Export, head, straight, write_series
from hospital import PEOPLE, identifying_values, make_clinical, make_export

from ldae.data.cohort import read_cohort
from ldae.data.ingest import Summary, ingest
from ldae.data.ingest.deidentify import write_key
from ldae.data.ingest.review import agreement, read_review
from ldae.errors import InputError

HERE = Path(__file__).parent
ENTRY = "from ldae.cli.main import entry; entry()"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    make_export(folder / "export")
    make_clinical(folder / "visits.csv")
    # a drawn key would, once in many, shift a day onto another subject's true one
    write_key(folder / "secret.json", {"secret": "5e" * 32})
    return folder


def take(hospital: Path, out: Path, **options: object) -> Summary:
    key = hospital / "secret.json"
    return ingest(
        hospital / "export", out, key=key, clinical=hospital / "visits.csv", min_slices=20, **options
    )


@pytest.fixture(scope="module")
def cohort(hospital: Path) -> Path:
    out = hospital / "cohort"
    take(hospital, out)
    return out


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".ingest" not in path.parts
    }


def test_what_is_found_is_taken_or_has_a_reason(cohort: Path) -> None:
    summary = json.loads((cohort / "summary.json").read_text())
    assert (summary["found"], summary["accepted"], summary["subjects"]) == (9, 6, 5)
    reasons = {"localiser": 1, "not T1w": 1, "missing slices: distances between slices differ": 1}
    assert summary["rejected"] == reasons
    assert summary["ignored"] == 1
    manifest = pd.read_csv(cohort / "manifest.csv")
    assert manifest["state"].value_counts().to_dict() == {"accepted": 6, "rejected": 3}


def test_every_stage_accepts_the_cohort(cohort: Path) -> None:
    frame = read_cohort(cohort / "cohort.csv", check="voxels")
    assert len(frame) == 6
    assert set(frame["split"]) == {"train", "val", "cal", "test"}
    assert set(frame["vendor"]) == {"Siemens"}
    assert frame["sex"].unique().tolist() == ["F"]
    assert len(read_cohort(cohort)) == 6  # as a BIDS dataset too


def test_visits_are_matched_in_time(cohort: Path, hospital: Path) -> None:
    frame = read_cohort(cohort / "cohort.csv")
    twice = frame[frame["subject"].duplicated(keep=False)]
    assert twice["session"].tolist() == ["ses-1", "ses-2"]
    assert twice["diagnosis"].tolist() == ["AD", "MCI"]
    assert twice["age"].tolist() == [72, 73]
    assert twice["visit_days"].tolist() == [10, 2]
    days = pd.to_datetime(twice["date"]).diff().dt.days.iloc[1]
    assert days == (pd.Timestamp("2020-07-01") - pd.Timestamp("2019-06-10")).days
    once = frame[~frame["subject"].duplicated(keep=False)]
    assert sorted(once["diagnosis"].fillna("none")) == ["CN", "CN", "MCI", "none"]


def test_nothing_tells_who_it_is(cohort: Path, hospital: Path) -> None:
    values = {value.lower() for value in identifying_values() if len(value) >= 4}
    for path in (hospital / "export").rglob("*"):
        if path.is_file() and path.suffix != ".txt":
            header = pydicom.dcmread(path, stop_before_pixels=True)
            values |= {header.SOPInstanceUID, header.SeriesInstanceUID, header.StudyInstanceUID}
    assert len(values) > 400
    for path in cohort.rglob("*"):
        place = path.relative_to(cohort).as_posix().lower()
        assert not [value for value in values if value in place]
        if path.is_file():
            raw = path.read_bytes()
            text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("latin-1").lower()
            found = [value for value in values if value in text]
            assert not found, (path, found)


def test_the_key_tells_and_is_private(cohort: Path, hospital: Path) -> None:
    key = hospital / "secret.json"
    assert key.stat().st_mode & 0o777 == 0o600
    scans = json.loads(key.read_text())["scans"].values()
    subjects = {scan["subject"] for scan in scans if "Meyer" in scan["source"] and "subject" in scan}
    assert len(subjects) == 1
    key.chmod(0o644)
    with pytest.raises(InputError, match="readable by its owner only"):
        take(hospital, hospital / "other")
    key.chmod(0o600)
    with pytest.raises(InputError, match="outside the cohort's folder"):
        ingest(hospital / "export", cohort, key=cohort / "key.json")


def test_a_second_run_changes_nothing_and_does_little(cohort: Path, hospital: Path) -> None:
    before = contents(cohort)
    times = {path: path.stat().st_mtime_ns for path in (cohort / ".ingest").rglob("*.*") if path.is_file()}
    take(hospital, cohort)
    assert contents(cohort) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize("jobs", [2])
def test_processes_make_the_same_cohort(cohort: Path, hospital: Path, tmp_path: Path, jobs: int) -> None:
    take(hospital, tmp_path / "cohort", jobs=jobs)
    assert contents(tmp_path / "cohort") == contents(cohort)


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 4, 9, 17, 24, 30, 41, 47, 55])
def test_killed_anywhere_it_ends_with_the_same_cohort(
    cohort: Path, hospital: Path, tmp_path: Path, after: int
) -> None:
    command = [sys.executable, HERE / "killed.py", "ingest", hospital, tmp_path / "cohort", str(after)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-500:]
    take(hospital, tmp_path / "cohort")
    assert contents(tmp_path / "cohort") == contents(cohort)
    assert not list((tmp_path / "cohort").rglob(".partial-*"))


def test_reviews_are_applied_and_compared(cohort: Path, hospital: Path, tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    take(hospital, out)
    manifest = pd.read_csv(out / "manifest.csv")
    scans = manifest[manifest["state"] == "accepted"]
    paths = []
    for reviewer, rejected in (("A", {0}), ("B", {0, 1})):
        rows = [
            [row.item, row.content[:16], "reject" if number in rejected else "accept", "", reviewer]
            for number, row in enumerate(scans.itertuples())
        ]
        path = tmp_path / f"{reviewer}.csv"
        pd.DataFrame(rows, columns=["item", "content", "decision", "comment", "reviewer"]).to_csv(
            path, index=False
        )
        paths.append(path)
    summary = take(hospital, out, reviews=paths)
    assert summary.accepted == 4
    assert summary.rejected["rejected by a reviewer"] == 2
    both = summary.review["agreement"]
    # one and two rejections of six, five alike: chance is 5/6 * 4/6 + 1/6 * 2/6
    assert both["share"] == pytest.approx(5 / 6, abs=1e-4)
    chance = 5 / 6 * 4 / 6 + 1 / 6 * 2 / 6
    assert both["kappa"] == pytest.approx((5 / 6 - chance) / (1 - chance), abs=1e-4)
    assert len(both["disagree"]) == 1
    assert len(read_cohort(out / "cohort.csv")) == 4
    assert take(hospital, out).accepted == 4  # reviews hold until others are given
    assert agreement(read_review(paths[0]), read_review(paths[0]))["kappa"] == 1


def test_the_command_tells_what_happened_and_nobodys_name(hospital: Path, tmp_path: Path) -> None:
    """Values that break DICOM's rules too, which readers like to quote."""
    broken = {
        "PatientID": "KH4711-0815",
        "PatientBirthDate": "12.03.1947",
        "InstitutionName": "Klinikum Sonnenberg " * 5,
        "StudyTime": "um zehn",
        "PatientAge": "Frau Meyer ist 72",
        "SeriesInstanceUID": "Meyer 1",
    }
    with pydicom.config.disable_value_validation():
        write_series(tmp_path / "in", head(), straight(), export=Export(elements=broken))
        write_series(
            tmp_path / "in" / "2",
            head(),
            straight(),
            export=Export(elements=broken | {"SeriesInstanceUID": "Meyer 2"}, drop=[3]),
        )
    out = tmp_path / "cohort"
    words = [sys.executable, "-W", "always", "-c", ENTRY, "ingest", tmp_path / "in", "--out", out]
    done = subprocess.run([*words, "--min-slices", "20"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert "2 found, 1 accepted, 1 rejected\n      1 missing slices" in done.stdout
    assert f"Wrote {out / 'cohort.csv'}" in done.stdout
    assert f"Keep {tmp_path / 'cohort.key.json'} secret" in done.stdout
    assert "1 scans are whole heads: a face can be rebuilt from them" in done.stdout
    assert "No split was drawn" in done.stdout
    told = f"{done.stdout}{done.stderr}".lower()
    values = {*broken.values(), *identifying_values(), "sonnenberg", "meyer", "12.03.1947"}
    assert not [value for value in values if value.strip().lower() in told]


def test_faces_are_told_of(cohort: Path) -> None:
    assert json.loads((cohort / "summary.json").read_text())["faces"] == 6
    assert "face rebuilt from them tells who it is" in (cohort / "review.html").read_text()
    assert "face rebuilt from them tells who it is" in (cohort / "README").read_text()
    frame = pd.read_csv(cohort / "cohort.csv")
    assert not frame["brain_extracted"].any()
    sidecar = Path(frame["path"][0].replace(".nii.gz", ".json"))
    assert json.loads((cohort / sidecar).read_text())["SkullStripped"] is False


def test_the_cohort_is_a_bids_derivative(cohort: Path) -> None:
    description = json.loads((cohort / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["GeneratedBy"][0]["Name"]) == (
        "derivative",
        "ldae ingest",
    )
    people = pd.read_csv(cohort / "participants.tsv", sep="\t")
    assert len(people) == len(PEOPLE)
    for table in (cohort / "participants.tsv", *cohort.glob("sub-*/*_sessions.tsv")):
        columns = pd.read_csv(table, sep="\t").columns[1:]
        assert set(columns) == set(json.loads(table.with_suffix(".json").read_text()))
    scans = sorted(path.relative_to(cohort).as_posix() for path in cohort.rglob("*_T1w.nii.gz"))
    assert all(re.fullmatch(r"(sub-\w+)/(ses-\d)/anat/\1_\2_T1w\.nii\.gz", scan) for scan in scans)


def test_only_what_is_new_is_worked_on(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "1", head(seed=1), straight(), export=Export())
    key = tmp_path / "key.json"
    first = ingest(tmp_path / "in", tmp_path / "out", key=key, min_slices=20)
    (scan,) = (tmp_path / "out" / ".ingest" / "volumes").iterdir()
    before = scan.stat().st_mtime_ns
    other = Export(elements={"PatientID": "KH4799-1111"}, drop=[4])
    paths = write_series(tmp_path / "in" / "2", head(seed=2), straight(), export=other, uid="2.25.5")
    second = ingest(tmp_path / "in", tmp_path / "out", key=key, min_slices=20)
    assert (first.accepted, second.accepted, sum(second.rejected.values())) == (1, 1, 1)
    for path in paths:
        path.unlink()
    whole = Export(elements={"PatientID": "KH4799-1111"})
    write_series(tmp_path / "in" / "2", head(seed=2), straight(), export=whole, uid="2.25.5")
    assert ingest(tmp_path / "in", tmp_path / "out", key=key, min_slices=20).accepted == 2
    assert scan.stat().st_mtime_ns == before


def test_studies_without_dates_stay_apart(tmp_path: Path) -> None:
    for number in (1, 2):
        export = Export(date="", elements={"PatientAge": ""})
        write_series(tmp_path / "in" / f"{number}", head(seed=number), straight(), export=export)
    summary = ingest(tmp_path / "in", tmp_path / "out", min_slices=20)
    assert (summary.accepted, summary.subjects) == (2, 1)
    frame = read_cohort(tmp_path / "out" / "cohort.csv")
    assert frame["session"].tolist() == ["ses-1", "ses-2"]
    assert frame["flags"].tolist() == ["order unknown, as dates are missing"] * 2


def test_pseudonyms_depend_on_the_key(cohort: Path, hospital: Path, tmp_path: Path) -> None:
    other = ingest(hospital / "export", tmp_path / "cohort", key=tmp_path / "key.json", min_slices=20)
    assert other.cohort is not None
    ours, theirs = (set(pd.read_csv(path)["subject"]) for path in (cohort / "cohort.csv", other.cohort))
    assert len(ours) == len(theirs) == len(PEOPLE)
    assert not ours & theirs
    assert np.isfinite(pd.read_csv(other.cohort)["snr"]).all()
