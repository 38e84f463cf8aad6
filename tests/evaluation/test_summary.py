# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ldae.data.artefact import read_json, write_json
from ldae.errors import InputError
from ldae.evaluation.summary import FIGURES, KEYS, bar_table, write_summary

VALUES: dict[str, Any] = {
    "autoencoder_ssim": 0.98,
    "autoencoder_psnr": 30.0,
    "reconstruction_ssim": 0.995,
    "semantic_only_ssim": 0.93,
    "noise_code_mean": 0.01,
    "noise_code_std": 1.1,
    "gap_right": 0.25,
    "gap_shuffled": 1.0,
    "gap_none": 0.6,
    "probe_auc": 0.9,
    "probe_auc_ci": [0.85, 0.95],
    "baseline_auc": 0.88,
    "oracle_auc": 0.95,
    "probe_age_mae": 4.0,
    "baseline_age_mae": 4.5,
    "ventricle_r2": 0.9,
    "counterfactual_spearman": 0.97,
    "ventricle_estimator_r": 0.99,
    "interpolation_ssim": 0.97,
    "interpolation_ssim_copy": 0.95,
}
TIMINGS = {"phantom": 60.0, "autoencoder": 200, "denoiser": 100, "representation": 250, "total": 700}


def write_run(run_dir: Path, **changed: Any) -> Path:
    """Results as the evaluations write them; a value of None leaves the key out."""
    values = {key: value for key, value in {**VALUES, **changed}.items() if value is not None}
    sources = {figure.key: figure.source for figure in FIGURES}
    for name in set(sources.values()) - {"timings"}:
        part = {key: value for key, value in values.items() if sources.get(key, "code") == name}
        write_json(run_dir / "evaluation" / name / "result.json", {"evaluation": name, "values": part})
    write_json(run_dir / "timings.json", {f"seconds_{name}": value for name, value in TIMINGS.items()})
    return run_dir


def test_every_key_is_there_flat_and_in_order(tmp_path: Path) -> None:
    path = write_summary(write_run(tmp_path, gap_right_of_none=0.4))
    summary = read_json(path)
    assert path == tmp_path / "summary.json"
    assert tuple(summary)[: len(KEYS)] == KEYS
    assert summary["probe_auc"] == 0.9
    assert summary["probe_auc_ci"] == [0.85, 0.95]
    assert summary["seconds_total"] == 700.0
    assert summary["gap_right_of_none"] == 0.4


def test_keys_are_those_of_the_demo() -> None:
    assert set(KEYS) == set(VALUES) | {f"seconds_{name}" for name in TIMINGS}
    assert len(KEYS) == len(set(KEYS))


def test_bars_are_judged(tmp_path: Path) -> None:
    write_summary(write_run(tmp_path, noise_code_std=0.69, probe_auc=0.875, gap_right=0.42))
    table = pd.read_csv(tmp_path / "evaluation" / "summary" / "table.csv", keep_default_na=False)
    reached = {(row.key, row.bar): row.reached for row in table.itertuples()}
    assert reached["noise_code_std", "0.8 to 1.2"] == "False"
    assert reached["probe_auc", "≥ 0.87"] == "True"
    assert reached["probe_auc", "≥ baseline_auc"] == "False"
    assert reached["gap_right", "< 0.45 × gap_shuffled"] == "True"
    assert reached["gap_right", "< 0.65 × gap_none"] == "False"
    assert reached["autoencoder_ssim", ""] == ""


def test_a_bar_that_needs_a_missing_figure_is_left_open() -> None:
    table = bar_table({"gap_right": 0.2, "gap_none": 0.6})
    assert list(table["key"]) == ["gap_right", "gap_none"]
    assert list(table["bar"]) == ["< 0.65 × gap_none", ""]


def test_a_missing_part_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold oracle_auc, got none in .*comparison.result\.json"):
        write_summary(write_run(tmp_path, oracle_auc=None))
    (tmp_path / "evaluation" / "code" / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match="Run first: ldae evaluate code"):
        write_summary(tmp_path)
    write_run(tmp_path)
    (tmp_path / "timings.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"timings\.json is missing"):
        write_summary(tmp_path)
    assert not (tmp_path / "summary.json").exists()
