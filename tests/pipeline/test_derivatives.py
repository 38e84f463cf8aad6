# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ldae.data.artefact import write_json
from ldae.errors import InputError
from ldae.pipeline.derivatives import Derivative, ScanName, check_names, label, number_label
from ldae.pipeline.pipeline import LDAEPipeline


@pytest.mark.parametrize(
    ("path", "row", "wanted"),
    [
        ("sub-01_T1w.nii.gz", {}, "sub-01/anat/sub-01_desc-x_T1w.nii.gz"),
        ("sub-01_ses-M06_T1w.nii", {}, "sub-01/ses-M06/anat/sub-01_ses-M06_desc-x_T1w.nii.gz"),
        (
            "sub-01_acq-mprage_run-2_desc-old_T1w.nii.gz",
            {},
            "sub-01/anat/sub-01_acq-mprage_run-2_desc-x_T1w.nii.gz",
        ),
        ("sub-01_FLAIR.nii.gz", {}, "sub-01/anat/sub-01_desc-x_FLAIR.nii.gz"),
        ("icbm152_T1w.nii.gz", {}, "sub-icbm152/anat/sub-icbm152_desc-x_T1w.nii.gz"),
        ("my scan (final).nii.gz", {}, "sub-myscanfinal/anat/sub-myscanfinal_desc-x_T1w.nii.gz"),
        (
            "I12345.nii.gz",
            {"subject": "002_S_0413", "session": "m12"},
            "sub-002S0413/ses-m12/anat/sub-002S0413_ses-m12_desc-x_T1w.nii.gz",
        ),
        ("sub-01_T1w.nii.gz", {"subject": "sub-01", "session": "1"}, "sub-01/anat/sub-01_desc-x_T1w.nii.gz"),
        (
            "sub-01_T1w.nii.gz",
            {"subject": "other", "session": "1"},
            "sub-other/ses-1/anat/sub-other_ses-1_desc-x_T1w.nii.gz",
        ),
    ],
)
def test_names(path: str, row: dict[str, str], wanted: str) -> None:
    assert ScanName.of(f"/data/{path}", **row).file("x") == Path(wanted)


def test_labels() -> None:
    assert label("sub-A_1", prefix="sub") == "A1"
    assert label("脳", prefix="sub").isalnum()
    assert label("脳", prefix="sub") != label("心", prefix="sub")
    assert [number_label(value) for value in (0.25, 60, -1, 1.5)] == ["0p25", "60", "m1", "1p5"]


def test_two_sources_may_not_share_a_name() -> None:
    names = [ScanName.of("/a/sub-01_T1w.nii.gz"), ScanName.of("/b/sub-01_T1w.nii.gz")]
    with pytest.raises(InputError, match=r"/a/sub-01_T1w\.nii\.gz and /b/sub-01_T1w\.nii\.gz"):
        check_names(names, ["/a/sub-01_T1w.nii.gz", "/b/sub-01_T1w.nii.gz"])
    check_names(names, ["/a/x", "/a/x"])


def write(pipe: LDAEPipeline, source: str, out: Path, *, desc: str = "test") -> Path:
    return Derivative(out, sources=[source]).write(
        pipe.read(source),
        ScanName.of(source),
        desc=desc,
        description="A test.",
        sources=[source],
        details={"Seed": 3, "Target": 0.1},
    )


def test_a_derivative_is_whole(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    path = write(pipe, scans[0], tmp_path)
    assert path == tmp_path / "sub-00" / "ses-1" / "anat" / "sub-00_ses-1_desc-test_T1w.nii.gz"
    source, written = nib.load(scans[0]), nib.load(path)
    assert written.shape == source.shape
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-4)
    sidecar = json.loads(path.with_name("sub-00_ses-1_desc-test_T1w.json").read_text())
    assert sidecar["Synthetic"] is True
    assert sidecar["Sources"] == [scans[0]]
    assert sidecar["Description"] == "A test."
    assert (sidecar["Seed"], sidecar["Target"]) == (3, 0.1)
    assert sidecar["GeneratedBy"][0]["Name"] == "ldae"
    dataset = json.loads((tmp_path / "dataset_description.json").read_text())
    assert dataset["DatasetType"] == "derivative"
    assert dataset["GeneratedBy"][0]["Name"] == "ldae"
    assert dataset["SourceDatasets"] == [{"URL": Path(scans[0]).parent.as_uri()}]


def test_descriptions_are_collected(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    write(pipe, scans[0], tmp_path, desc="b")
    write(pipe, scans[1], tmp_path, desc="a")
    write(pipe, scans[1], tmp_path, desc="a")
    text = (tmp_path / "descriptions.tsv").read_text()
    assert text == "desc_id\tdescription\na\tA test.\nb\tA test.\n"


def test_results_lie_apart_from_raw_scans(pipe: LDAEPipeline, scans: list[str]) -> None:
    folder = Path(scans[0]).parent
    before = set(folder.rglob("*"))
    for out in (folder, folder.parent):
        with pytest.raises(InputError, match="Results must lie apart from raw scans"):
            write(pipe, scans[0], out)
    assert set(folder.rglob("*")) == before


def test_another_dataset_is_not_written_into(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    write_json(tmp_path / "dataset_description.json", {"Name": "Raw", "BIDSVersion": "1.8.0"})
    with pytest.raises(InputError, match=r"whose dataset_description\.json is another's"):
        write(pipe, scans[0], tmp_path)


def test_no_image_is_left_without_its_sidecar(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    """Else the same command, begun again, would take what it wrote itself for another's."""
    folder = tmp_path / "sub-00" / "ses-1" / "anat"
    (folder / "sub-00_ses-1_desc-test_T1w.json").mkdir(parents=True)
    with pytest.raises(OSError, match="desc-test_T1w"):
        write(pipe, scans[0], tmp_path)
    assert not list(folder.glob("*.nii.gz"))
    (folder / "sub-00_ses-1_desc-test_T1w.json").rmdir()
    assert write(pipe, scans[0], tmp_path).is_file()


def test_another_s_file_is_not_replaced(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    path = write(pipe, scans[0], tmp_path)
    write(pipe, scans[0], tmp_path)
    path.with_name("sub-00_ses-1_desc-test_T1w.json").unlink()
    with pytest.raises(InputError, match="must not replace another's file"):
        write(pipe, scans[0], tmp_path)


def test_source_datasets_add_up(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    from tiny_pipeline import write_scan

    other = write_scan(tmp_path / "raw" / "sub-77" / "anat" / "sub-77_T1w.nii.gz", seed=1)
    write_json(tmp_path / "raw" / "dataset_description.json", {"Name": "Raw", "BIDSVersion": "1.8.0"})
    out = tmp_path / "out"
    write(pipe, scans[0], out)
    write(pipe, str(other), out)
    urls = {
        entry["URL"] for entry in json.loads((out / "dataset_description.json").read_text())["SourceDatasets"]
    }
    assert urls == {Path(scans[0]).parent.as_uri(), (tmp_path / "raw").as_uri()}
    assert Derivative(out, sources=[]).folder == out
