# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ldae.errors import CheckpointError, InputError
from ldae.pipeline.novelty import Measure, Novelty, judge_scans
from ldae.pipeline.pipeline import LDAEPipeline
from ldae.pipeline.statistics import load_statistics, measure_training, save_statistics

RANDOM = np.random.default_rng(0)


def test_distance_is_mahalanobis_where_scans_are_plenty() -> None:
    mixing = RANDOM.normal(size=(3, 3))
    codes = RANDOM.normal(size=(4000, 3)) @ mixing + 5
    statistics = measure_training(codes, subjects=[str(i) for i in range(4000)], measures={})
    centred = codes - codes.mean(0)
    precision = np.linalg.inv(np.cov(codes.T))
    wanted = np.sqrt(np.einsum("ni,ij,nj->n", centred, precision, centred))
    np.testing.assert_allclose(statistics.distance(codes), wanted, rtol=0.03)
    np.testing.assert_allclose(statistics.whiten(codes).std(axis=0, ddof=1), 1)


def test_covariance_is_that_of_the_codes() -> None:
    codes = RANDOM.normal(size=(4000, 3)) @ RANDOM.normal(size=(3, 3)) * [0.1, 1, 10]
    statistics = measure_training(codes, subjects=[str(i) for i in range(4000)], measures={})
    np.testing.assert_allclose(statistics.covariance(), np.cov(codes.T), rtol=0.05, atol=1e-3)


def test_range_holds_for_scans_that_were_not_seen() -> None:
    """With fewer scans than features the seen ones lie nearer; the stored range must not be theirs."""
    codes = RANDOM.normal(size=(300, 40)) @ RANDOM.normal(size=(40, 40))
    train, test = codes[:80], codes[80:]
    statistics = measure_training(train, subjects=[str(i) for i in range(80)], measures={})
    low, high = statistics.ranges["code distance"]
    assert (statistics.distance(test) <= high).mean() > 0.9
    assert statistics.distance(train).max() < high
    assert low > 0


def test_visits_of_a_subject_are_unseen_together() -> None:
    """Twins would make each other look near."""
    singles = RANDOM.normal(size=(30, 50))
    twins = np.repeat(singles, 2, axis=0)
    subjects = [str(i // 2) for i in range(60)]
    apart = [str(i) for i in range(60)]
    honest = measure_training(twins, subjects=subjects, measures={}).ranges["code distance"]
    fooled = measure_training(twins, subjects=apart, measures={}).ranges["code distance"]
    assert fooled[1] < honest[1]


def test_a_feature_that_never_varies_is_harmless() -> None:
    codes = np.hstack([RANDOM.normal(size=(20, 2)), np.full((20, 1), 3.0)])
    statistics = measure_training(codes, subjects=[str(i) for i in range(20)], measures={})
    assert np.isfinite(statistics.distance(codes)).all()


def test_one_subject_is_not_enough() -> None:
    with pytest.raises(InputError, match="at least 2 subjects, got 1"):
        measure_training(np.zeros((3, 2)), subjects=["a", "a", "a"], measures={})


def test_round_trip(tmp_path: Path) -> None:
    codes = RANDOM.normal(size=(20, 4))
    statistics = measure_training(
        codes, subjects=[str(i) for i in range(20)], measures={"latent RMS": RANDOM.uniform(0.9, 1.1, 20)}
    )
    save_statistics(tmp_path, statistics, spec={}, split="s", parents={"autoencoder": "a"}, request="r")
    found, component = load_statistics(tmp_path)
    np.testing.assert_array_equal(found.mean, statistics.mean)
    np.testing.assert_array_equal(found.distance(codes), statistics.distance(codes))
    assert found.ranges == statistics.ranges
    assert component.parents == {"autoencoder": "a"}


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    from ldae.data.artefact import save_component

    save_component(tmp_path, kind="statistics", config={"code_size": 3}, tensors={"mean": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="must hold tensors"):
        load_statistics(tmp_path)


def test_verdict_names_what_is_unusual() -> None:
    usual = Measure("mean intensity", 0.3, 0.2, 0.4)
    far = Measure("code distance", 41.2, 5.1, 14.9)
    novelty = Novelty((far, usual))
    assert novelty.verdict == (
        "code distance 41.2, training scans 5.1..14.9 (99 %): far outside what this pipeline was trained on"
    )
    assert not novelty.inside
    near = Novelty((Measure("code distance", 15.2, 5.1, 14.9), usual))
    assert near.verdict.endswith("(99 %): outside what this pipeline was trained on")
    dark = Novelty((Measure("code distance", 9, 5.1, 14.9), Measure("mean intensity", 0.1, 0.2, 0.4)))
    assert "; mean intensity 0.1, training scans 0.2..0.4 (99 %): outside" in dark.verdict


def test_nearer_than_usual_is_nothing_to_warn_of() -> None:
    novelty = Novelty(
        (Measure("code distance", 1.0, 5.1, 14.9), Measure("reconstruction error", 0.0, 0.1, 0.2))
    )
    assert novelty.inside
    assert novelty.verdict.endswith("within what this pipeline was trained on")
    assert novelty.to_dict()["measures"]["code_distance"] == {"value": 1.0, "training": [5.1, 14.9]}


def test_training_scans_lie_inside_and_noise_far_outside(pipe: LDAEPipeline, cohort: pd.DataFrame) -> None:
    train = list(cohort.loc[cohort["split"] == "train", "path"])
    # the ranges are those of the cached scans, which are rounded to float16
    assert max(measure.excess for novelty in pipe.novelty(train) for measure in novelty.measures) < 0.02
    scan = pipe.read(train[0])
    noise = scan.like(torch.rand(scan.data.shape, generator=torch.Generator().manual_seed(0)))
    verdict = pipe.novelty([noise])[0].verdict
    assert "mean intensity" in verdict
    assert verdict.endswith("far outside what this pipeline was trained on")


def test_moved_codes_are_judged_by_distance_alone(pipe: LDAEPipeline) -> None:
    mean = torch.from_numpy(pipe.statistics.mean).float()
    near, far = judge_scans(pipe.statistics, torch.stack([mean, mean + 50]))
    assert near.inside
    assert not far.inside
    assert [measure.name for measure in far.measures] == ["code distance"]
