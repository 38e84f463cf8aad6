# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from gaussian_blobs import blobs
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ldae.errors import CheckpointError, InputError
from ldae.heads import (
    DepthEnsembleClassifier,
    DropoutClassifier,
    EvidentialClassifier,
    LaDiNEClassifier,
    LaplaceClassifier,
    LinearProbe,
    MLPClassifier,
    NeighbourClassifier,
    TemperedProbe,
)
from ldae.heads.laplace import gauss_newton

QUICK: dict[str, Any] = {"hidden": (8,), "epochs": 15, "learning_rate": 1e-2}


def baselines(**common: Any) -> list[Any]:
    return [
        TemperedProbe(**common),
        MLPClassifier(**QUICK, **common),
        MLPClassifier(members=3, **QUICK, **common),
        DropoutClassifier(samples=4, **QUICK, **common),
        LaplaceClassifier(**QUICK, **common),
        NeighbourClassifier(**common),
        DepthEnsembleClassifier(members=2, **QUICK, **common),
    ]


@parametrize_with_checks([NeighbourClassifier(folds=2)], expected_failed_checks=lambda _: {})
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [head for head in baselines(folds=2) if not isinstance(head, NeighbourClassifier)],
    expected_failed_checks=lambda _: {},
)
def test_scikit_learn_contract_of_what_takes_longer(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def fitted() -> list[Any]:
    codes, labels = blobs(3, distance=1.0)
    return [head.fit(codes, labels) for head in baselines()]


def test_what_is_said_is_no_affair_of_the_batch_and_survives_saving(fitted: list[Any]) -> None:
    codes, labels = blobs(3, distance=1.0)
    for head in fitted:
        whole = head.predict_proba(codes)
        assert (whole.argmax(axis=1) == labels).mean() > 0.75
        np.testing.assert_allclose(head.predict_proba(codes[7:8]), whole[7:8], rtol=1e-12)
        config, arrays = head.state()
        again = type(head).from_state(json.loads(json.dumps(config)), arrays)
        np.testing.assert_array_equal(again.predict_proba(codes), whole)
        assert again.uncertainty(codes).equals(head.uncertainty(codes))
        twin = type(head)(**head.get_params()).fit(codes, labels)
        np.testing.assert_array_equal(twin.predict_proba(codes), whole)


def test_a_state_of_another_head_is_refused(fitted: list[Any]) -> None:
    config, arrays = fitted[1].state()
    with pytest.raises(CheckpointError, match="must be a DropoutClassifier, got MLPClassifier"):
        DropoutClassifier.from_state(config, arrays)


def test_the_differentiable_form_says_the_same() -> None:
    codes, labels = blobs(3, distance=1.0)
    others = [LinearProbe(), EvidentialClassifier(epochs=10), EvidentialClassifier(epochs=5, modulation=True)]
    given = torch.from_numpy(codes).requires_grad_()
    for head in [*(one for one in baselines() if not isinstance(one, NeighbourClassifier)), *others]:
        head.fit(codes, labels)
        said = head.differentiable_proba(given, generator=torch.Generator())
        np.testing.assert_allclose(said.detach().numpy(), head.predict_proba(codes), atol=1e-12)
        (gradient,) = torch.autograd.grad(said[:, 0].sum(), given)
        step = np.zeros_like(codes)
        step[:, 1] = 1e-5
        slope = (head.predict_proba(codes + step) - head.predict_proba(codes - step))[:, 0] / 2e-5
        np.testing.assert_allclose(gradient[:, 1].numpy(), slope, atol=1e-6)


@pytest.mark.parametrize("parametrisation", ["y0", "eps"])
def test_ladine_is_differentiated_through_fresh_samples(parametrisation: Any) -> None:
    codes, labels = blobs(2, distance=1.0)
    head = LaDiNEClassifier(
        members=2, samples=50, parametrisation=parametrisation, diffusion_steps=60, epochs=10
    ).fit(codes, labels)
    given = torch.from_numpy(codes).requires_grad_()
    one, other = (
        head.differentiable_proba(given, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    assert not torch.equal(one, other)
    torch.testing.assert_close(one.sum(1), torch.ones(len(codes), dtype=torch.float64))
    slopes = torch.autograd.grad(one[:, 0].sum(), given)[0]
    assert slopes.isfinite().all()
    assert (slopes != 0).any(1).double().mean() > 0.5
    if parametrisation == "y0":
        np.testing.assert_allclose(one.detach().numpy(), head.predict_proba(codes), atol=0.05)


def test_the_depth_ensemble_is_ladine_without_its_diffusion() -> None:
    codes, labels = blobs(2, width=6, distance=0.5)
    same: dict[str, Any] = {"depths": [2, 4], "epochs": 8, "random_state": 3}
    diffused = LaDiNEClassifier(diffusion_steps=10, **same).fit(codes, labels)
    plain = DepthEnsembleClassifier(**same).fit(codes, labels)
    np.testing.assert_array_equal(plain.member_probabilities(codes), diffused.member_probabilities(codes))
    with pytest.raises(InputError, match="members must be at most the 2 depths given, got 3"):
        DepthEnsembleClassifier(depths=[2, 4], members=3).fit(codes, labels)


def test_a_temperature_undoes_too_much_confidence() -> None:
    codes, labels = blobs(2, width=30, distance=0.2, per_class=60)
    codes = np.hstack([codes, np.random.default_rng(1).standard_normal((len(codes), 40))])
    head = TemperedProbe(random_state=0)
    head.fit(codes, labels)
    log_odds = [np.log(said[:, 1] / said[:, 0]) for said in map(_said_by(codes), (head.probe_, head))]
    np.testing.assert_allclose(log_odds[1] * head.temperature_, log_odds[0], rtol=1e-9)


def _said_by(codes: Any) -> Any:
    return lambda head: head.predict_proba(codes)


def test_masks_drop_a_tenth_of_the_hidden_values() -> None:
    codes, labels = blobs(2)
    head = DropoutClassifier(samples=200, hidden=(64,), epochs=5).fit(codes, labels)
    dropped = (head.network_.last.weight == 0).all(-1).double().mean()
    assert dropped == pytest.approx(0.1, abs=0.01)
    doubt = head.uncertainty(codes)
    assert (doubt["epistemic"] > 0).all()
    assert (doubt["epistemic"] < doubt["entropy"]).all()


def test_gauss_newton_is_the_hessian_of_the_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    targets = torch.arange(12) % 3

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(inputs @ flat.reshape(3, 4).T, targets, reduction="sum")

    hessian = torch.autograd.functional.hessian(loss, weights.flatten())
    torch.testing.assert_close(gauss_newton(inputs, (inputs @ weights.T).softmax(1)), hessian)


def test_laplace_doubts_more_the_farther_a_code_lies() -> None:
    codes, labels = blobs(2, width=3)
    head = LaplaceClassifier(hidden=(), epochs=30, learning_rate=0.05).fit(codes, labels)
    direction = codes[labels == 1].mean(0) - codes[labels == 0].mean(0)
    away = codes.mean(0) + np.array([1.0, 4.0, 16.0])[:, None] * direction
    assert head.uncertainty(away)["variance"].is_monotonic_increasing
    plain = head.mlp_.predict_proba(away)[:, 1]
    assert (head.predict_proba(away)[:, 1] < plain).all()


def test_neighbours_are_counted() -> None:
    codes = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    head = NeighbourClassifier(neighbours=[3], folds=2).fit(codes, ["CN"] * 3 + ["AD"] * 3)
    np.testing.assert_allclose(head.predict_proba([[1.0]]), [[0.5 / 4, 3.5 / 4]])
    distance = head.uncertainty([[1.0], [40.0]])["distance"]
    np.testing.assert_allclose(distance, np.array([1.0, 30.0]) / codes.std())


def test_a_temperature_leaves_the_names_of_columns_checked(recwarn: pytest.WarningsRecorder) -> None:
    codes, labels = blobs(2)
    table = pd.DataFrame(codes, columns=[f"c{place}" for place in range(6)])
    head = TemperedProbe().fit(table, labels)
    np.testing.assert_array_equal(head.predict_proba(table).argmax(axis=1), labels)
    assert not [one for one in recwarn if "feature names" in str(one.message)]
    with pytest.raises(InputError, match="feature names should match those that were passed during fit"):
        head.predict(table.iloc[:, ::-1])
    with pytest.raises(InputError, match="X has 5 features, but TemperedProbe is expecting 6"):
        head.predict(codes[:, :5])


@pytest.mark.parametrize("faulty", baselines())
def test_bad_input_is_told_in_a_sentence(faulty: Any) -> None:
    codes, labels = blobs(2)
    with pytest.raises(InputError, match="at least two classes, got one class"):
        faulty.fit(codes, np.zeros(len(codes)))
    with pytest.raises(InputError, match="NaN"):
        faulty.fit(np.where(codes > 2, np.nan, codes), labels)
    with pytest.raises(InputError, match="at least 5 samples for 5 folds, got 3"):
        faulty.fit(codes[:43], labels[:43])


@pytest.mark.slow
def test_breast_cancer_is_told_as_well_as_by_logistic_regression() -> None:
    features, labels = load_breast_cancer(return_X_y=True)
    heads = {type(head).__name__: head for head in baselines()}
    heads["regression"] = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    right = dict.fromkeys(heads, 0)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(features, labels):
        for name, head in heads.items():
            right[name] += (
                head.fit(features[train], labels[train]).predict(features[test]) == labels[test]
            ).sum()
    for name, count in right.items():
        if name != "DepthEnsembleClassifier":  # two views of half of the columns
            assert count > right["regression"] - 0.02 * len(labels), name


def test_fitting_leaves_the_random_numbers_of_others_alone() -> None:
    codes, labels = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 2
    before = torch.get_rng_state()
    DropoutClassifier(epochs=2).fit(codes, labels)
    assert torch.equal(torch.get_rng_state(), before)
