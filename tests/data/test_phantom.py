# SPDX-License-Identifier: Apache-2.0
"""The synthetic cohort: its factors, its anatomy, its files."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from ldae.data.phantom import make_phantom
from ldae.data.phantom_anatomy import Anatomy, label_anatomies, label_anatomy, template_anatomy
from ldae.data.phantom_factors import (
    DIAGNOSES,
    VENTRICLE_PER_YEAR,
    Acquisition,
    Factors,
    counterfactual,
    draw_acquisition,
    draw_cohort,
    draw_subject,
    follow_up,
)
from ldae.data.phantom_fields import Grid, compose, exponential, jacobian, refine, sample
from ldae.data.phantom_growth import CENTRE, FIELD
from ldae.data.phantom_render import identity_velocity, inverse_map, render
from ldae.errors import CheckpointError, InputError
from ldae.evaluation.baselines import oracle_auc

GRID = Grid.centred(CENTRE, spacing=5.0, shape=(32, 40, 32))
VISITS = {"visits_test": (0.05, 0.4), "visits_other": (0.02, 0.03)}
DRAWN = ("gamma", "scale", "bias", "noise", "blur")


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return template_anatomy(step=2.5)


@pytest.fixture(scope="module")
def cohort() -> tuple[list[Factors], dict[int, str]]:
    return draw_cohort(1200, seed=0, **VISITS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("small"), subjects=12, jobs=2).parent


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.nii.gz"))}


def test_diagnoses_are_even_and_enough_test_subjects_come_three_times(
    cohort: tuple[list[Factors], dict[int, str]],
) -> None:
    scans, split = cohort
    assert Counter(f.diagnosis for f in scans if f.visit == 0) == dict.fromkeys(DIAGNOSES, 400)
    assert 1350 <= len(scans) <= 1500
    visits = Counter(f.subject for f in scans)
    thrice = [subject for subject, count in visits.items() if count == 3 and split[subject] == "test"]
    assert len(thrice) == 72
    assert Counter(subject % 3 for subject in thrice) == {0: 24, 1: 24, 2: 24}
    assert sum(count == 1 for count in visits.values()) > 0.85 * 1200
    assert Counter(split.values()) == {"train": 720, "val": 180, "cal": 120, "test": 180}
    assert all(55 <= f.age <= 90 for f in scans)


def test_a_subject_does_not_depend_on_how_many_others_there_are() -> None:
    few, _ = draw_cohort(12, seed=3, **VISITS)
    many, _ = draw_cohort(90, seed=3, **VISITS)
    first = {f.subject: f for f in many if f.visit == 0}
    assert all(f == first[f.subject] for f in few if f.visit == 0)
    assert draw_subject(3, 5) != draw_subject(4, 5)


def test_acquisition_is_independent_of_subject_diagnosis_age_and_anatomy() -> None:
    scans = [
        follow_up(draw_subject(11, s), v) if v else draw_subject(11, s) for s in range(3000) for v in (0, 1)
    ]
    drawn = np.array(
        [[getattr(f.acquisition, name) for name in DRAWN] + [*f.acquisition.contrast] for f in scans]
    )
    known = np.array(
        [[f.age, f.severity, f.z_ventricle, f.z_atrophy, f.sex == "M", ord(f.site)] for f in scans]
    )
    group = np.array([f.diagnosis for f in scans])
    p = [stats.pearsonr(a, b).pvalue for a in drawn.T for b in known.T]
    p += [stats.f_oneway(*(column[group == d] for d in DIAGNOSES)).pvalue for column in drawn.T]
    p += [stats.pearsonr(column[0::2], column[1::2]).pvalue for column in drawn.T]  # two visits of a subject
    assert min(p) * len(p) > 0.01
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_acquisition_does_not_change_with_the_diagnosis_of_the_same_subject() -> None:
    factors = draw_subject(0, 7)
    assert counterfactual(factors, diagnosis="CN", age=60).acquisition == factors.acquisition
    assert draw_acquisition(0, 7, visit=0) == factors.acquisition
    assert draw_acquisition(0, 7, visit=1) != factors.acquisition


def test_visits_progress_and_faster_in_disease() -> None:
    growth: dict[str, list[float]] = {d: [] for d in DIAGNOSES}
    for subject in range(60):
        visits = [draw_subject(0, subject)] + [follow_up(draw_subject(0, subject), v) for v in (1, 2)]
        assert np.allclose(np.diff([f.age for f in visits]), 1)
        assert np.diff([f.ventricle_target for f in visits]).min() > 0
        assert np.diff([f.atrophy for f in visits]).min() > 0
        growth[visits[0].diagnosis].append(
            np.log(visits[2].ventricle_target / visits[0].ventricle_target) / 2
        )
    yearly = {d: float(np.mean(values)) for d, values in growth.items()}
    assert 0.02 < yearly["CN"] < 0.05 < yearly["MCI"] < 0.08 < yearly["AD"] < 0.12


def test_counterfactual_keeps_the_person_and_the_picture() -> None:
    factors = draw_subject(0, 2)
    healthy = counterfactual(factors, diagnosis="CN")
    older = counterfactual(factors, age=factors.age + 5)
    between = counterfactual(factors, years=0.5)
    assert healthy.severity == pytest.approx(factors.severity - 1)
    assert older.age == pytest.approx(factors.age + 5)
    assert older.severity == factors.severity
    assert factors.ventricle_target < between.ventricle_target < follow_up(factors, 1).ventricle_target
    assert counterfactual(counterfactual(factors, diagnosis="CN"), diagnosis="AD") == factors
    for changed in (healthy, older, between):
        assert changed.acquisition == factors.acquisition
        torch.testing.assert_close(identity_velocity(changed), identity_velocity(factors), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diagnosis": "ad"}, "one of CN, MCI, AD, got 'ad'"),
        ({"age": float("nan")}, "age must be a finite number"),
    ],
)
def test_counterfactual_says_what_it_takes(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        counterfactual(draw_subject(0, 0), **change)


def test_template_ventricles_are_the_lateral_ones(anatomy: Anatomy) -> None:
    points = anatomy.grid.points[:, anatomy.ventricle[0] > 0.5]
    volume = float(anatomy.ventricle.sum()) * anatomy.grid.spacing**3 / 1000
    assert 15 < volume < 25
    assert float(points[0].mean()) == pytest.approx(0, abs=1)
    assert 25 < float(points[0].abs().max()) < 40
    assert -65 < float(points[1].min()) < -45
    assert 20 < float(points[1].max()) < 40
    midline = anatomy.ventricle[0][anatomy.grid.points[0].abs() < 1]
    assert float(midline.sum()) < 0.05 * float(anatomy.ventricle.sum())  # no third ventricle


@pytest.mark.parametrize("subject", range(0, 60, 6))
def test_maps_do_not_fold_and_their_factors_can_be_undone(anatomy: Anatomy, subject: int) -> None:
    factors = draw_subject(5, subject)
    inverse = inverse_map(factors, anatomy)
    assert jacobian(inverse, FIELD).min() > 0
    rest = identity_velocity(factors) + factors.atrophy * anatomy.atrophy_velocity
    back = compose(exponential(rest, FIELD), exponential(-rest, FIELD), FIELD)[:, 5:-5, 5:-5, 5:-5]
    # a fifth of the 5 mm between the nodes that hold the map
    assert back.square().sum(0).sqrt().max() < 1.0
    assert back.square().sum(0).mean().sqrt() < 0.25


@pytest.mark.parametrize(("diagnosis", "age", "atrophy"), [("CN", 55, -3.0), ("AD", 92, 5.0)])
def test_extremes_do_not_fold(anatomy: Anatomy, diagnosis: str, age: float, atrophy: float) -> None:
    factors = counterfactual(draw_subject(0, 0), diagnosis=diagnosis, age=age)
    sign = 1 if diagnosis == "AD" else -1
    factors = dataclasses.replace(factors, z_severity=3.0 * sign, z_ventricle=3.0 * sign, z_atrophy=atrophy)
    assert jacobian(inverse_map(factors, anatomy), FIELD).min() > 0


@pytest.mark.parametrize("stage", [-2.0, 1.3, 3.6])
def test_growth_is_inverted_by_the_flows_that_made_it(anatomy: Anatomy, stage: float) -> None:
    growth = anatomy.growth
    flows = growth.growing if stage > 0 else growth.shrinking
    forward = torch.zeros_like(FIELD.points)
    whole, part = int(abs(stage)), abs(stage) - int(abs(stage))
    for flow, share in zip(flows, [1.0] * whole + [part], strict=False):
        step = exponential(np.sign(stage) * share * flow.velocity, FIELD)
        forward = compose(step, forward, FIELD)
    residual = compose(growth.inverse(stage), forward, FIELD)[:, 5:-5, 5:-5, 5:-5].square().sum(0)
    assert residual.sqrt().max() < 1.5
    assert residual.mean().sqrt() < 0.25


def test_ventricle_volume_is_that_of_an_independent_measurement(anatomy: Anatomy) -> None:
    for subject in (0, 2, 5):
        factors = draw_subject(1, subject)
        measured = render(factors, anatomy, grid=GRID).ventricle_ml
        fine = Grid.centred(CENTRE, spacing=1.25, shape=(96, 120, 96))
        points = fine.points + refine(inverse_map(factors, anatomy), FIELD, onto=fine)
        values = sample(anatomy.ventricle, anatomy.grid, points=points)
        assert measured == pytest.approx(float(values.double().sum()) * 1.25**3 / 1000, rel=0.01)


def test_ventricle_volume_follows_the_image(anatomy: Anatomy) -> None:
    factors = draw_subject(1, 2)
    silent = Acquisition(1.0, 1.0, 0.05, 0.0, 0.0, (1.0,) * 4, 0)
    fine = Grid.centred(CENTRE, spacing=2.5, shape=(64, 80, 64))
    dark = {}
    for diagnosis in ("CN", "AD"):
        case = dataclasses.replace(counterfactual(factors, diagnosis=diagnosis), acquisition=silent)
        scan = render(case, anatomy, grid=fine)
        centre = (fine.points - torch.tensor([0.0, -15.0, 16.0]).reshape(3, 1, 1, 1)).abs()
        near = (centre < torch.tensor([45.0, 60.0, 25.0]).reshape(3, 1, 1, 1)).all(0)
        dark[diagnosis] = (float((near & (scan.voxels < 0.45)).sum()) * 2.5**3 / 1000, scan.ventricle_ml)
    seen, told = (dark["AD"][i] - dark["CN"][i] for i in (0, 1))
    assert told > 8
    assert seen == pytest.approx(told, rel=0.35)


def test_ventricles_grow_with_severity_and_age_and_are_the_same_at_any_voxel_size(anatomy: Anatomy) -> None:
    factors = draw_subject(2, 3)
    severities = [
        render(dataclasses.replace(factors, z_severity=z), anatomy, grid=GRID).ventricle_ml
        for z in (-2, 0, 2)
    ]
    ages = [render(counterfactual(factors, age=a), anatomy, grid=GRID).ventricle_ml for a in (55, 70, 85)]
    assert np.diff(severities).min() > 2
    assert np.diff(np.log(ages)) == pytest.approx(15 * VENTRICLE_PER_YEAR, abs=0.06)
    fine = Grid.centred(CENTRE, spacing=2.5, shape=(64, 80, 64))
    assert render(factors, anatomy, grid=fine).ventricle_ml == pytest.approx(severities[1], rel=0.25)
    coarse = render(factors, anatomy, grid=GRID).ventricle_ml
    assert render(factors, anatomy, grid=fine).ventricle_ml == pytest.approx(coarse, rel=0.002)


def test_atrophy_takes_the_stated_share_of_the_cortex(anatomy: Anatomy) -> None:
    velocity = 10 * anatomy.atrophy_velocity
    shrunk = jacobian(exponential(velocity, FIELD), FIELD)
    surface = anatomy.image[0] * (anatomy.image[0] > 0.5) * (anatomy.image[0] < 0.75)
    cells = Grid(tuple(o + 2.5 for o in FIELD.origin), 5.0, tuple(n - 1 for n in FIELD.shape))
    weights = sample(surface[None], anatomy.grid, points=cells.points)[0]
    weights[(cells.points[0].abs() < 45) & (cells.points[1].abs() < 50) & (cells.points[2] < 40)] = 0
    change = float((shrunk * weights).sum() / weights.sum()) - 1
    assert -0.16 < change < -0.05


def test_the_same_scan_again_is_the_same_and_only_the_anatomy_changes_with_the_diagnosis(
    anatomy: Anatomy,
) -> None:
    factors = draw_subject(0, 4)
    scan, again = render(factors, anatomy, grid=GRID), render(factors, anatomy, grid=GRID)
    assert torch.equal(scan.voxels, again.voxels)
    other = render(counterfactual(factors, diagnosis="AD"), anatomy, grid=GRID)
    change = (other.voxels - scan.voxels).abs()
    outside = (scan.voxels == 0) & (other.voxels == 0)
    assert outside.float().mean() > 0.25
    assert 0.1 < change.max() < 0.9


def test_files_hold_what_the_table_says(small: Path) -> None:
    table = pd.read_csv(small / "cohort.csv")
    assert {"subject", "session", "path", "diagnosis", "age", "sex", "site", "split", "visit_months"} <= set(
        table
    )
    assert {"ventricle_ml", "atrophy", "gamma", "bias", "noise", "blur_mm"} <= set(table)
    assert sorted(table["path"]) == sorted(files(small))
    assert table["subject"].nunique() == 12
    image = nib.load(small / table["path"][0])
    assert image.shape == (32, 40, 32)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.affine @ [15.5, 19.5, 15.5, 1], [0, -17, 5, 1])
    assert int(image.header["sform_code"]) == 4
    voxels = np.asarray(image.dataobj)
    assert 0.5 < (voxels == 0).mean() < 0.85
    assert 500 < np.percentile(voxels[voxels > 0], 99) < 1500
    record = json.loads((small / "phantom.json").read_text())
    assert record["parameters"]["subjects"] == 12
    assert set(record["columns"]) <= set(table)


def test_the_number_of_threads_and_subjects_does_not_matter(small: Path, tmp_path: Path) -> None:
    make_phantom(tmp_path, subjects=9, jobs=1)
    ours, theirs = files(tmp_path), files(small)
    first = [name for name in ours if "ses-01" in name]
    assert len(first) == 9
    assert all(ours[name] == theirs[name] for name in first)


def test_a_second_call_is_quick_and_an_interrupted_one_goes_on(small: Path, tmp_path: Path) -> None:
    make_phantom(tmp_path, subjects=12, jobs=1)
    reference = files(small)
    assert files(tmp_path) == reference
    names = sorted(reference)
    kept = tmp_path / names[5]
    written = kept.stat().st_mtime_ns
    start = time.perf_counter()
    make_phantom(tmp_path, subjects=12)
    assert time.perf_counter() - start < 2
    (tmp_path / "cohort.csv").unlink()
    (tmp_path / names[0]).unlink()
    (tmp_path / names[1]).write_bytes(reference[names[1]][:-20])
    journal = tmp_path / "scans" / "rendered.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(line for line in lines if names[2] not in line) + '\n{"path": "scans/su')
    make_phantom(tmp_path, subjects=12, jobs=1)
    assert files(tmp_path) == reference
    assert kept.stat().st_mtime_ns == written
    assert (tmp_path / "cohort.csv").read_bytes() == (small / "cohort.csv").read_bytes()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"subjects": 3}, "subjects must be at least 6, got 3"),
        ({"spacing": 0.1}, "spacing must be 0.5 to 10 mm, got 0.1"),
        ({"size": (32, 40)}, "size must be three whole numbers"),
        ({"size": (32, 40, 4)}, "at least 8 voxels"),
        ({"visits_test": (0.8, 0.4)}, "visits_test must be the shares"),
        ({"label_maps": "/nowhere/at/all"}, "label maps must be a folder"),
    ],
)
def test_bad_parameters_are_named(tmp_path: Path, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_phantom(tmp_path / "out", **parameters)
    assert not (tmp_path / "out").exists()


def test_another_cohort_in_the_folder_is_not_touched(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"seed 0 there, 1 now.*Name another folder"):
        make_phantom(small, subjects=12, seed=1)
    (tmp_path / "cohort.csv").write_text("subject,session,path,diagnosis,age\n")
    with pytest.raises(InputError, match=r"a cohort.csv without phantom.json"):
        make_phantom(tmp_path, subjects=12)


def write_labels(path: Path, labels: np.ndarray, *, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize(
    ("labels", "affine", "message"),
    [
        ([0, 1, 2], None, r"FreeSurfer's numbers, got \[1\]"),
        ([0, 2, 3], None, "found no lateral ventricle"),
        ([0, 2, 4], None, "found no cerebral cortex"),
        ([0, 2, 3, 4], np.diag([1.0, 1, 3, 1]), "cubic, unrotated voxels"),
    ],
)
def test_label_maps_of_another_kind_are_refused(
    tmp_path: Path, labels: list[int], affine: np.ndarray | None, message: str
) -> None:
    volume = np.resize(labels, (20, 20, 20))
    with pytest.raises(InputError, match=message):
        label_anatomy(write_labels(tmp_path / "labels.nii.gz", volume, affine=affine), step=2.5)


def test_empty_or_broken_label_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none in"):
        label_anatomies(tmp_path)
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"readable NIfTI files, got .*broken"):
        label_anatomy(tmp_path / "broken.nii.gz", step=2.5)


def test_real_anatomies_become_scans(real_data: Path) -> None:
    path = label_anatomies(real_data / "label_maps")[0]
    anatomy = label_anatomy(path, step=2.5)
    image = nib.load(path)
    labels = np.asarray(image.dataobj)
    true = np.isin(labels, [4, 43, 5, 44]).sum() / 1000
    assert np.exp(anatomy.growth.logarithms[anatomy.growth.stages == 0]).item() == pytest.approx(
        true, rel=0.02
    )
    left = anatomy.grid.points[0][anatomy.ventricle[0] > 0.5]
    assert abs(float(left.mean())) < 6
    scan = render(draw_subject(0, 2), anatomy, grid=GRID)
    assert anatomy.image.shape[0] == 4
    ventricle, brain = scan.ventricle > 0.9, scan.voxels > 0.3 * scan.voxels.max()
    assert scan.voxels[ventricle].median() < 0.6 * scan.voxels[brain].median()
    assert 0.12 < brain.float().mean() < 0.35


@pytest.mark.slow
def test_the_default_cohort_has_the_intended_strength(tmp_path: Path) -> None:
    table = pd.read_csv(make_phantom(tmp_path))
    assert 0.92 <= oracle_auc(table) <= 0.97
    mean = table.groupby("diagnosis")["ventricle_ml"].mean()
    assert 22 < mean["CN"] < 34 < mean["MCI"] < 45 < mean["AD"] < 65
    young = table[(table["diagnosis"] == "CN") & (table["age"] < 63)]["ventricle_ml"].median()
    old = table[(table["diagnosis"] == "AD") & (table["age"] > 82)]["ventricle_ml"].median()
    assert 16 < young < 26
    assert 55 < old < 90
    healthy = table[table["diagnosis"] == "CN"]
    slope = stats.linregress(healthy["age"], np.log(healthy["ventricle_ml"])).slope
    assert slope == pytest.approx(VENTRICLE_PER_YEAR, abs=0.005)


@pytest.mark.slow
def test_fine_scans_of_the_size_of_real_ones(tmp_path: Path) -> None:
    fine = pd.read_csv(make_phantom(tmp_path / "fine", subjects=6, spacing=1.5, size=(128, 160, 128)))
    coarse = pd.read_csv(make_phantom(tmp_path / "coarse", subjects=6))
    np.testing.assert_allclose(fine["ventricle_ml"], coarse["ventricle_ml"], rtol=0.02)
    image = nib.load(tmp_path / "fine" / fine["path"][0])
    assert image.shape == (128, 160, 128)
    assert image.header.get_zooms() == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize("text", ["null", "[1]", "{}", '{"parameters": null}', ""])
def test_damaged_parameters_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "phantom.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"phantom\.json must be"):
        make_phantom(tmp_path, subjects=6, spacing=10, size=(16, 24, 16))


def test_a_damaged_journal_costs_only_what_it_told(tmp_path: Path) -> None:
    options = {"subjects": 6, "spacing": 10, "size": (16, 24, 16), "jobs": 1}
    table = make_phantom(tmp_path, **options)
    before = table.read_bytes()
    journal = tmp_path / "scans" / "rendered.jsonl"
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([b"\xff\xfe\x00", b"null", b"[1]", b"{}", *lines[2:]]))
    table.unlink()
    assert make_phantom(tmp_path, **options).read_bytes() == before
