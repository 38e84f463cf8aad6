# SPDX-License-Identifier: Apache-2.0
"""BIDS datasets and plain NIfTI files become cohorts too, without any DICOM library."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import nibabel as nib
import pandas as pd
import pytest
from balls import save_ball

from ldae.data.cohort import read_cohort
from ldae.data.ingest import ingest
from ldae.errors import InputError


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / "bids"
    for number in range(1, 5):
        for session in ("01", "02") if number == 1 else ("01",):
            stem = root / f"sub-P{number}" / f"ses-{session}" / "anat" / f"sub-P{number}_ses-{session}"
            save_ball(stem.with_name(f"{stem.name}_T1w.nii.gz"), seed=10 * number + int(session))
            save_ball(stem.with_name(f"{stem.name}_T2w.nii.gz"), seed=5)
            sidecar = {"MagneticFieldStrength": 1.5, "RepetitionTime": 2.3, "Manufacturer": "GE Healthcare"}
            stem.with_name(f"{stem.name}_T1w.json").write_text(json.dumps(sidecar))
    people = [[f"sub-P{n}", 60 + n, "F", word] for n, word in enumerate(("CN", "AD", "MCI", "n/a"), start=1)]
    columns = ["participant_id", "age", "sex", "diagnosis"]
    pd.DataFrame(people, columns=columns).to_csv(root / "participants.tsv", sep="\t", index=False)
    visits = [["ses-01", 61, "CN", "2015-02-03"], ["ses-02", 63, "MCI", "2017-02-13"]]
    table = pd.DataFrame(visits, columns=["session_id", "age", "diagnosis", "acq_time"])
    table.to_csv(root / "sub-P1" / "sub-P1_sessions.tsv", sep="\t", index=False)
    scans = pd.DataFrame(
        [["anat/sub-P1_ses-01_T1w.nii.gz", "2015-02-05T10:00:00"]], columns=["filename", "acq_time"]
    )
    scans.to_csv(root / "sub-P1" / "ses-01" / "sub-P1_ses-01_scans.tsv", sep="\t", index=False)
    return root


def test_a_bids_dataset_keeps_what_its_tables_say(dataset: Path, tmp_path: Path) -> None:
    save_ball(dataset / "derivatives" / "tool" / "sub-P2" / "anat" / "sub-P2_desc-brain_T1w.nii.gz", seed=7)
    save_ball(dataset / "sub-P2" / "ses-01" / "anat" / "sub-P2_ses-01_space-T1w_mask.nii.gz", seed=8)
    summary = ingest(dataset, tmp_path / "out", min_slices=20)
    assert (summary.accepted, summary.rejected) == (5, {"not T1w": 6})
    frame = read_cohort(tmp_path / "out" / "cohort.csv", check="voxels")
    twice = frame[frame["subject"].duplicated(keep=False)]
    assert twice[["diagnosis", "age"]].to_numpy().tolist() == [["CN", 61], ["MCI", 63]]
    assert twice["visit_days"].iloc[0] == -2
    assert sorted(frame["diagnosis"].fillna("")) == ["", "AD", "CN", "MCI", "MCI"]
    assert set(frame["tr_ms"]) == {2300}
    assert set(frame["vendor"]) == {"GE"}
    assert not frame["subject"].str.contains("P").any()
    assert b"Petersen" not in nib.load(frame["path"][0]).header.binaryblock


def test_nothing_of_a_bids_dataset_tells_who_it_is(tmp_path: Path) -> None:
    root = tmp_path / "in"
    stem = root / "sub-Petersen" / "ses-20150203" / "anat" / "sub-Petersen_ses-20150203_T1w.nii.gz"
    save_ball(stem, seed=3)
    who = {
        "PatientName": "Petersen^Wilma",
        "InstitutionName": "Klinik Seeblick",
        "DeviceSerialNumber": "SN8812",
    }
    when = {"AcquisitionDateTime": "2015-02-03T10:20:30"}
    stem.with_name(stem.name.replace(".nii.gz", ".json")).write_text(json.dumps(who | when))
    people = "participant_id\tage\tdiagnosis\nsub-Petersen\t66\tprobable AD (Dr. Vogel)\n"
    (root / "participants.tsv").write_text(people)
    out = tmp_path / "out"
    assert ingest(root, out, min_slices=20).accepted == 1
    assert read_cohort(out / "cohort.csv")["diagnosis"].tolist() == ["AD"]
    values = {"petersen", "wilma", "seeblick", "sn8812", "20150203", "2015-02-03", "vogel", "klinik"}
    for path in [out, *out.rglob("*")]:
        raw = path.read_bytes() if path.is_file() else b""
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("latin-1").lower()
        found = [value for value in values if value in text + path.relative_to(out.parent).as_posix().lower()]
        assert not found, (path, found)


def test_labels_are_kept_on_request(dataset: Path, tmp_path: Path) -> None:
    ingest(dataset, tmp_path / "out", min_slices=20, keep_labels=True)
    frame = read_cohort(tmp_path / "out" / "cohort.csv")
    assert frame["subject"].tolist() == ["sub-P1", "sub-P1", "sub-P2", "sub-P3", "sub-P4"]
    assert frame["session"].tolist() == ["ses-01", "ses-02", "ses-01", "ses-01", "ses-01"]


def test_plain_files_are_taken_by_folder_or_name(tmp_path: Path) -> None:
    save_ball(tmp_path / "in" / "anna" / "scan.nii.gz", seed=1)
    save_ball(tmp_path / "in" / "bert_mprage.nii", seed=2)
    save_ball(tmp_path / "in" / "carl_mprage.nii.gz", seed=2)  # the same image under another name
    (tmp_path / "in" / "dora_t1.nii.gz").write_bytes(b"no image")
    save_ball(tmp_path / "in" / "anna" / "scan_brain_mask.nii.gz", seed=3)
    save_ball(tmp_path / "in" / "anna" / "localizer.nii.gz", seed=4)
    summary = ingest(tmp_path / "in", tmp_path / "out", min_slices=20)
    assert summary.accepted == 1
    assert summary.rejected == {
        "same image under several subjects": 2,
        "not a whole, readable 3D scan": 1,
        "derived": 1,
        "localiser": 1,
    }
    assert read_cohort(tmp_path / "out" / "cohort.csv")["flags"].tolist() == ["contrast not told by the name"]


def test_files_that_are_not_there_stop_nothing(dataset: Path, tmp_path: Path) -> None:
    """As in a dataset of which only a part was fetched: the rest are links to nowhere."""
    gone = dataset / "sub-P4" / "ses-01" / "anat"
    for path in [*gone.iterdir(), dataset / "scan.dcm"]:
        path.unlink(missing_ok=True)
        path.symlink_to(tmp_path / "nowhere")
    os.mkfifo(dataset / "pipe")
    summary = ingest(dataset, tmp_path / "out", min_slices=20)
    assert (summary.accepted, summary.rejected) == (4, {"not T1w": 5, "not a whole, readable 3D scan": 1})


def test_transforms_that_disagree_in_left_and_right_are_told(tmp_path: Path) -> None:
    save_ball(tmp_path / "in" / "a_t1.nii.gz", seed=1)
    image = nib.load(tmp_path / "in" / "a_t1.nii.gz")
    mirrored = image.affine.copy()
    mirrored[0] *= -1
    image.set_sform(image.affine, code=1)
    image.set_qform(mirrored, code=1)
    nib.save(image, tmp_path / "in" / "a_t1.nii.gz")
    ingest(tmp_path / "in", tmp_path / "out", min_slices=20)
    flags = read_cohort(tmp_path / "out" / "cohort.csv")["flags"].tolist()
    assert flags == ["sform and qform differ in left and right: the sform counts"]


def test_what_no_stage_would_take_is_left_out(tmp_path: Path) -> None:
    save_ball(tmp_path / "in" / "a_t1.nii.gz", seed=1)
    image = nib.load(tmp_path / "in" / "a_t1.nii.gz")
    values = image.get_fdata()
    nib.save(
        nib.Nifti1Image((values - values.mean()) / values.std(), image.affine), tmp_path / "in" / "b_t1.nii"
    )
    summary = ingest(tmp_path / "in", tmp_path / "out", min_slices=20)
    assert (summary.accepted, summary.rejected) == (1, {"intensities below zero or without contrast": 1})


def test_nobody_moves_from_split_to_split(tmp_path: Path) -> None:
    """Neither when scans are rejected, nor when others come, nor by another seed."""
    source, table = tmp_path / "in", tmp_path / "out" / "cohort.csv"
    for number in range(4):
        save_ball(source / f"p{number}" / "t1.nii.gz", seed=number)
    assert ingest(source, table.parent, min_slices=20).split == {"train": 1, "val": 1, "cal": 1, "test": 1}
    before = dict(pd.read_csv(table)[["subject", "split"]].to_numpy())
    (source / "p0").rename(tmp_path / "p0")
    fewer = ingest(source, table.parent, min_slices=20, seed=3)
    assert sum(fewer.split.values()) == 3
    assert before.items() >= dict(pd.read_csv(table)[["subject", "split"]].to_numpy()).items()
    (tmp_path / "p0").rename(source / "p0")
    for number in range(4, 8):
        save_ball(source / f"p{number}" / "t1.nii.gz", seed=number)
    more = ingest(source, table.parent, min_slices=20, seed=3)
    assert more.split == {"train": 5, "val": 1, "cal": 1, "test": 1}
    assert dict(pd.read_csv(table)[["subject", "split"]].to_numpy()).items() >= before.items()


def test_a_wrong_source_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="source must be a folder"):
        ingest(tmp_path / "none", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_table_beside_a_dataset_comes_first_and_is_filled_up(dataset: Path, tmp_path: Path) -> None:
    table = tmp_path / "visits.csv"
    table.write_text("subject,diagnosis\nP2,MCI\n")
    ingest(dataset, tmp_path / "out", min_slices=20, clinical=table, keep_labels=True)
    frame = read_cohort(tmp_path / "out" / "cohort.csv").set_index(["subject", "session"])
    second, third = frame.loc[("sub-P2", "ses-01")], frame.loc[("sub-P3", "ses-01")]
    assert (second["diagnosis"], second["age"], second["sex"]) == ("MCI", 62, "F")
    assert (third["diagnosis"], third["age"]) == ("MCI", 63)


@pytest.mark.parametrize("text", ["", "filename\tacq_time\nanat/x\t1\t2\n"])
def test_a_broken_table_of_one_subject_stops_no_other(dataset: Path, tmp_path: Path, text: str) -> None:
    (dataset / "sub-P1" / "ses-01" / "sub-P1_ses-01_scans.tsv").write_text(text)
    assert ingest(dataset, tmp_path / "out", min_slices=20, keep_labels=True).accepted == 5
    frame = read_cohort(tmp_path / "out" / "cohort.csv").set_index(["subject", "session"])
    told = frame["flags"].fillna("").str.contains("sessions.tsv or scans.tsv cannot be read")
    assert told[told].index.tolist() == [("sub-P1", "ses-01")]


def test_a_place_outside_of_the_dataset_is_nobody_s(dataset: Path, tmp_path: Path) -> None:
    table = "filename\tacq_time\n/data/sub-P1_ses-01_T1w.nii.gz\t2015-02-05\n"
    (dataset / "sub-P1" / "ses-01" / "sub-P1_ses-01_scans.tsv").write_text(table)
    assert ingest(dataset, tmp_path / "out", min_slices=20).accepted == 5


def test_a_header_for_the_whole_dataset_counts(dataset: Path, tmp_path: Path) -> None:
    (dataset / "T1w.json").write_text(json.dumps({"MagneticFieldStrength": 7, "EchoTime": 0.003}))
    ingest(dataset, tmp_path / "out", min_slices=20)
    frame = read_cohort(tmp_path / "out" / "cohort.csv")
    assert (set(frame["field_strength"]), set(frame["te_ms"])) == ({1.5}, {3})  # the nearer one comes first
