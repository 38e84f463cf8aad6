# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from torch import Tensor

from ldae.cli.main import main
from ldae.data.artefact import load_component, read_json, save_component
from ldae.evaluation.codes import encode_scans
from ldae.evaluation.doctor import _shares, effective_rank
from ldae.evaluation.explained import share_explained
from ldae.evaluation.material import Material, ScanSet
from ldae.pipeline.assemble import assemble_pipeline

Change = Callable[[str, Tensor], Tensor]


def silent_estimator(name: str, tensor: Tensor) -> Tensor:
    return tensor * 0 if name.startswith("estimator.") else tensor


def constant_codes(name: str, tensor: Tensor) -> Tensor:
    return tensor * 0 if name == "encoder.pooling.project.weight" else tensor


@pytest.fixture
def spoil(judged_run: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """A run like the judged one whose stage 3 was changed, with its pipeline."""

    def make(change: Change) -> Path:
        for name in ("cohort", "cache"):
            (tmp_path / name).symlink_to(judged_run / name)
        for name in ("autoencoder", "denoiser"):
            shutil.copytree(judged_run / name, tmp_path / name)
        stage = load_component(judged_run / "representation", "representation")
        save_component(
            tmp_path / "representation",
            kind=stage.kind,
            config=stage.config,
            tensors={name: change(name, tensor) for name, tensor in stage.tensors.items()},
            spec=stage.spec,
            split=stage.split,
            parents=stage.parents,
        )
        return assemble_pipeline(tmp_path, device="cpu")

    return make


def test_effective_rank_of_known_spectra() -> None:
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    assert effective_rank(turn @ np.diag([2.0, 2, 2, 2]) @ turn.T) == pytest.approx(4)
    assert effective_rank(turn @ np.diag([3.0, 0, 0, 0]) @ turn.T) == pytest.approx(1, abs=1e-6)
    # entropy of (3/4, 1/4) is ln 4 - 3/4 ln 3
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(4 * 3**-0.75)
    assert effective_rank(np.zeros((3, 3))) == 0


def test_any_pipeline_is_examined(
    judged_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", "--pipeline", str(judged_run / "pipeline"), "--out", str(tmp_path), "--limit", "9"]
    assert main([*words, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    document = read_json(tmp_path / "doctor.json")
    assert document["verdict"] in said
    assert document["healthy"] == all(check["state"] != "bad" for check in document["checks"])
    assert document["scans_for_gaps"] == 9
    values, levels = document["values"], pd.read_csv(tmp_path / "levels.csv")
    assert len(levels) == 20
    assert values["gap_right"] == pytest.approx(levels["right"].mean(), rel=1e-5)
    assert 1 < values["effective_rank"] <= values["code_size"] == 12
    slices = pd.read_csv(tmp_path / "slices.csv")
    assert list(slices["slice"]) == list(range(16))
    assert slices["attention"].sum() == pytest.approx(1)
    part = slices["prediction"][values["largest_slice"]] / slices["prediction"].sum()
    assert values["largest_slice_share"] == pytest.approx(part)
    low, high = values["noise_explained_ci"]
    assert low < values["noise_explained"] < high <= 1
    assert list(pd.read_csv(tmp_path / "table.csv")["name"]) == [one["name"] for one in document["checks"]]
    assert imread(tmp_path / "doctor.png").shape[1] == 1440


def test_of_many_scans_codes_are_regressed_on_evenly_spaced_ones(
    scan_set: ScanSet, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldae.evaluation.doctor.MOST_SCANS", len(scan_set.rows) - 1)
    found = _shares(scan_set, material, seed=0)
    codes = encode_scans(scan_set, material).take(range(0, len(scan_set.rows), 2))
    share, _ = share_explained(
        codes.semantic.double().numpy(),
        codes.latents.flatten(1).double().numpy(),
        subjects=list(scan_set.rows["subject"][::2]),
    )
    assert found["latent_explained"] == pytest.approx(share, rel=1e-9)


@pytest.mark.slow
def test_a_code_that_the_decoder_ignores_is_found(spoil: Callable[[Change], Path]) -> None:
    pipeline = spoil(silent_estimator)
    assert main(["doctor", "--pipeline", str(pipeline), "--limit", "9", "--device", "cpu"]) == 0
    document = read_json(pipeline.parent / "evaluation" / "doctor" / "doctor.json")
    assert document["values"]["gap_right"] == document["values"]["gap_none"]
    assert not document["healthy"]
    assert document["verdict"].startswith("The decoder does not use the code, a scan's own code leaves 100 %")
    assert "statistics" not in document["verdict"]
    assert "warm_start.epochs" in document["verdict"]


@pytest.mark.slow
def test_codes_that_are_all_alike_are_found(spoil: Callable[[Change], Path]) -> None:
    pipeline = spoil(constant_codes)
    assert main(["doctor", "--pipeline", str(pipeline), "--limit", "9", "--device", "cpu"]) == 0
    folder = pipeline.parent / "evaluation" / "doctor"
    document = read_json(folder / "doctor.json")
    states = {check["name"]: check["state"] for check in document["checks"]}
    assert document["verdict"].startswith("The codes of all scans are almost equal (also bad: ")
    assert (
        states["codes differ"] == states["error, own code to another's"] == states["effective rank"] == "bad"
    )
    assert states["code in the stochastic code"] == "cannot tell"
    assert pd.read_csv(folder / "slices.csv")["code"].max() < 1e-6


def test_too_few_subjects_are_refused(judged_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "--pipeline", str(judged_run / "pipeline"), "--limit", "4", "--device", "cpu"]
    assert main(words) == 2
    assert "must leave at least 5 subjects, got 4" in capsys.readouterr().err


def test_a_missing_cohort_is_named(
    judged_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["doctor", "--pipeline", str(judged_run / "pipeline"), "--run-dir", str(tmp_path)]
    assert main([*words, "--device", "cpu"]) == 2
    assert str(tmp_path / "cohort" / "cohort.csv") in capsys.readouterr().err
