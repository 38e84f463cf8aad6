# SPDX-License-Identifier: Apache-2.0
"""Which files are found, and whose scans they are taken for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from balls import save_ball

from ldae.data.cohort import read_cohort
from ldae.data.ingest import ingest
from ldae.data.ingest.deidentify import Pseudonyms
from ldae.data.ingest.discover import Found, discover, sidecars
from ldae.errors import InputError

NAMES = Pseudonyms(b"a key for tests")
SEVERAL = "several scans, and no telling whether of one person: see --subject"


def find(root: Path, *places: str, subject: str | None = None) -> Found:
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()
    return discover(root, names=NAMES, subject=subject)


def who(found: Found) -> list[tuple[str, str, bool]]:
    return sorted((item.subject, item.visit, item.guessed) for item in found.items)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("sub-7/ses-b/anat/sub-7_ses-b_T1w.nii.gz", ("7", "b", False)),
        ("images/sub-7_T1w.nii.gz", ("7", "", False)),
        ("p1/t1.nii.gz", ("p1", "", True)),
        ("p1_t1.nii.gz", ("p1", "", True)),
        ("p1/2019-03-12/t1.nii.gz", ("p1", "20190312", True)),
        ("002_S_0295/MPRAGE/2006-04-18_08_20_30.0/S13408/a.nii", ("002_S_0295", "20060418", True)),
        ("p1/first scan/t1.nii.gz", ("p1", "firstscan", True)),
    ],
)
def test_subject_and_visit_of_a_place(tmp_path: Path, place: str, expected: tuple[str, str, bool]) -> None:
    assert who(find(tmp_path, place)) == [expected]


def test_an_expression_tells_the_subject(tmp_path: Path) -> None:
    places = ("images/case000_T1.nii.gz", "images/case001_T1.nii.gz", "images/other.nii.gz")
    found = find(tmp_path, *places, subject=r"(case\d+)_")
    assert who(found) == [("", "", False), ("case000", "", False), ("case001", "", False)]
    with pytest.raises(InputError, match=r"subject must be a regular expression, got '\('"):
        find(tmp_path, subject="(")


def test_files_that_may_be_several_people_s_are_left_out_until_it_is_told(tmp_path: Path) -> None:
    for number in range(4):
        save_ball(tmp_path / "in" / f"AD_{number:03d}_T1.nii.gz", seed=number)
    summary = ingest(tmp_path / "in", tmp_path / "out", min_slices=20)
    assert (summary.accepted, summary.rejected) == (0, {SEVERAL: 4})
    summary = ingest(tmp_path / "in", tmp_path / "out", min_slices=20, subject=r"(AD_\d+)")
    assert (summary.accepted, summary.subjects) == (4, 4)


def test_visits_in_folders_are_all_kept_with_their_dates(tmp_path: Path) -> None:
    for number, day in enumerate(("2021-03-12", "2019-03-10")):
        save_ball(tmp_path / "in" / "case0" / day / "T1.nii.gz", seed=number)
    (tmp_path / "visits.csv").write_text(
        "subject,date,diagnosis\ncase0,2019-03-12,MCI\ncase0,2021-03-12,AD\n"
    )
    summary = ingest(tmp_path / "in", tmp_path / "out", min_slices=20, clinical=tmp_path / "visits.csv")
    assert (summary.accepted, summary.subjects) == (2, 1)
    frame = read_cohort(tmp_path / "out" / "cohort.csv")
    assert frame[["session", "diagnosis", "visit_days"]].to_numpy().tolist() == [
        ["ses-1", "MCI", 2],
        ["ses-2", "AD", 0],
    ]


def test_links_are_followed_once_and_closed_folders_counted(tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "in"
    find(root, "p1/t1.nii.gz")
    find(tmp_path / "elsewhere", "t1.nii.gz")
    (root / "p2").symlink_to(tmp_path / "elsewhere")
    (root / "p1" / "loop").symlink_to(root)
    (root / "again").symlink_to(root / "p1")
    (root / "closed").mkdir()
    scandir = os.scandir

    def refuse(place: str) -> object:
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    found = discover(root, names=NAMES)
    assert sorted(item.paths[0].name for item in found.items) == ["t1.nii.gz"] * 2
    assert {item.subject for item in found.items} & {"p2"}
    assert found.closed == 1


def test_what_ldae_wrote_is_no_source(tmp_path: Path) -> None:
    save_ball(tmp_path / "in" / "p1" / "t1.nii.gz", seed=1)
    ingest(tmp_path / "in", tmp_path / "in" / "cohort", min_slices=20, key=tmp_path / "key.json")
    assert ingest(tmp_path / "in", tmp_path / "in" / "cohort2", min_slices=20).found == 1


def test_sidecars_are_inherited_from_the_root_down(tmp_path: Path) -> None:
    scan = tmp_path / "sub-1" / "ses-2" / "anat" / "sub-1_ses-2_acq-x_T1w.nii.gz"
    scan.parent.mkdir(parents=True)
    told = [
        "T1w.json",
        "acq-x_T1w.json",
        "sub-1/sub-1_T1w.json",
        "sub-1/ses-2/anat/sub-1_ses-2_acq-x_T1w.json",
    ]
    others = ["acq-y_T1w.json", "T2w.json", "sub-1/ses-2/anat/sub-1_ses-2_run-1_T1w.json"]
    for place in told + others:
        (tmp_path / place).write_text(json.dumps({}))
    assert [path.relative_to(tmp_path).as_posix() for path in sidecars(scan)] == told
