# SPDX-License-Identifier: Apache-2.0
"""Scans with contrast agent are left out, whichever way their names tell it."""

from __future__ import annotations

from typing import Any

import pytest

from ldae.data.ingest.choose import choose_file, choose_series
from ldae.data.ingest.manifest import RejectionError


def header(words: str) -> dict[str, Any]:
    return {"modality": "MR", "image_type": ["ORIGINAL", "PRIMARY", "M"], "words": words}


@pytest.mark.parametrize(
    "words",
    [
        "t1_mprage_sag_KM",
        "T1 3D C+",
        "t1 +C",
        "T1 MPRAGE POST",
        "t1_mprage_GD",
        "T1ce",
        "Sag T1 contrast",
        "t1.post.contrast",
        "T1 nach KM",
        "T1 mit Kontrastmittel",
        "t1_mprage Dotarem",
        "t1_mprage_sag | BRAIN WITH CONTRAST",
        "t1_mprage_KM | BRAIN W/WO CONTRAST",
    ],
)
def test_series_with_contrast_agent_are_left_out(words: str) -> None:
    with pytest.raises(RejectionError, match="with contrast agent"):
        choose_series(header(words), contrast="T1w")


@pytest.mark.parametrize(
    "words",
    [
        "T1 without contrast",
        "T1 no contrast",
        "T1 non-contrast",
        "T1 pre contrast",
        "t1_precontrast",
        "t1_pre-Gd",
        "T1_ohne_KM",
        "t1_w/o_contrast",
        "t1_mprage_sag | BRAIN W/WO CONTRAST",
        "t1_mprage_sag | brain with and without contrast",
        "t1_mprage_pre | BRAIN WITH CONTRAST",
        "t1 multi-contrast",
        "t1 post-op",
        "t1 ant-post",
        "t1_space_sag | *spc3d1",
    ],
)
def test_series_without_contrast_agent_are_taken(words: str) -> None:
    assert choose_series(header(words), contrast="T1w") == "name"


def test_another_contrast_is_told_as_such() -> None:
    with pytest.raises(RejectionError, match="not T1w"):
        choose_series(header("t2_tse_tra_KM"), contrast="T1w")
    with pytest.raises(RejectionError, match="with contrast agent"):
        choose_series(header("flair_sag_KM"), contrast="FLAIR")


@pytest.mark.parametrize(
    ("name", "bids"),
    [
        ("sub-01_ce-gadolinium_T1w.nii.gz", True),
        ("sub-01_ses-1_acq-postGd_T1w.nii", True),
        ("case7_T1_KM.nii.gz", False),
        ("t1ce.nii.gz", False),
    ],
)
def test_files_with_contrast_agent_are_left_out(name: str, bids: bool) -> None:
    with pytest.raises(RejectionError, match="with contrast agent"):
        choose_file(name, contrast="T1w", bids=bids)


@pytest.mark.parametrize("name", ["sub-KM_ses-post_T1w.nii.gz", "sub-GD_acq-pre_T1w.nii.gz"])
def test_labels_of_subjects_and_sessions_tell_no_contrast_agent(name: str) -> None:
    assert choose_file(name, contrast="T1w", bids=True) == "name"
    assert choose_file(name, contrast="T1w", bids=False) == "name"
