# SPDX-License-Identifier: Apache-2.0
"""Counterfactuals and visits against the truth, on a small synthetic cohort with a random pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from judged_run import SIZE, SPACING
from tiny_pipeline import save_stages

from ldae.cli.main import main
from ldae.data.artefact import read_json, write_json
from ldae.data.cohort import read_cohort
from ldae.data.phantom import make_phantom
from ldae.data.phantom_truth import KnownCohort
from ldae.data.split import split_hash
from ldae.errors import InputError
from ldae.evaluation.change import Change
from ldae.evaluation.counterfactual import evaluate_counterfactual
from ldae.evaluation.interpolation import evaluate_interpolation
from ldae.evaluation.material import Material, ScanSet, first_visits, open_scans
from ldae.evaluation.probes import fit_probe
from ldae.evaluation.truth import CHANGED, Regions, compare, mean_within, render_truth
from ldae.pipeline.assemble import assemble_pipeline
from ldae.pipeline.embed_cohort import embed_cohort


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose cohort is synthetic, with heads."""
    folder = tmp_path_factory.mktemp("known_run")
    cohort = make_phantom(folder / "cohort", subjects=60, spacing=SPACING, size=SIZE)
    save_stages(folder, split=split_hash(read_cohort(cohort)))
    pipeline = assemble_pipeline(folder, device="cpu")
    embed_cohort(pipeline, cohort, out=folder / "embeddings.parquet", cache=folder / "cache", device="cpu")
    for target in ("diagnosis", "age"):
        fit_probe(folder / "embeddings.parquet", target=target, out=folder / "heads" / target)
    return folder


@pytest.fixture(scope="module")
def scans(run: Path) -> ScanSet:
    cohort = run / "cohort" / "cohort.csv"
    return open_scans(Material.of(run / "pipeline", cohort, out=run / "any", device="cpu"))


def test_a_scan_rendered_again_is_the_preprocessed_scan(run: Path, scans: ScanSet) -> None:
    known, rows = KnownCohort.open(run / "cohort" / "cohort.csv"), scans.rows.iloc[:3]
    factors = [known.factors(row) for row in rows.to_dict("records")]
    for same_scale in (True, False):
        truth = render_truth(scans, known, rows=rows, factors=factors, same_scale=same_scale)
        assert torch.equal(truth.volumes, scans.volumes(rows))
    np.testing.assert_allclose(truth.ventricle_ml, rows["ventricle_ml"], atol=6e-4)


def test_likeness_is_measured_where_the_truth_changed() -> None:
    scan = torch.full((1, 1, 13, 13, 13), 0.5)
    truth = scan.clone()
    truth[..., 6, 6, 6] = 0.9
    regions = Regions.between(scan, truth)
    assert int(regions.changed.sum()) == 1
    assert int((regions.changed & regions.rest).sum()) == 0
    found = compare(scan, truth, unchanged=scan, regions=regions)
    assert found["mse_changed"] == pytest.approx(0.16)
    assert found["mse_rest"] == found["moved_rest"] == 0
    moved = compare(scan + 0.01, truth, unchanged=scan, regions=regions)
    assert moved["moved_rest"] == pytest.approx(0.01, rel=1e-4)
    assert compare(truth, truth, unchanged=scan, regions=regions)["ssim_changed"] == pytest.approx(1)
    assert mean_within(scan, torch.zeros_like(scan)) == 0
    assert CHANGED < 0.4


def test_another_age_stands_beside_the_truth_too(run: Path, tmp_path: Path) -> None:
    words = (
        f"counterfactual --run-dir {run} --head {run / 'heads' / 'age'} --out {tmp_path} --limit 3 --steps 2"
    )
    assert main(["evaluate", *words.split(), "--decode-steps", "2", "--device", "cpu"]) == 0
    settings = read_json(tmp_path / "result.json")["settings"]
    assert (settings["targets"], settings["target_class"]) == (None, None)
    assert settings["hold"] == [str(run / "heads" / "diagnosis")]
    found = pd.read_csv(tmp_path / "truth_scans.csv")
    assert set((found["to"].astype(float) - found["from"].astype(float)).abs().round(3)) == {15.0}
    targets = pd.read_csv(tmp_path / "scans.csv")["target"]
    assert targets.nunique() == 6


def test_counterfactuals_stand_beside_the_truth(run: Path, scans: ScanSet) -> None:
    cohort = run / "cohort" / "cohort.csv"
    folder = evaluate_counterfactual(
        run / "pipeline",
        cohort,
        head=run / "heads" / "diagnosis",
        hold=[run / "heads" / "age"],
        out=run / "evaluation" / "counterfactual",
        targets=(0.45, 0.55),
        steps=2,
        decode_steps=2,
        limit=4,
        thorough=True,
        device="cpu",
    )
    table, found = pd.read_csv(folder / "truth.csv"), pd.read_csv(folder / "truth_scans.csv")
    assert set(table["method"]) >= {
        "nothing",
        "linear",
        "weights",
        "manipulated",
        "manipulated_held",
        "true_code",
    }
    change = Change.of("diagnosis", first_visits(scans.rows, limit=4, seed=0))
    known = KnownCohort.open(cohort)
    truth = render_truth(scans, known, rows=change.rows, factors=change.factors(known))
    volumes = scans.volumes(change.rows)
    changed = (truth.volumes - volumes).abs() > CHANGED
    errors = [float((truth.volumes[i] - volumes[i])[changed[i]].square().mean()) for i in range(4)]
    added = found[found["rendering"] == "added to the scan"].set_index("method")
    np.testing.assert_allclose(added.loc["nothing", "mse_changed"], errors, rtol=1e-5)
    np.testing.assert_allclose(added.loc["nothing", "true_ml"], truth.ventricle_ml, atol=1e-6)
    assert (added.loc["linear", "mse_changed"].to_numpy() < errors).all()
    values = read_json(folder / "result.json")["values"]
    linear, nothing = (added.loc[method, "mse_changed"].mean() for method in ("linear", "nothing"))
    ours = added.loc["manipulated", "mse_changed"].mean()
    assert values["truth_gain_manipulated_over_linear_added"] == pytest.approx(1 - ours / linear)
    assert values["truth_gain_manipulated_over_nothing_added"] == pytest.approx(1 - ours / nothing)
    low, high = values["truth_gain_manipulated_over_linear_added_ci"]
    assert low <= values["truth_gain_manipulated_over_linear_added"] <= high


def test_visits_are_judged_by_gap(run: Path) -> None:
    folder = evaluate_interpolation(
        run / "pipeline",
        run / "cohort" / "cohort.csv",
        out=run / "evaluation" / "interpolation",
        steps=2,
        device="cpu",
    )
    table = pd.read_csv(folder / "table.csv")
    assert set(zip(table["gap_months"], table["truth"], strict=True)) == {(24.0, "visit"), (12.0, "rendered")}
    assert set(table["against"]) == {"scan", "autoencoder"}
    assert (table["ventricle_error_ml"] > 0).all()
    values = read_json(folder / "result.json")["values"]
    seen = table[(table["truth"] == "visit") & (table["against"] == "autoencoder")].set_index("kind")["ssim"]
    assert values["interpolation_ssim_through_autoencoder"] == pytest.approx(seen["interpolated"])
    copied = (seen["copy_first"] + seen["copy_last"]) / 2
    assert values["interpolation_ssim_copy_through_autoencoder"] == pytest.approx(copied)


def test_thorough_needs_a_synthetic_cohort_of_this_recipe(run: Path, tmp_path: Path) -> None:
    cohort = run / "cohort" / "cohort.csv"
    frame = pd.read_csv(cohort)
    frame["path"] = [str(cohort.parent / path) for path in frame["path"]]
    frame.to_csv(tmp_path / "cohort.csv", index=False)
    head = run / "heads" / "diagnosis"
    table = tmp_path / "cohort.csv"
    with pytest.raises(InputError, match="known for synthetic cohorts"):
        evaluate_counterfactual(run / "pipeline", table, head=head, out=tmp_path / "out", thorough=True)
    document = read_json(cohort.parent / "phantom.json")
    write_json(tmp_path / "phantom.json", document | {"parameters": document["parameters"] | {"seed": 1}})
    with pytest.raises(InputError, match="must be as it was written"):
        evaluate_interpolation(run / "pipeline", table, out=tmp_path / "out")
