# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from ldae.cli.main import main
from ldae.data.artefact import read_json
from ldae.evaluation.explanation import CODE, EXAMPLE, LOCALISATION, SLICES, evaluate_explanation
from ldae.evaluation.probes import fit_probe
from ldae.evaluation.record import SCANS, TABLE, read_result

pytest.importorskip("captum")
pytest.importorskip("shap")

LIMIT = 2


@pytest.fixture(scope="module")
def head(judged_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_probe(
        judged_run / "embeddings.parquet", target="age", out=tmp_path_factory.mktemp("heads") / "age"
    )


@pytest.fixture(scope="module")
def folder(judged_run: Path, head: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_explanation(
        judged_run / "pipeline",
        judged_run / "cohort" / "cohort.csv",
        head=head,
        out=tmp_path_factory.mktemp("explanation"),
        run_dir=judged_run,
        limit=LIMIT,
        steps=3,
        decode_steps=3,
        device="cpu",
    )


def test_everything_adds_up_to_the_score(folder: Path) -> None:
    scans = pd.read_csv(folder / SCANS)
    assert len(scans) == LIMIT
    beyond = scans["score"] - scans["score_baseline"]
    np.testing.assert_allclose(scans["sum_gradients"], beyond, rtol=0.01, atol=1e-3)
    np.testing.assert_allclose(scans["sum_slices"], beyond, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(scans["sum_code"], scans["score"] - scans["score_training"], rtol=1e-5)
    assert ((scans["score_counterfactual"] - scans["score"]).abs() > 1e-6).all()
    slices = pd.read_csv(folder / SLICES)
    np.testing.assert_allclose(
        slices.groupby("subject")["shapley"].sum().to_numpy(), scans.set_index("subject")["sum_slices"]
    )
    np.testing.assert_allclose(slices.groupby("subject")["attention"].sum(), 1, rtol=1e-5)
    assert pd.read_csv(folder / CODE)["mean_size"].is_monotonic_decreasing


def test_gradients_in_the_scans_own_space_integrate_to_the_score(folder: Path) -> None:
    scans = pd.read_csv(folder / SCANS, dtype={"subject": str}).set_index("subject")
    maps = sorted(folder.rglob("*desc-explanationAgeGradients_T1w.nii.gz"))
    assert len(maps) == LIMIT
    for path in maps:
        sidecar = read_json(path.with_name(path.name.replace(".nii.gz", ".json")))
        image, source = nib.load(path), nib.load(sidecar["Sources"][0])
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-4)
        assert image.shape == source.shape
        assert sidecar["Units"] == "unit of the target per ml"
        integral = image.get_fdata().sum() * np.prod(image.header.get_zooms()) / 1000
        row = scans.loc[f"sub-{path.name[4:6]}"]
        assert integral == pytest.approx(row["sum_gradients"], rel=1e-3)
    assert len(list(folder.rglob("*desc-explanationAgeOcclusion_T1w.nii.gz"))) == LIMIT
    assert len(list(folder.rglob("*desc-explanationAgeCounterfactual_T1w.nii.gz"))) == LIMIT


def test_the_tables_say_how_far_maps_agree(folder: Path) -> None:
    table, result = pd.read_csv(folder / TABLE), read_result(folder)
    assert table["map"].tolist() == [
        "integrated gradients",
        "occlusion",
        "counterfactual",
        "scan minus baseline",
    ]
    assert table["agreement"].between(-1, 1).all()
    assert result["values"]["agreement_counterfactual"] == pytest.approx(1)
    assert "is not known for this cohort" in result["notes"][-1]
    assert len(pd.read_csv(folder / LOCALISATION)) == 4 * LIMIT
    with np.load(folder / EXAMPLE) as example:
        assert {example[name].shape for name in example.files} == {(16, 24, 16)}


def test_the_verb_finds_it_done(
    folder: Path, judged_run: Path, head: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (folder / TABLE).stat().st_mtime_ns
    words = ["--run-dir", judged_run, "--head", head, "--out", folder, "--limit", LIMIT, "--steps", 3]
    words += ["--decode-steps", 3, "--device", "cpu"]
    assert main(["evaluate", "explanation", *map(str, words)]) == 0
    assert f"Wrote {folder}" in capsys.readouterr().out
    assert (folder / TABLE).stat().st_mtime_ns == written


def explained(judged_run: Path, folder: Path, head: str) -> int:
    """The exit code of explaining one scan of a head of diagnosis."""
    fitted = fit_probe(judged_run / "embeddings.parquet", target="diagnosis", out=folder / head, head=head)
    words = ["--run-dir", judged_run, "--head", fitted, "--out", folder / "out", "--limit", 1, "--steps", 3]
    words += ["--decode-steps", 3, "--device", "cpu"]
    return main(["evaluate", "explanation", *map(str, words)])


def test_gradients_of_a_head_that_samples_add_up(judged_run: Path, tmp_path: Path) -> None:
    assert explained(judged_run, tmp_path, "card") == 0
    (row,) = pd.read_csv(tmp_path / "out" / SCANS).to_dict("records")
    assert row["sum_gradients"] == pytest.approx(row["score"] - row["score_baseline"], rel=0.05, abs=0.01)


def test_a_head_of_jumps_is_refused(
    judged_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explained(judged_run, tmp_path, "neighbours") == 2
    assert "changes smoothly with the code, got NeighbourClassifier" in capsys.readouterr().err
    assert not (tmp_path / "out" / TABLE).exists()


def test_an_unknown_class_is_named(
    judged_run: Path, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run-dir", judged_run, "--head", head, "--out", tmp_path, "--target-class", "AD"]
    assert main(["evaluate", "explanation", *map(str, words)]) == 2
    assert "target_class must be left out for RidgeProbe" in capsys.readouterr().err
