# SPDX-License-Identifier: Apache-2.0
"""Sections that only some runs have: the solvers' sweep, calibration of a head, and the examination."""

from __future__ import annotations

from pathlib import Path

import pytest
from coded_cohort import write_coded_cohort

from ldae.data.artefact import read_json
from ldae.evaluation.calibration import evaluate_calibration
from ldae.evaluation.doctor import examine_pipeline
from ldae.evaluation.probes import fit_probe
from ldae.evaluation.solvers import evaluate_solvers
from ldae.pipeline.folder import read_index
from ldae.report.calibration_section import calibration_elements
from ldae.report.content import build_sections
from ldae.report.elements import Picture, Table
from ldae.report.evaluation_tables import solvers_table
from ldae.report.examination_section import examination_elements
from ldae.report.run import Run

pytestmark = pytest.mark.slow


def calibrate(run_dir: Path, *, target: str) -> Path:
    """Calibrate a head on codes of many subjects, for this run."""
    folder = run_dir / target
    folder.mkdir()
    codes = write_coded_cohort(folder, subjects=1200, pipeline=read_index(run_dir / "pipeline").sha256)
    head = fit_probe(codes, target=target, out=folder / "heads" / target)
    out = run_dir / "evaluation" / "calibration"
    return evaluate_calibration(run_dir / "pipeline", run_dir / "cohort" / "cohort.csv", out=out, head=head)


@pytest.fixture(scope="module")
def run_dir(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run like the finished one, in which all three were evaluated too."""
    folder = tmp_path_factory.mktemp("further")
    for name in ("cohort", "cache", "pipeline", "heads", "embeddings.parquet"):
        (folder / name).symlink_to(finished_run / name)
    given, out = (folder / "pipeline", folder / "cohort" / "cohort.csv"), folder / "evaluation"
    evaluate_solvers(
        *given, out=out / "solvers", solvers=["ddim", "exact"], steps=[2, 3], limit=2, device="cpu"
    )
    calibrate(folder, target="age")
    examine_pipeline(*given, out=out / "doctor", limit=6, device="cpu")
    return folder


@pytest.fixture(scope="module")
def run(run_dir: Path) -> Run:
    return Run.open(run_dir, device="cpu")


def test_every_solver_is_listed_with_its_calls(run: Run) -> None:
    table = solvers_table(run)
    both = table.groups["both codes"]
    assert [row[:3] for row in both] == [
        ["ddim", "2", "2"],
        ["ddim", "2", "3"],
        ["ddim", "3", "2"],
        ["ddim", "3", "3"],
        ["exact", "2", "2"],
        ["exact", "3", "3"],
    ]
    assert list(table.groups) == ["both codes", "semantic code, fresh noise", "without a semantic code"]
    assert {row[1] for row in table.groups["semantic code, fresh noise"]} == {"–"}
    wanted = "ldae evaluate reconstruction --sweep --steps 2 3 --solver ddim exact --limit 2 --run-dir"
    assert table.command == f"{wanted} {run.run_dir}"


def test_intervals_of_a_number(run: Run) -> None:
    (table,) = calibration_elements(run)
    assert isinstance(table, Table)
    assert table.columns == ["conformal", "wanted", "truth within", "width"]
    assert [row[:2] for row in table.groups[""]] == [["absolute error", "0.90"], ["absolute error", "0.95"]]
    assert "--head" in table.command


def test_classes_have_curves_and_a_table_a_question(run: Run) -> None:
    folder = calibrate(run.run_dir, target="diagnosis")
    values = read_json(folder / "result.json")["values"]
    picture, *tables = calibration_elements(run)
    assert isinstance(picture, Picture)
    assert "diagnosis" in picture.caption
    questions = {table.columns[0]: table.groups[""] for table in tables if isinstance(table, Table)}
    assert list(questions) == ["calibration", "conformal", "selective prediction"]
    method, nll, *_ = questions["calibration"][0]
    assert (method, nll.split(" ")[0]) == ("as fitted", f"{values['nll_as_fitted']:.3f}")
    method, level, coverage, *_ = questions["conformal"][0]
    assert (method, level, coverage.split(" ")[0]) == ("lac", "0.90", f"{values['coverage_lac_90']:.3f}")


def test_the_verdict_stands_below_the_picture(run: Run) -> None:
    picture, table = examination_elements(run)
    assert isinstance(picture, Picture)
    assert isinstance(table, Table)
    document = read_json(run.run_dir / "evaluation" / "doctor" / "doctor.json")
    assert picture.caption == document["verdict"]
    assert [row[0] for row in table.groups[""]] == [check["name"] for check in document["checks"]]


def test_the_page_has_them_in_their_chapters(run: Run) -> None:
    sections, missing = build_sections(run)
    counts = {section.title: len(section.elements) for section in sections}
    assert counts["Reconstruction"] == 1
    assert counts["Does the head know when it does not?"] >= 1
    assert counts["Is the code used?"] == 2
    assert not any("sweep" in text or "calibration" in text or "doctor" in text for text in missing)
