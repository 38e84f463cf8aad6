# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from gaussian_blobs import blobs
from scipy.optimize import minimize_scalar
from scipy.stats import dirichlet
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ldae.errors import CheckpointError, InputError
from ldae.heads import EvidentialClassifier, evidential
from ldae.heads.evidential_losses import (
    LOSSES,
    annealed,
    dirichlet_loss,
    kl_term,
    kl_to_uniform,
    log_det_fisher,
    to_evidence,
)
from ldae.heads.modulation import HaC
from ldae.heads.uncertainty import dirichlet_uncertainty

QUICK = {"epochs": 15, "learning_rate": 0.05, "folds": 2}


@parametrize_with_checks([EvidentialClassifier(**QUICK)], expected_failed_checks=lambda _: {})
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


def test_uncertainties_of_known_concentrations() -> None:
    told = dirichlet_uncertainty([[1, 1], [10, 10], [100, 1]])
    expected = {
        "vacuity": [1, 0.10, 0.02],
        "dissonance": [0, 0.90, 0],
        "entropy": [0.693, 0.693, 0.056],
        "aleatoric": [0.500, 0.669, 0.051],
        "epistemic": [0.193, 0.024, 0.004],
        "least_confidence": [0.5, 0.5, 1 / 101],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(told[name], values, atol=6e-4 if name != "vacuity" else 2e-3)


def test_uncertainties_against_scipy_and_samples() -> None:
    alpha = np.array([2.0, 0.7, 5.0])
    told = dirichlet_uncertainty(alpha[None]).iloc[0]
    draws = dirichlet(alpha).rvs(200_000, random_state=0)
    sampled = -(draws * np.log(np.maximum(draws, 1e-300))).sum(axis=1).mean()
    assert told["aleatoric"] == pytest.approx(sampled, abs=3e-3)
    assert told["differential_entropy"] == pytest.approx(dirichlet(alpha).entropy(), abs=1e-9)


def test_kl_equals_monte_carlo_and_vanishes_at_the_uniform() -> None:
    alpha = np.array([3.0, 1.5, 0.8])
    draws = dirichlet(alpha).rvs(400_000, random_state=0).T
    sampled = (dirichlet(alpha).logpdf(draws) - dirichlet(np.ones(3)).logpdf(draws)).mean()
    assert float(kl_to_uniform(torch.tensor(alpha))) == pytest.approx(sampled, rel=0.005)
    assert float(kl_to_uniform(torch.ones(4))) == pytest.approx(0, abs=1e-6)


def test_losses_are_the_integrals_that_they_stand_for() -> None:
    alpha, y = torch.tensor([[4.0, 1.5, 2.5]]).double(), torch.tensor([0])
    draws = dirichlet(alpha[0].numpy()).rvs(400_000, random_state=1)
    one_hot = np.eye(3)[0]
    assert float(dirichlet_loss(alpha, y, name="nll")) == pytest.approx(-np.log(draws[:, 0].mean()), rel=5e-3)
    assert float(dirichlet_loss(alpha, y, name="ce")) == pytest.approx(-np.log(draws[:, 0]).mean(), rel=5e-3)
    risk = ((one_hot - draws) ** 2).sum(axis=1).mean()
    assert float(dirichlet_loss(alpha, y, name="mse")) == pytest.approx(risk, rel=5e-3)
    mean = (alpha / alpha.sum()).numpy()[0]
    assert float(dirichlet_loss(alpha, y, name="redl")) == pytest.approx(((one_hot - mean) ** 2).sum())
    fisher = torch.diag(torch.polygamma(1, alpha[0])) - torch.polygamma(1, alpha.sum())
    assert float(log_det_fisher(alpha)) == pytest.approx(float(torch.logdet(fisher)), rel=1e-9)


@pytest.mark.parametrize("kl", ["full", "tilde"])
def test_the_pull_ends_where_there_is_no_evidence(kl: Any) -> None:
    evidence = torch.tensor([[0.0, 0.0], [0.0, 0.05], [0.0, 0.9], [0.0, 5.0]], dtype=torch.float64)
    pull = kl_term(evidence, torch.zeros(4, dtype=torch.long), name=kl)
    assert float(pull[0]) == pytest.approx(0, abs=1e-6)
    assert (pull.diff() > 0).all()


def test_labels_of_chance_leave_redl_with_little_evidence() -> None:
    """A pull that ends at an evidence of 0.9 a class would leave a vacuity of 0.1."""
    generator = np.random.default_rng(0)
    codes, labels = generator.normal(size=(400, 5)), generator.integers(0, 2, 400)
    head = EvidentialClassifier(loss="redl", kl="full", kl_weight=1.0, weight_decay=0.01)
    assert head.fit(codes, labels).uncertainty(codes)["vacuity"].mean() > 0.15


def test_tilde_takes_off_the_evidence_of_the_true_class() -> None:
    evidence, y = torch.tensor([[50.0, 0.0]]), torch.tensor([0])
    assert float(kl_term(evidence, y, name="tilde")) == pytest.approx(0, abs=1e-6)
    assert float(kl_term(evidence, y, name="full")) > 1
    assert float(kl_term(evidence, y, name="none")) == 0


def test_evidence_and_annealing() -> None:
    logits = torch.tensor([-100.0, 0.0, 100.0])
    np.testing.assert_allclose(to_evidence(logits, name="exp"), np.exp([-10.0, 0.0, 10.0]), rtol=1e-6)
    np.testing.assert_allclose(to_evidence(logits, name="softplus"), [0, np.log(2), 100], atol=1e-6)
    assert [annealed(0.5, epoch=epoch, over=10) for epoch in (1, 5, 10, 50)] == [0.05, 0.25, 0.5, 0.5]
    assert annealed(0.5, epoch=1, over=0) == 0.5


@pytest.mark.parametrize(
    ("classes", "weight", "cap"), [(2, 1, 0.618), (3, 1, 0.45), (4, 1, 0.36), (2, 5e-3, 0.995)]
)
def test_full_kl_caps_the_probability(classes: int, weight: float, cap: float) -> None:
    def loss(evidence: float) -> float:
        alpha = torch.ones(1, classes).double()
        alpha[0, 0] += evidence
        data = dirichlet_loss(alpha, torch.tensor([0]), name="nll")
        return float(data + weight * kl_to_uniform(alpha))

    best = minimize_scalar(loss, bounds=(0, 1000), method="bounded", options={"xatol": 1e-4}).x
    assert (1 + best) / (classes + best) == pytest.approx(cap, abs=0.01 if weight == 1 else 5e-4)


def test_fitted_head_keeps_to_the_cap_and_passes_it_at_the_default_weight() -> None:
    """Codes that differ by class alone: evidence that is linear in the code can then be the same for all."""
    labels = np.repeat([0, 1], 40)
    codes = 2.0 * labels[:, None] - 1 + 1e-3 * np.random.default_rng(0).standard_normal((80, 1))
    settings = {"epochs": 60, "learning_rate": 0.05, "folds": 2, "weight_decay": 0.0}
    pulled = EvidentialClassifier(kl_weight=1.0, anneal_epochs=0, **settings)
    capped = pulled.fit(codes, labels).predict_proba(codes).max(axis=1)
    free = EvidentialClassifier(**settings).fit(codes, labels).predict_proba(codes).max(axis=1)
    np.testing.assert_allclose(capped, 0.618, atol=0.02)
    assert free.min() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
def test_accuracy_on_real_data(load: Any) -> None:
    features, labels = load(return_X_y=True)
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    head = EvidentialClassifier(epochs=20, learning_rate=0.02, folds=2)
    theirs = cross_val_score(reference, features, labels, cv=5).mean()
    assert cross_val_score(head, features, labels, cv=5).mean() > theirs - 0.02


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("evidence", ["exp", "softplus"])
def test_every_loss_learns_separable_classes(loss: Any, evidence: Any) -> None:
    codes, labels = blobs(3)
    head = EvidentialClassifier(loss=loss, evidence=evidence, kl="tilde", kl_weight=0.05, **QUICK)
    head.fit(codes, labels)
    assert head.score(codes, labels) > 0.95
    assert head.uncertainty(codes)["vacuity"].between(0, 1).all()


def test_modulation_starts_as_the_identity_and_learns_from_context() -> None:
    code, context = torch.randn(1, 7, 4), torch.randn(1, 7, 2)
    with torch.no_grad():
        torch.testing.assert_close(HaC(4, 2)(code, context), code, rtol=0, atol=0)
    # The sign of the effect depends on the site, which a linear head of the code cannot know.
    generator = np.random.default_rng(0)
    codes, site = generator.standard_normal((400, 3)), generator.integers(0, 2, 400)
    labels = (codes[:, 0] * (2 * site - 1) > 0).astype(int)
    table = np.column_stack([codes, site])
    settings = {"epochs": 40, "learning_rate": 0.03, "folds": 2}
    plain = EvidentialClassifier(**settings).fit(table, labels)
    aware = EvidentialClassifier(modulation=True, context=1, **settings).fit(table, labels)
    assert plain.score(table, labels) < 0.65
    assert aware.score(table, labels) > 0.9
    unknown = np.column_stack([codes, np.full(400, np.nan)])
    assert np.isfinite(aware.predict_proba(unknown)).all()
    assert (
        aware.uncertainty(unknown)["least_confidence"].mean()
        > aware.uncertainty(table)["least_confidence"].mean()
    )


def test_strength_of_the_modulation_is_the_mean_square_of_gate_times_gamma() -> None:
    code = torch.randn(1, 5, 2)
    modulation = HaC(2)
    with torch.no_grad():
        assert modulation.strength(code).eq(0).all()
        modulation.change.bias[0, 0] = torch.tensor([2.0, 4.0, 9.0, 9.0])  # gamma, then beta, which is not in
        modulation.gate.bias.zero_()
        modulation.gate.weight.zero_()
        # a = 1/2: the mean of (1/2 * 2)^2 and (1/2 * 4)^2
        torch.testing.assert_close(modulation.strength(code), torch.full((1, 5), 2.5))


def test_strength_is_how_much_of_itself_a_code_is_changed() -> None:
    code, context = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    context[0, 1] = torch.nan
    modulation = HaC(3, 4, networks=2).eval()
    with torch.no_grad():
        modulation.change.weight[..., :3].normal_()
        modulation.gate.weight.normal_()
        own = (modulation(code, context) / code - 1).square().mean(2)
        torch.testing.assert_close(modulation.strength(code, context), own, rtol=1e-3, atol=1e-5)


def test_training_restrains_the_modulation(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, labels = blobs(3, width=6, distance=1.0)
    strengths = []
    for weight in (evidential.MODULATION_WEIGHT, 0.0):
        monkeypatch.setattr(evidential, "MODULATION_WEIGHT", weight)
        head = EvidentialClassifier(modulation=True, epochs=40, learning_rate=0.01, folds=2).fit(
            codes, labels
        )
        standardised = torch.from_numpy((codes - head.mean_) / head.scale_)[None]
        strength = head.network_.strength(standardised)
        assert isinstance(strength, torch.Tensor)
        strengths.append(float(strength.mean()))
    restrained, free = strengths
    assert 0 < restrained < free / 100


def test_a_scan_does_not_depend_on_its_batch() -> None:
    codes, labels = blobs(3, width=40)
    head = EvidentialClassifier(hidden=(32,), **QUICK).fit(codes, labels)
    alone = np.concatenate([head.concentration(code[None]) for code in codes])
    np.testing.assert_allclose(head.concentration(codes), alone, rtol=1e-12)


def test_same_seed_same_head_and_the_world_untouched() -> None:
    codes, labels = blobs()
    before = torch.get_rng_state()
    first, again = (EvidentialClassifier(**QUICK).fit(codes, labels) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first.concentration(codes), again.concentration(codes))
    other = EvidentialClassifier(random_state=1, **QUICK).fit(codes, labels)
    assert np.abs(other.concentration(codes) - first.concentration(codes)).max() > 0


def test_state_survives_json() -> None:
    codes, labels = blobs()
    names = np.array(["CN", "AD"])[labels]
    table = np.column_stack([codes, labels])
    head = EvidentialClassifier(modulation=True, context=1, hidden=(8,), positive_label="AD", **QUICK)
    config, arrays = head.fit(table, names).state()
    again = EvidentialClassifier.from_state(json.loads(json.dumps(config)), arrays)
    np.testing.assert_array_equal(again.concentration(table), head.concentration(table))
    assert again.classes_.tolist() == ["AD", "CN"]
    assert again.positive_label_ == "AD"
    with pytest.raises(CheckpointError, match="must be saved as arrays"):
        EvidentialClassifier.from_state(config, {name: arrays[name] for name in list(arrays)[:-1]})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"anneal_epochs": -3}, "anneal_epochs must be at least 0, got -3"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"loss": "mae"}, "loss must be one of nll, ce, mse, iedl, redl, got 'mae'"),
        ({"kl": "half"}, "kl must be one of full, tilde, none"),
        ({"evidence": "relu"}, "evidence must be one of exp, softplus"),
        ({"kl_weight": -1}, "kl_weight must be at least 0"),
        ({"context": 9, "modulation": True}, "context must be between 0 and 5"),
        ({"context": 1}, "context must come with modulation, got 1 columns"),
        ({"hidden": 8}, "hidden must be a list of whole numbers, got 8"),
        ({"hidden": (8, 0)}, "each of hidden must be at least 1, got 0"),
        ({"hidden": ("a",)}, "each of hidden must be a whole number, got 'a'"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": -1}, "learning_rate must be at least 0, got -1"),
        ({"weight_decay": -1}, "weight_decay must be at least 0, got -1"),
        ({"balanced": "no"}, "balanced must be True or False, got 'no'"),
        ({"folds": 50}, "must have at least 50 samples for 50 folds, got 40"),
        ({"positive_label": "AD"}, "positive_label must be one of the classes"),
    ],
)
def test_wrong_options_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        EvidentialClassifier(**settings).fit(*blobs())


def test_bad_arrays_are_refused() -> None:
    codes, labels = blobs()
    holed = codes.copy()
    holed[3, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        EvidentialClassifier().fit(holed, labels)
    with pytest.raises(InputError, match="NaN in a code"):
        EvidentialClassifier(modulation=True, context=1).fit(holed, labels)
    unknown = np.column_stack([codes, np.full(len(codes), np.nan)])
    with pytest.raises(InputError, match="known of some training scan, got only NaN in column 6 of 7"):
        EvidentialClassifier(modulation=True, context=1).fit(unknown, labels)
    with pytest.raises(InputError, match=r"at least two classes, got one class: 'a'\."):
        EvidentialClassifier().fit(codes, np.full(len(codes), "a"))
    head = EvidentialClassifier(**QUICK).fit(codes, labels)
    with pytest.raises(InputError, match="X has 5 features, but EvidentialClassifier is expecting 6"):
        head.predict(codes[:, :5])


@pytest.mark.parametrize("count", [120, 600])
def test_few_or_rare_scans_are_learned_to_the_end(count: int) -> None:
    """Few scans make few steps an epoch; a class of one in ten must not be thought likelier than it is."""
    generator = np.random.default_rng(5)
    labels = (generator.random(count + 2000) < 0.1).astype(int)
    codes = generator.normal(size=(count + 2000, 4))
    codes[:, 0] += 1.5 * labels
    head = EvidentialClassifier().fit(codes[:count], labels[:count])
    reference = LogisticRegression().fit(codes[:count], labels[:count])
    losses = [log_loss(labels[count:], one.predict_proba(codes[count:])) for one in (head, reference)]
    assert losses[0] < losses[1] + 0.02
