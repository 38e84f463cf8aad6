# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ldae.cli.main import main
from ldae.data.artefact import read_json
from ldae.data.cohort import read_cohort
from ldae.evaluation.attacks import ATTACKS
from ldae.evaluation.corruptions import CORRUPTIONS
from ldae.evaluation.material import Material, ScanSet
from ldae.evaluation.outside import FAR, NEAR
from ldae.evaluation.robust_heads import QUICK, WHITE_BOX_HEADS, Plan, shifts_of
from ldae.evaluation.robustness import evaluate_robustness, open_bench, scan_parts
from ldae.heads import LinearProbe
from ldae.pipeline.embeddings import code_array, read_embeddings
from ldae.report.elements import Table
from ldae.report.robustness_figures import NAMES
from ldae.report.robustness_section import SHOWN, robustness_pictures, robustness_tables
from ldae.report.run import Run

pytest.importorskip("torchio")


@pytest.fixture(scope="module")
def folder(judged_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("robust") / "evaluation" / "robustness"
    words = ["evaluate", "robustness", "--quick", "--run-dir", judged_run, "--out", out, "--device", "cpu"]
    assert main(list(map(str, words))) == 0
    return out


@pytest.mark.slow
def test_every_shift_has_a_table_and_a_figure_with_every_head(folder: Path) -> None:
    assert pd.read_csv(folder / "table.csv")["head"].tolist() == list(QUICK.heads)
    names = ["clean", *(one.name for one in CORRUPTIONS), *NEAR, *FAR]
    names += [f"{kind}_{name}" for kind in ("transfer", "white_box") for name in ATTACKS]
    for name in names:
        table = pd.read_csv(folder / f"{name}.csv")
        wanted = list(QUICK.heads)
        assert list(dict.fromkeys(table["head"])) == wanted
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    clean = pd.read_csv(folder / "clean.csv")
    assert (clean["nll_low"] <= clean["nll"]).all()
    assert clean.loc[clean["head"] == "linear", "nll_above_linear"].item() == 0


@pytest.mark.slow
def test_the_linear_row_is_a_linear_probe_on_the_same_scans(folder: Path, judged_run: Path) -> None:
    frame = read_embeddings(judged_run / "embeddings.parquet")
    rows = frame[frame["diagnosis"].isin(["CN", "AD"])]
    train = rows[rows["split"] == "train"]
    probe = LinearProbe(positive_label="AD").fit(
        code_array(train), train["diagnosis"], groups=train["subject"]
    )
    said = pd.read_csv(folder / "scans.csv").merge(rows, on=["subject", "session"])
    chances = probe.predict_proba(code_array(said))
    np.testing.assert_allclose(said["linear_p_AD"], chances[:, 0], atol=1e-4)


@pytest.mark.slow
def test_what_was_done_is_not_done_again(folder: Path, judged_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    lost = next(folder.rglob("evidential-0/gaussian.parquet"))
    kept = next(folder.rglob("evidential-0/motion.parquet"))
    stamp, said = kept.stat().st_mtime_ns, pd.read_parquet(lost)
    table = (folder / "gaussian.csv").read_bytes()
    lost.unlink()
    (folder / "result.json").unlink()
    evaluate_robustness(
        judged_run / "pipeline",
        judged_run / "cohort" / "cohort.csv",
        out=folder,
        quick=True,
        run_dir=judged_run,
        device="cpu",
    )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    assert kept.stat().st_mtime_ns == stamp
    pd.testing.assert_frame_equal(pd.read_parquet(lost), said)
    assert (folder / "gaussian.csv").read_bytes() == table


@pytest.mark.slow
def test_the_page_shows_every_head_and_shift(folder: Path, judged_run: Path) -> None:
    run = replace(Run.open(judged_run, device="cpu"), run_dir=folder.parents[1])
    tables = [element for element in robustness_tables(run) if isinstance(element, Table)]
    table = pd.read_csv(folder / "table.csv")
    for shown, first in zip(tables, ("balanced_accuracy", "corruption_balanced_accuracy"), strict=True):
        rows = [row for group in shown.groups.values() for row in group]
        assert [row[0] for row in rows] == [NAMES[head] for head in QUICK.heads]
        assert all(row[1].startswith(f"{value:.3f}") for row, value in zip(rows, table[first], strict=True))
    assert len(robustness_pictures(run)) == len(SHOWN)


@pytest.mark.slow
def test_the_notes_say_what_must_be_known(folder: Path) -> None:
    result = read_json(folder / "result.json")
    notes = " ".join(result["notes"])
    assert "ldae probe" in notes
    assert "made for the linear head and shown to the others" in notes
    assert "Label diffusion against the same depths without it" in notes
    assert result["values"]["default_head"] in QUICK.heads
    choice = pd.read_csv(folder / "choice.csv")
    assert sorted(set(choice["part"])) == ["test", "val"]


def test_a_code_does_not_depend_on_the_other_scans(scan_set: ScanSet, material: Material) -> None:
    bench = open_bench(scan_set, material, target="diagnosis", plan=QUICK, seed=0)
    codes = bench.answers.codes
    rows = codes.parts["test"].iloc[3:5]
    alone = type(codes)(scan_set, {"test": rows}, codes.folder / "alone", codes.classes, codes.target)
    for name, grade in (("gaussian", 0.5), ("motion", 2.0)):
        whole = codes.corrupted("test", name, grade=grade, seed=1)
        np.testing.assert_allclose(
            alone.corrupted("test", name, grade=grade, seed=1), whole[3:5], atol=1e-4, rtol=1e-4
        )


def test_the_whole_benchmark_covers_what_it_says(judged_run: Path) -> None:
    plan = Plan()
    shifts = shifts_of(plan, unseen=True)
    assert sum(len(shift.grades) for shift in shifts if shift.family == "corruption") == 34
    assert plan.seeds == 3
    assert plan.attacked == 60
    assert plan.eps == (2 / 255, 8 / 255, 0.03)
    assert len(WHITE_BOX_HEADS) == 6
    assert set(WHITE_BOX_HEADS) <= set(plan.heads)
    frame = read_cohort(judged_run / "cohort" / "cohort.csv")
    parts, classes = scan_parts(frame.assign(key=frame["path"]), target="diagnosis", plan=plan, seed=0)
    assert classes == ("AD", "CN")
    assert set(parts["unseen_diagnosis"]["diagnosis"]) == {"MCI"}
    assert set(parts["attacked"]["subject"]) <= set(parts["test"]["subject"])
    assert parts["attacked"]["subject"].is_unique


def test_faults_are_told_in_a_sentence(
    judged_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "robustness", "--quick", "--run-dir", judged_run, "--out", tmp_path / "out"]
    assert main([*map(str, words), "--target", "age"]) == 2
    assert "target must be a column of classes, got the numbers of 'age'" in capsys.readouterr().err
    assert main([*map(str, words), "--target", "nothing"]) == 2
    assert "target must be a column of" in capsys.readouterr().err
    assert main(["evaluate", "robustness", "--run-dir", str(tmp_path)]) == 2
    assert "missing" in capsys.readouterr().err
