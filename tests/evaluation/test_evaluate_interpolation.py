# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ldae.data.artefact import read_json
from ldae.errors import InputError
from ldae.evaluation.image_metrics import ssim
from ldae.evaluation.interpolation import evaluate_interpolation, find_triples
from ldae.evaluation.material import Material, ScanSet


def test_triples_are_visits_of_one_subject_in_order() -> None:
    rows = pd.DataFrame(
        {
            "subject": ["a", "b", "a", "c", "a", "c", "c", "c"],
            "session": ["3", "1", "1", "10", "2", "9", "1", "2"],
        }
    )
    assert find_triples(rows) == [(2, 4, 0), (6, 7, 5)]
    assert len(find_triples(rows, limit=1)) == 1


def test_the_true_middle_is_compared_with_everything(material: Material, scan_set: ScanSet) -> None:
    folder = evaluate_interpolation(
        material.pipeline,
        material.cohort,
        out=material.run_dir / "evaluation" / "interpolation",
        steps=2,
        device="cpu",
    )
    values, scans = read_json(folder / "result.json")["values"], pd.read_csv(folder / "scans.csv")
    triples = find_triples(scan_set.rows)
    assert (scans.groupby(["kind", "against"]).size() == len(triples)).all()
    assert {"interpolated", "interpolated_added", "voxel_mean", "autoencoder"} < set(scans["kind"])
    visits = zip(*triples, strict=True)
    first, middle, last = (scan_set.volumes(scan_set.rows.loc[list(places)]) for places in visits)
    copied = (ssim(first, middle).mean() + ssim(last, middle).mean()) / 2
    assert values["interpolation_ssim_copy"] == pytest.approx(float(copied), abs=1e-6)
    gain = values["interpolation_ssim"] - values["interpolation_ssim_copy"]
    assert values["interpolation_gain_over_copy"] == pytest.approx(gain)


def test_fractions_beyond_the_visits_are_refused(material: Material, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"fractions must lie within 0..1, got \[1.5\]"):
        evaluate_interpolation(material.pipeline, material.cohort, out=tmp_path, fraction=1.5)


def test_a_cohort_of_single_visits_is_refused(material: Material, tmp_path: Path) -> None:
    frame = pd.read_csv(material.cohort)
    frame["path"] = [str(material.cohort.parent / path) for path in frame["path"]]
    frame.drop_duplicates("subject").to_csv(tmp_path / "cohort.csv", index=False)
    with pytest.raises(InputError, match="must have 3 visits, got 0"):
        evaluate_interpolation(
            material.pipeline, tmp_path / "cohort.csv", out=tmp_path / "out", steps=2, device="cpu"
        )
