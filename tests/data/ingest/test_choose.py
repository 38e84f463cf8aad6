# SPDX-License-Identifier: Apache-2.0
"""Scans with contrast agent are left out, whichever way their names tell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ldae.data.ingest.choose import choose_file, choose_series
from ldae.data.ingest.manifest import RejectionError


def header(
    words: str, kinds: Sequence[str] = ("ORIGINAL", "PRIMARY", "M"), component: str = ""
) -> dict[str, Any]:
    times = {"te": 3.4, "tr": 21.0, "ti": None, "scanning": "GR", "three_d": True}
    return {"modality": "MR", "image_type": kinds, "component": component, "words": words} | times


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


@pytest.mark.parametrize(
    "words",
    [
        "TOF_3D_multi-slab",
        "trufi_3d_ciss",
        "pdw_mfc_3dflash_v1",
        "mtw_mfc_3dflash",
        "SWI_Images",
        "Mag_Images",
        "3D DESS",
        "asl_3d_tra_iso",
        "gre_field_mapping",
        "MRA COW",
        "venography",
        "QSM",
    ],
)
def test_header_values_alone_do_not_make_another_contrast_t1w(words: str) -> None:
    with pytest.raises(RejectionError, match="not T1w"):
        choose_series(header(words), contrast="T1w")


@pytest.mark.parametrize(
    "words",
    [
        "t1_mpr_ns_sag_p2_iso_1mm",
        "t1_mpr_tra",
        "Sag 3D T1 BRAVO",
        "t1_mprage_sag_p2_iso",
        "WIP T1W_3D_TFE SENSE",
        "Accelerated Sag IR-FSPGR",
        "T1 SPACE",
        "t1_vibe_fs",
        "MPRAGE SENSE2",
        "WIP s3DT1 SENSE",
        "SAG_BRAVO",
        "3DT1_TFE_SENSE",
        "T1w_MPR1_Norm",
        "T1w_MPR_vNav",
        "t1_mprage_b1filter_norm",
    ],
)
def test_names_of_t1w_are_known(words: str) -> None:
    assert choose_series(header(words), contrast="T1w") == "name"


@pytest.mark.parametrize(
    "words",
    [
        "ADNI MPR",
        "MPR; GradWarp; N3",
        "3D Structural SENSE",
        "spgr_3d_ref",
        "",
        "head 3d",
        "Sag 3D FLASH",
        "brain_volume_1mm",
    ],
)
def test_header_values_tell_where_no_word_does(words: str) -> None:
    assert choose_series(header(words), contrast="T1w") == "header"


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ("t1_mprage_sag", ("DERIVED", "PRIMARY", "MPR", "ND", "NORM")),
        ("t1_vibe", ("DERIVED", "PRIMARY", "MIP", "NORM", "DIS2D")),
        ("t1_mprage", ("ORIGINAL", "PRIMARY", "PROJECTION IMAGE", "M")),
        ("t1_mprage_MPR_tra", ("DERIVED", "PRIMARY", "M", "ND", "NORM")),
        ("t1_vibe_MIP_cor", ("ORIGINAL", "PRIMARY", "M")),
        ("t1_mprage", ("DERIVED", "PRIMARY", "M", "ND")),
    ],
)
def test_reformats_are_derived(words: str, kinds: Sequence[str]) -> None:
    with pytest.raises(RejectionError, match="derived"):
        choose_series(header(words, kinds), contrast="T1w")


@pytest.mark.parametrize(
    "kinds",
    [
        ("DERIVED", "PRIMARY", "M", "ND", "UNI"),
        ("DERIVED", "PRIMARY", "T1", "UNIFORM"),
        ("DERIVED", "PRIMARY", "M", "ND", "NORM"),
    ],
)
def test_what_the_scanner_itself_made_of_the_scan_is_taken(kinds: Sequence[str]) -> None:
    assert choose_series(header("mp2rage_UNI_Images", kinds), contrast="T1w") == "name"


def test_a_phase_image_may_be_told_by_its_component() -> None:
    with pytest.raises(RejectionError, match="phase image"):
        choose_series(header("t1_mprage", component="PHASE"), contrast="T1w")
    assert choose_series(header("t1_mprage", component="MAGNITUDE"), contrast="T1w") == "name"


@pytest.mark.parametrize(
    ("words", "contrast"),
    [
        ("t2_tirm_tra_dark-fluid", "T2w"),
        ("t2_swi3d_tra", "T2w"),
        ("t2_trufi3d_ciss", "T2w"),
        ("T2 map", "T2w"),
        ("dwi_T2", "T2w"),
        ("Ax T1 FLAIR", "FLAIR"),
        ("t1_flair_sag", "FLAIR"),
        ("TOF_3D_T1", "T1w"),
        ("AX T1 DCE VIBE", "T1w"),
        ("T1w_vNav_setter", "T1w"),
    ],
)
def test_names_of_two_contrasts_are_not_taken_for_the_wrong_one(words: str, contrast: str) -> None:
    with pytest.raises(RejectionError, match=f"not {contrast}"):
        choose_series(header(words), contrast=contrast)


@pytest.mark.parametrize(
    ("words", "contrast"),
    [
        ("t2_tse_tra", "T2w"),
        ("t2_space_sag", "T2w"),
        ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("t2_flair", "FLAIR"),
    ],
)
def test_names_tell_their_contrast(words: str, contrast: str) -> None:
    assert choose_series(header(words), contrast=contrast) == "name"
