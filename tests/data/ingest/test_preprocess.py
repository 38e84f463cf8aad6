# SPDX-License-Identifier: Apache-2.0
"""What surrounds the registration: masks, resumption, reviews, tables; heads here lie in template space."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from known_heads import in_place, make_cohort, turned
from scipy import ndimage

from ldae.cli.main import main
from ldae.data.cohort import read_cohort
from ldae.data.ingest import preprocess as room
from ldae.data.ingest.brain import check_program, given_mask, hd_bet_mask
from ldae.data.ingest.manifest import RejectionError
from ldae.data.ingest.preprocess import Preprocessed, preprocess
from ldae.errors import InputError

HERE = Path(__file__).parent
HD_BET = """#!{python}
import sys
import nibabel as nib, numpy as np
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
image = nib.load(words["-i"])
assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
assert "--save_bet_mask" in sys.argv and words["-device"] in ("cpu", "cuda")
mask = (image.get_fdata() > 300).astype(np.uint8)
nib.save(nib.Nifti1Image(mask, image.affine), words["-o"].removesuffix(".nii.gz") + "_bet.nii.gz")
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two heads in template space, and one far from it."""
    folder = tmp_path_factory.mktemp("study")
    make_cohort(folder, [np.eye(4), np.eye(4), turned() @ np.diag([1.6, 1.6, 1.6, 1])], spacing=4)
    return folder


@pytest.fixture
def without_ants(monkeypatch: pytest.MonkeyPatch) -> None:
    """antspyx's place taken, and the registration by that of heads in template space."""
    monkeypatch.setitem(sys.modules, "ants", ModuleType("ants"))
    monkeypatch.setattr(room, "register", in_place)


@pytest.fixture(scope="module")
def out(study: Path) -> Path:
    return study / "results" / "out"


@pytest.fixture(scope="module")
def result(study: Path, out: Path) -> Preprocessed:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ants", ModuleType("ants"))
        patch.setattr(room, "register", in_place)
        return preprocess(study / "cohort.csv", out, spacing=4)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_brains_are_a_cohort_and_a_bids_derivative(result: Preprocessed, out: Path) -> None:
    assert result.table["reason"].tolist() == ["", "", "registration failed: it does not fit the template"]
    frame = read_cohort(out / "cohort.csv", check="voxels")
    assert frame["subject"].tolist() == ["1", "2"]
    assert (frame["overlap"] > 0.9).all()
    assert (frame["similarity"] > 0.6).all()  # the bias is still in
    assert (frame["kept"] > 0.9).all()
    assert (frame["beyond"] == 0).all()
    assert len(read_cohort(out)) == 2  # as a BIDS dataset too, without the one that does not fit
    assert not list(out.glob("sub-3*/**/*.nii.gz"))
    stem = "sub-1/ses-1/anat/sub-1_ses-1"
    sidecar = json.loads((out / f"{stem}_space-MNI152NLin2009aSym_desc-brain_T1w.json").read_text())
    assert sidecar["SkullStripped"]
    assert sidecar["Sources"] == ["scan1.nii.gz"]
    assert json.loads((out / f"{stem}_desc-brain_mask.json").read_text())["Type"] == "Brain"
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    sessions = pd.read_csv(out / "sub-1" / "sub-1_sessions.tsv", sep="\t")
    assert sessions[["session_id", "age", "diagnosis"]].to_numpy().tolist() == [["ses-1", 70, "CN"]]


def test_the_mask_lies_on_the_scans_own_grid(result: Preprocessed, study: Path, out: Path) -> None:
    own = nib.load(out / "sub-1/ses-1/anat/sub-1_ses-1_desc-brain_mask.nii.gz")
    scan, truth = nib.load(study / "scan1.nii.gz"), nib.load(study / "mask1.nii.gz").get_fdata() > 0
    np.testing.assert_allclose(own.affine, scan.affine)
    found = own.get_fdata() > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95
    millilitres = found.sum() * 4.6**3 / 1000
    assert result.table["brain_ml"].iloc[0] == pytest.approx(millilitres, abs=0.1)


def test_a_second_run_does_nothing(result: Preprocessed, study: Path, out: Path, without_ants: None) -> None:
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    assert len(times) == 10  # three pairs, two of them linked to their place
    before = contents(out)
    preprocess(study / "cohort.csv", out, spacing=4)
    assert contents(out) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    next(path for path in times if ".ingest" in path.parts).unlink()
    preprocess(study / "cohort.csv", out, spacing=4)
    assert contents(out) == before


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 4, 9, 17, 24])
def test_killed_anywhere_it_ends_with_the_same_cohort(
    result: Preprocessed, study: Path, out: Path, tmp_path: Path, without_ants: None, after: int
) -> None:
    killed = tmp_path / "killed" / "out"
    command = [sys.executable, HERE / "killed.py", "preprocess", study / "cohort.csv", killed, str(after)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-500:]
    preprocess(study / "cohort.csv", killed, spacing=4)
    expected = contents(out)
    for name in ("cohort.csv", "review.html"):  # both name their folder
        assert (killed / name).is_file()
        expected.pop(name)
    found = {name: value for name, value in contents(killed).items() if name in expected}
    assert found == expected
    frames = [read_cohort(folder / "cohort.csv").drop(columns="path") for folder in (killed, out)]
    pd.testing.assert_frame_equal(*frames)
    assert not [path for path in killed.rglob("*") if path.name.startswith(".partial-")]
    assert not list((killed / ".ingest" / "scratch").glob("*"))


def test_a_given_mask_is_used_and_a_bad_one_stops_its_scan_only(
    study: Path, tmp_path: Path, without_ants: None
) -> None:
    table = pd.read_csv(study / "cohort.csv").assign(mask=["mask1.nii.gz", "none.nii.gz", None])
    table.to_csv(study / "masked.csv", index=False)
    done = preprocess(study / "masked.csv", tmp_path / "out", masks="mask", spacing=4)
    assert done.rejected == {"no brain mask": 2}
    own = nib.load(tmp_path / "out/sub-1/ses-1/anat/sub-1_ses-1_desc-brain_mask.nii.gz").get_fdata()
    np.testing.assert_array_equal(own, nib.load(study / "mask1.nii.gz").get_fdata())
    with pytest.raises(InputError, match=r"masks must name a column of .*, got 'brain'"):
        preprocess(study / "masked.csv", tmp_path / "out", masks="brain")
    with pytest.raises(InputError, match="brain must be left out where masks are given"):
        preprocess(study / "masked.csv", tmp_path / "out", masks="mask", brain="hd-bet")


def test_a_mask_that_leaves_the_face_in_is_refused(study: Path, tmp_path: Path, without_ants: None) -> None:
    scan = nib.load(study / "scan1.nii.gz")
    brain = nib.load(study / "mask1.nii.gz").get_fdata() > 0
    depth, far = brain.copy(), ndimage.binary_dilation(brain, iterations=4)  # 18 mm
    depth[: brain.shape[0] // 2] = False
    for name, mask in (("face", far), ("half", depth)):
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), scan.affine), study / f"{name}.nii.gz")
    table = pd.read_csv(study / "cohort.csv").iloc[:2].assign(mask=["face.nii.gz", "half.nii.gz"])
    table.assign(session=["face", "half"]).to_csv(study / "wide.csv", index=False)
    table = preprocess(study / "wide.csv", tmp_path / "out", masks="mask", spacing=4).table
    done = table.set_index("session")
    assert "more than the brain is left" in done["reason"]["ses-face"]
    assert done["kept"]["ses-face"] == 1
    assert "a part of the brain is cut off" in done["flags"]["ses-half"]
    assert done["kept"]["ses-half"] == pytest.approx(0.5, abs=0.1)
    assert done["beyond"]["ses-half"] == 0


def test_names_are_bids_labels_whatever_the_table_calls_them(
    study: Path, tmp_path: Path, without_ants: None
) -> None:
    rows = [["002_S_0413", "Month 6", "scan1.nii.gz"], ["002_S_0413", "bl", "scan2.nii.gz"]]
    table = pd.DataFrame(rows, columns=["subject", "session", "path"]).assign(diagnosis="CN", age=70)
    table.to_csv(study / "study.csv", index=False)
    done = preprocess(study / "study.csv", tmp_path / "out", spacing=4)
    stem = "sub-002S0413/ses-Month6/anat/sub-002S0413_ses-Month6_space-MNI152NLin2009aSym_desc-brain_T1w"
    assert (tmp_path / "out" / f"{stem}.nii.gz").is_file()
    assert read_cohort(str(done.cohort))["subject"].tolist() == ["002_S_0413"] * 2
    table.assign(session=["m6", "m-6"]).to_csv(study / "study.csv", index=False)
    with pytest.raises(InputError, match="letters or digits, got sub-002S0413_ses-m6 twice"):
        preprocess(study / "study.csv", tmp_path / "out", spacing=4)


def table_of(study: Path, folder: Path, *, subjects: int) -> pd.DataFrame:
    """The same head under several names."""
    for number in range(subjects):
        shutil.copy(study / "scan1.nii.gz", folder / f"p{number}.nii.gz")
    rows = [[f"p{number}", "1", folder / f"p{number}.nii.gz"] for number in range(subjects)]
    return pd.DataFrame(rows, columns=["subject", "session", "path"]).assign(diagnosis="CN", age=70)


def test_a_damaged_scan_stops_itself_only(study: Path, tmp_path: Path, without_ants: None) -> None:
    frame = table_of(study, tmp_path, subjects=3)
    frame.loc[1, "path"] = tmp_path / "cut.nii.gz"
    frame.loc[2, "path"] = tmp_path / "nowhere.nii.gz"
    (tmp_path / "cut.nii.gz").write_bytes((study / "scan1.nii.gz").read_bytes()[:1000])
    frame.to_csv(tmp_path / "cohort.csv", index=False)
    table = preprocess(tmp_path / "cohort.csv", tmp_path / "out", spacing=4).table.set_index("subject")
    assert table.loc["sub-p0", "reason"] == ""
    assert table.loc["sub-p1", "reason"].startswith("failed: ")
    assert "nowhere.nii.gz" in table.loc["sub-p2", "detail"]


def test_a_split_of_the_results_stays(study: Path, tmp_path: Path, without_ants: None) -> None:
    cohort, out = tmp_path / "cohort.csv", tmp_path / "out"
    table_of(study, tmp_path, subjects=5).to_csv(cohort, index=False)
    preprocess(cohort, out, spacing=4)
    assert "split" not in read_cohort(out / "cohort.csv").columns
    assert main(["split", "--cohort", str(out / "cohort.csv"), "--seed", "3"]) == 0
    drawn = read_cohort(out / "cohort.csv").set_index("subject")["split"]
    preprocess(cohort, out, spacing=4)
    assert read_cohort(out / "cohort.csv").set_index("subject")["split"].equals(drawn)
    table_of(study, tmp_path, subjects=6).drop(index=1).to_csv(cohort, index=False)
    preprocess(cohort, out, spacing=4)
    again = read_cohort(out / "cohort.csv").set_index("subject")["split"]
    assert again.loc[["p0", "p2", "p3", "p4"]].equals(drawn.loc[["p0", "p2", "p3", "p4"]])
    assert again.loc["p5"] in ("train", "val", "cal", "test")


def test_a_mask_must_fit_its_scan(study: Path, tmp_path: Path) -> None:
    mask = nib.load(study / "mask1.nii.gz")
    nib.save(nib.as_closest_canonical(mask), tmp_path / "turned.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), tmp_path / "empty.nii.gz")
    for name, reason in (("turned", "not on the scan's grid"), ("empty", "is empty"), ("none", "no brain")):
        with pytest.raises(RejectionError, match=reason):
            given_mask(tmp_path / f"{name}.nii.gz", scan=study / "scan1.nii.gz")


def test_hd_bet_is_called_on_the_ras_copy_and_its_mask_turned_back(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "hd-bet"
    program.parent.mkdir()
    program.write_text(HD_BET.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    check_program()
    scan = study / "scan1.nii.gz"
    found = hd_bet_mask(scan, scratch=tmp_path)
    np.testing.assert_array_equal(found, nib.load(scan).get_fdata() > 300)
    program.write_text(f"#!{sys.executable}\nraise SystemExit('no weights')")
    (tmp_path / "brain_bet.nii.gz").unlink()
    with pytest.raises(RejectionError) as error:
        hd_bet_mask(scan, scratch=tmp_path)
    assert (error.value.reason, error.value.detail) == ("hd-bet failed", "no weights")


def test_what_is_missing_is_named(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["preprocess", "--cohort", str(study / "cohort.csv"), "--out", str(tmp_path / "out")]
    monkeypatch.setitem(sys.modules, "ants", None)
    assert main(words) == 2
    assert "needs antspyx. Install it with: pip install 'ldae[prep]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ants", ModuleType("ants"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([*words, "--brain", "hd-bet"]) == 2
    assert "needs the program hd-bet, which is not on the path" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="results' folder must not be the cohort's"):
        preprocess(study / "cohort.csv", study)


def test_reviews_by_command(
    study: Path, tmp_path: Path, without_ants: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["preprocess", "--cohort", str(study / "cohort.csv"), "--out", str(out), "--spacing", "4"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "3 scans, 2 preprocessed, 1 left out\n      1 registration failed" in told
    assert f"Look at {out / 'review.html'}" in told
    page = (out / "review.html").read_text()
    assert all(word in page for word in ("overlap", "similarity", "brain, ml", "sub-3 ses-1"))
    scan = out / "sub-2/ses-1/anat/sub-2_ses-1_space-MNI152NLin2009aSym_desc-brain_T1w.nii.gz"
    content = hashlib.sha256(scan.read_bytes()).hexdigest()[:16]
    review = pd.DataFrame([["sub-2_ses-1", content, "reject", "ear", "A"]])
    review.columns = ["item", "content", "decision", "comment", "reviewer"]
    review.to_csv(tmp_path / "review.csv", index=False)
    assert main([*words, "--review", str(tmp_path / "review.csv")]) == 0
    assert "1 rejected by a reviewer" in capsys.readouterr().out
    assert read_cohort(out / "cohort.csv")["subject"].tolist() == ["1"]
    assert not (out / "sub-2").exists()
    assert main([*words, "--review", *[str(tmp_path / "review.csv")] * 3]) == 2
    assert "one or two reviewers' files, got 3" in capsys.readouterr().err


def test_a_scan_that_fails_is_named_and_the_others_go_on(
    study: Path, tmp_path: Path, without_ants: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(scan: Path, **options: object) -> object:
        if scan.name == "scan1.nii.gz":
            raise RuntimeError("ITK ran out\nof ideas")
        return in_place(scan, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "register", fails)
    table = preprocess(study / "cohort.csv", tmp_path / "out", spacing=4).table
    assert table["reason"].iloc[0] == "failed: RuntimeError"
    assert table["detail"].iloc[0] == "ITK ran out of ideas"
    assert table["reason"].iloc[1] == ""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One head that lies elsewhere, for antspyx itself."""
    pytest.importorskip("ants", reason="the extra `prep` is not installed")
    folder = tmp_path_factory.mktemp("real")
    make_cohort(folder, [turned()])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "overlap"),
    [
        pytest.param([], 0.95, id="affine"),
        pytest.param(["--transform", "syn"], 0.95, id="syn"),
        pytest.param(["--masks", "mask"], 0.95, id="given-mask"),
    ],
)
def test_antspyx_brings_the_brain_to_the_template(
    real: Path, tmp_path: Path, words: list[str], overlap: float
) -> None:
    out = tmp_path / "out"
    command = ["preprocess", "--cohort", str(real / "cohort.csv"), "--out", str(out), "--spacing", "2"]
    assert main([*command, *words]) == 0
    row = read_cohort(out / "cohort.csv").iloc[0]
    assert row["overlap"] > overlap
    assert row["similarity"] > 0.85  # what noise and the rest of a bias of 35 % leave
    own = nib.load(out / "sub-1/ses-1/anat/sub-1_ses-1_desc-brain_mask.nii.gz")
    found, brain = own.get_fdata() > 0, nib.load(real / "mask1.nii.gz").get_fdata() > 0
    assert 2 * (found & brain).sum() / (found.sum() + brain.sum()) > 0.98
    image = nib.load(row["path"])
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert np.mean(image.get_fdata() == 0) > 0.3  # nothing but the brain
    before = Path(row["path"]).stat().st_mtime_ns
    assert main([*command, *words]) == 0
    assert Path(row["path"]).stat().st_mtime_ns == before


@pytest.mark.slow
def test_antspyx_makes_the_same_brain_twice(real: Path, tmp_path: Path) -> None:
    command = ["preprocess", "--cohort", str(real / "cohort.csv"), "--spacing", "4", "--masks", "mask"]
    found = []
    for name in ("first", "second"):
        assert main([*command, "--out", str(tmp_path / name / "out")]) == 0
        found.append(contents(tmp_path / name / "out"))
    assert found[0] == found[1]
