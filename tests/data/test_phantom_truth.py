# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from ldae.data.artefact import sha256_json
from ldae.data.phantom import make_phantom
from ldae.data.phantom_factors import counterfactual
from ldae.data.phantom_truth import KnownCohort, is_synthetic
from ldae.errors import InputError

Row = dict[str, Any]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(
        tmp_path_factory.mktemp("known"), subjects=9, seed=3, visits_test=(0.0, 1.0), visits_other=(1.0, 0.0)
    )


@pytest.fixture(scope="module")
def rows(table: Path) -> list[Row]:
    frame = pd.read_csv(table)
    frame["path"] = [str(table.parent / path) for path in frame["path"]]
    return frame.to_dict("records")


def voxels(row: Row) -> np.ndarray:
    return np.asarray(nib.load(row["path"]).dataobj, dtype=np.float32)


def copied(table: Path, folder: Path, **changed: object) -> Path:
    """The table alone, with a phantom.json of other parameters."""
    shutil.copy(table, folder / "cohort.csv")
    parameters = json.loads((table.parent / "phantom.json").read_text())["parameters"] | changed
    document = {"parameters": parameters, "sha256": sha256_json(parameters)}
    (folder / "phantom.json").write_text(json.dumps(document))
    return folder / "cohort.csv"


def test_the_same_factors_give_the_same_voxels_bit_for_bit(table: Path, rows: list[Row]) -> None:
    known = KnownCohort.open(table)
    chosen = [rows[0], rows[-1]]
    made = known.render([known.factors(row) for row in chosen])
    for row, scan in zip(chosen, made, strict=True):
        np.testing.assert_array_equal(scan.voxels, voxels(row))
        assert scan.ventricle_ml == pytest.approx(row["ventricle_ml"], abs=6e-4)
    known.check(rows[0])


def test_another_diagnosis_moves_the_ventricles_and_keeps_the_picture(table: Path, rows: list[Row]) -> None:
    known = KnownCohort.open(table)
    firsts = [row for row in rows if row["session"] == "ses-01"]
    other = [
        counterfactual(known.factors(r), diagnosis="CN" if r["diagnosis"] == "AD" else "AD") for r in firsts
    ]
    changes = []
    for row, scan in zip(firsts, known.render(other), strict=True):
        grown = scan.ventricle_ml / row["ventricle_ml"]
        assert grown < 0.75 if row["diagnosis"] == "AD" else grown > 1.2
        was = voxels(row)
        change = np.abs(scan.voxels - was)[(was > 0) & (scan.voxels > 0)]
        assert change.max() > 50
        changes.append(np.median(change))
    retaken = [replace(f, acquisition=replace(f.acquisition, visit=7)) for f in other]
    for row, scan, same in zip(firsts, known.render(retaken), changes, strict=True):
        assert same < 0.7 * np.median(np.abs(scan.voxels - voxels(row))[voxels(row) > 0])


def test_another_age_moves_the_ventricles_the_right_way(table: Path, rows: list[Row]) -> None:
    known = KnownCohort.open(table)
    factors = known.factors(rows[0])
    volumes = [
        scan.ventricle_ml for scan in known.render([counterfactual(factors, age=age) for age in (55, 70, 85)])
    ]
    assert np.diff(volumes).min() > 0.5


def test_an_unseen_visit_lies_between_the_visits_and_has_a_picture_of_its_own(
    table: Path, rows: list[Row]
) -> None:
    known = KnownCohort.open(table)
    first, second = next(
        (a, b)
        for a, b in itertools.pairwise(rows)
        if a["subject"] == b["subject"] and a["diagnosis"] == "AD" and a["visit_months"] == 0
    )
    between = known.unseen_visit(first, months=6)
    assert between.age == pytest.approx(first["age"] + 0.5)
    assert between.acquisition not in (known.factors(first).acquisition, known.factors(second).acquisition)
    volume = known.render([between])[0].ventricle_ml
    assert first["ventricle_ml"] < volume < second["ventricle_ml"]
    assert known.unseen_visit(second, months=6) == between


def test_a_cohort_that_is_not_synthetic_is_refused(table: Path, tmp_path: Path) -> None:
    shutil.copy(table, tmp_path / "cohort.csv")
    assert is_synthetic(table)
    assert not is_synthetic(tmp_path / "cohort.csv")
    with pytest.raises(InputError, match=r"known for synthetic cohorts .* without phantom.json beside it"):
        KnownCohort.open(tmp_path / "cohort.csv")


def test_a_cohort_of_another_recipe_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be of recipe \d+, .* got recipe 2 in"):
        KnownCohort.open(copied(table, tmp_path, recipe=2))


def test_edited_parameters_are_refused(table: Path, tmp_path: Path) -> None:
    path = copied(table, tmp_path)
    document = json.loads((tmp_path / "phantom.json").read_text())
    document["parameters"]["seed"] = 4
    (tmp_path / "phantom.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="must be as it was written"):
        KnownCohort.open(path)


def test_label_maps_that_are_gone_are_named(table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"label maps that .* must lie where they did"):
        KnownCohort.open(copied(table, tmp_path, label_maps={"a.nii.gz": "0"}))


@pytest.mark.parametrize(
    "edited",
    [{"diagnosis": "MCI"}, {"age": 50.0}, {"subject": "sub-0003"}, {"subject": "me"}, {"session": "m12"}],
)
def test_edited_rows_are_refused(table: Path, rows: list[Row], edited: Row) -> None:
    with pytest.raises(InputError, match=r"must be as phantom\.json makes them"):
        KnownCohort.open(table).factors(rows[0] | edited)


def test_a_scan_that_was_changed_is_refused(table: Path, rows: list[Row]) -> None:
    known = KnownCohort.open(table)
    with pytest.raises(InputError, match=r"got other voxels \(by up to"):
        known.check(rows[0] | {"path": rows[-1]["path"]})
