# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ldae.data.cohort import CohortError, read_cohort
from ldae.errors import InputError

Blob = Callable[..., Path]


def table(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row.replace(" ", "\t") for row in rows) + "\n")


@pytest.fixture
def study(tmp_path: Path, blob: Blob) -> Path:
    """Two visits of one subject, one visit of another without a session folder, other images beside them."""
    root = tmp_path / "study"
    blob("study/sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    blob("study/sub-01/ses-2/anat/sub-01_ses-2_T1w.nii")
    blob("study/sub-02/anat/sub-02_T1w.nii.gz")
    blob("study/sub-02/anat/sub-02_T2w.nii.gz")
    blob("study/sub-02/func/sub-02_bold.nii.gz")
    table(
        root / "participants.tsv",
        "participant_id Age group sex",
        "sub-01 70.5 CN F",
        "sub-02 n/a n/a M",
        "sub-03 66 AD M",
    )
    table(
        root / "sub-01" / "sub-01_sessions.tsv", "session_id age diagnosis", "ses-1 n/a CN", "ses-2 71.5 MCI"
    )
    return root


@pytest.mark.parametrize("given", ["", "participants.tsv"])
def test_scans_with_labels(study: Path, given: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        frame = read_cohort(study / given if given else study, check="voxels")
    assert frame[["subject", "session"]].to_numpy().tolist() == [
        ["sub-01", "ses-1"],
        ["sub-01", "ses-2"],
        ["sub-02", "1"],
    ]
    assert [Path(path).name for path in frame["path"]] == [
        "sub-01_ses-1_T1w.nii.gz",
        "sub-01_ses-2_T1w.nii",
        "sub-02_T1w.nii.gz",
    ]
    assert frame["age"].fillna(-1).tolist() == [70.5, 71.5, -1]
    assert frame["diagnosis"].fillna("-").tolist() == ["CN", "MCI", "-"]
    assert frame["sex"].tolist() == ["F", "F", "M"]
    assert "1 participants" in caplog.text
    assert "sub-03" in caplog.text


def test_sessions_in_one_table_at_the_root(study: Path) -> None:
    (study / "sub-01" / "sub-01_sessions.tsv").unlink()
    table(study / "sessions.tsv", "participant_id session_id dx", "sub-01 ses-1 AD", "sub-01 ses-2 AD")
    frame = read_cohort(study)
    assert frame["diagnosis"].fillna("-").tolist() == ["AD", "AD", "-"]


def test_faults_name_the_row_of_the_participant(study: Path) -> None:
    table(study / "participants.tsv", "participant_id age group", "sub-01 70 CN", "sub-02 old patient")
    with pytest.raises(CohortError) as caught:
        read_cohort(study)
    assert [(fault.row, fault.column) for fault in caught.value.faults] == [(3, "diagnosis"), (3, "age")]


def test_faults_of_a_sessions_table_name_it(study: Path) -> None:
    table(study / "sub-01" / "sub-01_sessions.tsv", "session age", "ses-1 70")
    with pytest.raises(CohortError, match=r"sub-01_sessions\.tsv, row 1, column session_id"):
        read_cohort(study)


def test_two_scans_of_one_visit(study: Path, blob: Blob) -> None:
    blob("study/sub-02/anat/sub-02_run-2_T1w.nii.gz")
    with pytest.raises(CohortError, match=r"scan 'sub-02', '1' stands in row 3 already; keep one of .*T1w"):
        read_cohort(study)


def test_subjects_without_a_row_are_unlabelled(
    study: Path, blob: Blob, caplog: pytest.LogCaptureFixture
) -> None:
    blob("study/sub-09/anat/sub-09_T1w.nii.gz")
    frame = read_cohort(study)
    assert frame["diagnosis"].isna().tolist() == [False, False, True, True]
    assert "not in participants.tsv" in caplog.text


def test_folders_that_are_no_study(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"participants\.tsv"):
        read_cohort(tmp_path)
    table(tmp_path / "participants.tsv", "participant_id age", "sub-01 70")
    with pytest.raises(InputError, match=r"must hold sub-\*/\[ses-\*/\]anat/\*_T1w\.nii\.gz, got none"):
        read_cohort(tmp_path)
    (tmp_path / "participants.tsv").write_text("participant_id,age\nsub-01,70\n")
    with pytest.raises(InputError, match=r"must have a column participant_id.*separated by tabs"):
        read_cohort(tmp_path)


def test_a_relative_path_finds_the_scans(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_cohort(study)
    monkeypatch.chdir(study.parent)
    assert read_cohort(study.name)["path"].tolist() == expected["path"].tolist()
