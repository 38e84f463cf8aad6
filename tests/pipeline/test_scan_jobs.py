# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from tiny_pipeline import write_scan

from ldae.cli.scans import tell
from ldae.data.artefact import write_json
from ldae.data.differences import grid_differences
from ldae.errors import InputError
from ldae.pipeline.pipeline import LDAEPipeline
from ldae.pipeline.scan_jobs import (
    JobResult,
    Sampling,
    check_scans,
    gather_scans,
    interpolate_scans,
    reconstruct_scans,
)

FAST = Sampling(steps=2, decode_steps=3)
DATA = Path(os.environ.get("LDAE_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))


def test_reconstructions(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    result = reconstruct_scans(pipe, gather_scans(scans[:2]), out=tmp_path, sampling=FAST)
    assert [path.name for path in result.paths] == [
        "sub-00_ses-1_desc-reconstruction_T1w.nii.gz",
        "sub-01_ses-1_desc-reconstruction_T1w.nii.gz",
    ]
    source, written = nib.load(scans[1]), nib.load(result.paths[1])
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-4)
    document = json.loads(result.result.read_text())
    assert result.result == tmp_path / "result.json"
    assert document["verb"] == "reconstruct"
    assert document["pipeline"]["sha256"] == pipe.sha256
    assert [tmp_path / item["path"] for item in document["outputs"]] == result.paths
    assert [item["source"] for item in document["outputs"]] == scans[:2]
    assert document["sources"][scans[0]]["verdict"] == result.novelty[scans[0]].verdict
    items = [item.item for item in result.changes[scans[0]]]
    assert items == [one.item for one in pipe.spec.differences(scans[0])[1:3] if one.differs]
    assert [item["item"] for item in document["sources"][scans[0]]["changes"]] == items
    sidecar = json.loads(result.paths[0].with_name("sub-00_ses-1_desc-reconstruction_T1w.json").read_text())
    assert (sidecar["Steps"], sidecar["DecodeSteps"], sidecar["Solver"]) == (2, 3, "gaussian-2m")
    assert sidecar["PipelineSha256"] == pipe.sha256
    wanted = pipe.decode(pipe.encode(scans[0], steps=2), steps=3)
    again = nib.load(wanted.save(tmp_path / "again.nii.gz")).get_fdata()
    np.testing.assert_allclose(nib.load(result.paths[0]).get_fdata(), again, rtol=1e-3, atol=0.5)


def test_what_is_done_to_another_grid_is_said(
    pipe: LDAEPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "turned.nii.gz"
    voxels = np.linspace(0, 100, 8000).reshape(20, 20, 20)
    nib.save(nib.Nifti1Image(voxels, np.diag([-4.0, 4, 9, 1])), path)
    result = JobResult(tmp_path / "result.json")
    result.changes["turned.nii.gz"] = [
        item for item in grid_differences(pipe.spec, pipe.spec.apply(path).geometry) if item.differs
    ]
    assert [item.item for item in result.changes["turned.nii.gz"]] == ["orientation", "spacing"]
    result.novelty["turned.nii.gz"] = pipe.novelty([path])[0]
    write_json(result.result, {"outputs": []})
    tell(result)
    said = capsys.readouterr().out
    assert "turned.nii.gz: orientation LAS, the pipeline's is RAS: axes permuted and flipped, undone" in said
    assert "turned.nii.gz: spacing 4 x 4 x 9 mm, the pipeline's is" in said


def test_a_split_of_a_cohort(run_dir: Path, cohort: pd.DataFrame) -> None:
    found = gather_scans(cohort=run_dir / "cohort" / "cohort.csv", split="test")
    assert [str(scan.path) for scan in found] == list(cohort.loc[cohort["split"] == "test", "path"])
    with pytest.raises(InputError, match="split must be one of train, val, cal, test, got 'all'"):
        gather_scans(cohort=run_dir / "cohort" / "cohort.csv", split="all")


def test_scans_are_given_in_one_way(run_dir: Path, scans: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got neither"):
        gather_scans()
    with pytest.raises(InputError, match="got both"):
        gather_scans(scans, cohort=run_dir / "cohort" / "cohort.csv")
    with pytest.raises(InputError, match="A split must come with a cohort"):
        gather_scans(scans, split="test")
    with pytest.raises(FileNotFoundError, match=r"none\.nii\.gz, which does not exist"):
        gather_scans([tmp_path / "none.nii.gz"])


def test_scans_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [write_scan(tmp_path / folder / "scan.nii.gz", seed=1) for folder in ("a", "b")]
    with pytest.raises(InputError, match="Outputs must have a name each"):
        gather_scans(paths)


def test_interpolation(pipe: LDAEPipeline, scans: list[str], tmp_path: Path) -> None:
    first, second = gather_scans(scans[:2])
    result = interpolate_scans(pipe, first, second=second, out=tmp_path, fractions=[0.25, 1], sampling=FAST)
    assert [path.name for path in result.paths] == [
        "sub-00_ses-1_desc-interpolation0p25_T1w.nii.gz",
        "sub-00_ses-1_desc-interpolation1_T1w.nii.gz",
    ]
    assert json.loads(result.result.read_text())["outputs"][0]["Fraction"] == 0.25
    sidecar = result.paths[0].with_name("sub-00_ses-1_desc-interpolation0p25_T1w.json")
    assert json.loads(sidecar.read_text())["Sources"] == scans[:2]


@pytest.mark.parametrize("bad", ["steps", "fractions"])
def test_bad_input_leaves_nothing_behind(
    pipe: LDAEPipeline, scans: list[str], tmp_path: Path, bad: str
) -> None:
    out, found = tmp_path / "out", gather_scans(scans[:2])
    if bad == "steps":
        with pytest.raises(InputError, match="between 1 and 999, got 1000"):
            reconstruct_scans(pipe, found, out=out, sampling=Sampling(steps=5, decode_steps=1000))
    else:
        with pytest.raises(InputError, match="fractions must lie within"):
            interpolate_scans(pipe, found[0], second=found[1], out=out, fractions=[2.0], sampling=FAST)
    assert not out.exists()


def test_paths_of_the_record_do_not_depend_on_the_working_folder(
    pipe: LDAEPipeline, scans: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = Path(scans[0])
    (tmp_path / source.name).symlink_to(source)
    result = reconstruct_scans(pipe, gather_scans([source.name]), out="results", sampling=FAST)
    document = json.loads(result.result.read_text())
    output = document["outputs"][0]
    assert (tmp_path / "results" / output["path"]).is_file()
    assert output["source"] == str(tmp_path / source.name)
    assert list(document["sources"]) == [str(tmp_path / source.name)]
    assert Path(document["pipeline"]["folder"]).is_absolute()


def test_check_says_what_differs_and_how_far_outside(pipe: LDAEPipeline, scans: list[str]) -> None:
    check = check_scans(pipe, scans[:1])[0]
    assert {item.item: item.differs for item in check.differences}["orientation"]
    assert check.novelty is not None
    assert check.to_dict()["novelty"]["verdict"] == check.novelty.verdict


@pytest.mark.parametrize(
    "name", ["adult_T1w.nii.gz", pytest.param("icbm152_T1w.nii.gz", marks=pytest.mark.slow)]
)
def test_a_real_head_is_worked_on_and_called_far_outside(
    pipe: LDAEPipeline, name: str, tmp_path: Path
) -> None:
    source = DATA / "scans" / name
    if not source.is_file():
        pytest.skip(f"{source} is not there: set LDAE_TEST_DATA")
    result = reconstruct_scans(pipe, gather_scans([source]), out=tmp_path, sampling=Sampling(steps=1))
    written, raw = nib.load(result.paths[0]), nib.load(source)
    assert written.shape == raw.shape
    np.testing.assert_allclose(written.affine, raw.affine, atol=1e-4)
    assert not result.novelty[str(source)].inside
