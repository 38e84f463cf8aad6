# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from gaussian_blobs import blobs
from scipy.special import softmax
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ldae.errors import CheckpointError, InputError
from ldae.heads import LaDiNEClassifier
from ldae.heads.label_diffusion import (
    Sampled,
    alpha_bar_table,
    ddim_step,
    noised,
    one_hot_posterior,
    sample_labels,
)
from ldae.heads.label_statistics import label_spread, on_simplex, probability_map, scan_iota
from ldae.heads.ladine import diffuse, row_noise

QUICK: dict[str, Any] = {
    "epochs": 10,
    "diffusion_steps": 50,
    "learning_rate": 0.01,
    "hidden": (32,),
    "width": 16,
    "folds": 2,
}
# ten classes of noise take more steps to learn than ten classes
NOISE_PREDICTED: dict[str, Any] = {
    "parametrisation": "eps",
    "members": 2,
    "diffusion_steps": 600,
    "width": 32,
}
OVERLAPPING: dict[str, Any] = {"classes": 3, "width": 40, "distance": 0.5}
CHECKED = [LaDiNEClassifier(members=2, samples=5, **{**QUICK, "epochs": 5, "diffusion_steps": 5})]


@parametrize_with_checks(CHECKED, expected_failed_checks=lambda _: {})
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def fitted() -> tuple[LaDiNEClassifier, Any, Any]:
    codes, labels = blobs(**OVERLAPPING)
    return LaDiNEClassifier(members=3, samples=7, **QUICK).fit(codes, labels), codes, labels


def analytic(chances: torch.Tensor, mean: torch.Tensor) -> Any:
    """The exact E[y_0 | y_t] of one-hot labels with these probabilities."""

    def model(label: torch.Tensor, level: int) -> torch.Tensor:
        told = one_hot_posterior(label, mean, alpha_bar=alpha_bar_table()[level])
        return torch.softmax(chances.log() + told, -1)

    return model


def mixture_codes(count: int = 6) -> torch.Tensor:
    """p(y | x) of codes from three Gaussian classes with priors .5, .3, .2."""
    codes = np.random.default_rng(0).standard_normal((count, 2))
    means, priors = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]), np.array([0.5, 0.3, 0.2])
    logits = np.log(priors) - 0.5 * ((codes[:, None] - means) ** 2).sum(axis=2)
    return torch.from_numpy(softmax(logits, axis=1))


@pytest.mark.parametrize(("steps", "eta", "tolerance"), [(50, 0.0, 0.02), (20, 0.0, 0.05), (1000, 1.0, 0.02)])
def test_an_analytic_denoiser_samples_the_known_probabilities(
    steps: int, eta: float, tolerance: float
) -> None:
    chances = mixture_codes(6 if eta == 0 else 2)[:, None]
    samples = 8000 if eta == 0 else 3000
    mean = (chances + torch.tensor([0.1, -0.1, 0.0])).expand(-1, samples, -1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(mean.shape, generator=generator).double()
    fresh = torch.randn((steps - 1, *mean.shape), generator=generator).double() if eta else None
    sampled = sample_labels(analytic(chances, mean), mean, noise=noise, steps=steps, eta=eta, fresh=fresh)
    one_hot = (sampled.labels.round() - sampled.labels).abs() < 1e-3
    assert one_hot.double().mean() > (0.9 if steps == 20 else 0.99)
    shares = sampled.labels.round().mean(1)
    torch.testing.assert_close(shares, chances[:, 0], atol=tolerance, rtol=0)
    torch.testing.assert_close(sampled.first.mean(1), chances[:, 0], atol=2e-3, rtol=0)
    torch.testing.assert_close(on_simplex(sampled.middle).mean(1), chances[:, 0], atol=tolerance, rtol=0)


def test_on_the_simplex_is_the_closest_point_of_it() -> None:
    found = on_simplex(
        torch.tensor([[0.2, 0.3, 0.5], [3.0, -1.0, 0.0], [0.9, 0.7, -5.0], [-1.0, -1.0, -1.0]])
    )
    expected = [[0.2, 0.3, 0.5], [1, 0, 0], [0.6, 0.4, 0], [1 / 3, 1 / 3, 1 / 3]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_with_eps_no_draw_outweighs_the_others() -> None:
    head = LaDiNEClassifier(parametrisation="eps")
    middle = torch.tensor([0.9, 0.1]).double().repeat(1, 1, 20, 1)
    middle[0, 0, 0] = torch.tensor([-30.0, 31.0])  # an error that the small signal has blown up
    sampled = Sampled(middle, middle, middle)
    torch.testing.assert_close(
        head._mean_chances(sampled, over=(1, 2)), torch.tensor([[0.855, 0.145]]).double()
    )


def test_with_eps_probabilities_are_near_the_true_ones() -> None:
    generator = np.random.default_rng(0)
    means = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])
    labels = generator.choice(3, 700, p=[0.5, 0.3, 0.2])
    codes = means[labels] + generator.standard_normal((700, 2))
    true = softmax(np.log([0.5, 0.3, 0.2]) - 0.5 * ((codes[:, None] - means) ** 2).sum(axis=2), axis=1)
    head = LaDiNEClassifier(**{**QUICK, **NOISE_PREDICTED, "diffusion_steps": 300})
    said = head.fit(codes[:400], labels[:400]).predict_proba(codes[400:])
    rows = np.arange(300), labels[400:]
    assert -np.log(said[rows]).mean() < -np.log(true[400:][rows]).mean() + 0.1


def test_exact_samples_have_a_cnpv_of_four_p_times_one_minus_p() -> None:
    chances = mixture_codes(4)[:, None]
    mean = chances.expand(-1, 8000, -1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1)).double()
    labels = sample_labels(analytic(chances, mean), mean, noise=noise, steps=50).labels
    p = chances[:, 0].numpy()
    spread = label_spread(labels[:, None].numpy(), predicted=p.argmax(axis=1), classes=["a", "b", "c"])
    table = spread[["cnpv_a", "cnpv_b", "cnpv_c"]].to_numpy()
    np.testing.assert_allclose(table, 4 * p * (1 - p), atol=0.04)
    assert (spread["between"] == 0).all()


def test_noising_is_the_marginal_of_the_one_step_kernel() -> None:
    # y_t = sqrt(a) y_{t-1} + (1 - sqrt(a)) m + sqrt(b) eps, followed over mean and variance of y - m.
    table = alpha_bar_table()
    alpha = table / torch.cat([torch.ones(1).double(), table[:-1]])
    signal, variance = torch.ones(1).double(), torch.zeros(1).double()
    for step in alpha[:400]:
        signal, variance = step.sqrt() * signal, step * variance + 1 - step
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    torch.testing.assert_close(noised(one, zero, alpha_bar=table[399]), signal)
    torch.testing.assert_close(noised(zero, one, alpha_bar=table[399]), variance.sqrt())


def test_a_full_ancestral_step_is_the_gaussian_posterior() -> None:
    table, t = alpha_bar_table(), 500
    now, after = float(table[t]), float(table[t - 1])
    alpha, clean, residual = now / after, 0.7, -0.2
    precision = alpha / (1 - alpha) + 1 / (1 - after)
    mean = (alpha**0.5 * residual / (1 - alpha) + after**0.5 * clean / (1 - after)) / precision
    ours, sigma = ddim_step(torch.tensor(residual), torch.tensor(clean), now=now, after=after, eta=1.0)
    assert float(ours) == pytest.approx(mean, rel=1e-5)
    assert sigma**2 == pytest.approx(1 / precision)


def test_a_step_of_labels_has_the_published_coefficients() -> None:
    table, t, prior = alpha_bar_table(), 500, 0.4
    assert float(table[-1]) == pytest.approx(4.0e-5, abs=5e-7)
    assert float(table[-1].sqrt()) == pytest.approx(0.0064, abs=5e-5)
    now, after = float(table[t]), float(table[t - 1])
    alpha, noised_label, clean = now / after, 1.3, 0.7
    residual = torch.tensor(noised_label - prior).double()
    ours, _ = ddim_step(residual, torch.tensor(clean - prior), now=now, after=after, eta=1.0)
    first = alpha**0.5 * (1 - after) / (1 - now)
    second = (1 - alpha) * after**0.5 / (1 - now)
    third = 1 + (now**0.5 - 1) * (alpha**0.5 + after**0.5) / (1 - now)  # as CARD writes it
    assert third == pytest.approx(1 - first - second, abs=1e-12)
    published = first * noised_label + second * clean + third * prior
    assert float(ours) + prior == pytest.approx(published, abs=1e-6)


@pytest.mark.parametrize(("steps", "share"), [(10, 0.62), (20, 0.609), (50, 0.603)])
def test_few_steps_favour_the_most_probable_class_by_a_known_amount(steps: int, share: float) -> None:
    chances = torch.tensor([0.6, 0.3, 0.1]).double()
    mean = (chances + torch.tensor([0.1, -0.1, 0.0])).expand(20_000, 3)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).double()
    sampled = sample_labels(analytic(chances, mean), mean, noise=noise, steps=steps).labels
    assert float((sampled.argmax(1) == 0).double().mean()) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("parametrisation", ["y0", "eps"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_batch_equals_the_loop_under_shared_noise(parametrisation: Any, eta: float) -> None:
    codes, labels = blobs(**OVERLAPPING, per_class=10)
    head = LaDiNEClassifier(members=2, samples=3, parametrisation=parametrisation, eta=eta, **QUICK)
    head.fit(codes, labels)
    rows = np.asarray(codes[:4], dtype=np.float64)
    together = head.sample(rows)
    drawn = row_noise(rows, (head.steps if eta else 1, 2, 3, 3), seed=head.seed_)
    standardised = head._standardised(rows)
    condition = head.denoiser_.condition(head._prior(standardised), head._code(standardised)[None])
    for scan in range(4):
        for sample in range(3):
            one = drawn[scan : scan + 1, :, :, sample : sample + 1]
            alone = diffuse(
                head.denoiser_, condition.rows(scan, scan + 1), drawn=one, steps=head.steps, eta=eta
            )
            np.testing.assert_allclose(alone.labels[:, 0, 0], together[scan, :, sample], atol=1e-9)


def test_a_scan_depends_neither_on_its_batch_nor_on_the_order(fitted: Any) -> None:
    head, codes, _ = fitted
    together = head.sample(codes[:40])
    np.testing.assert_allclose(head.sample(codes[:40][::-1])[::-1], together, atol=1e-9)
    alone = np.concatenate([head.sample(code[None]) for code in codes[:5]])
    np.testing.assert_allclose(alone, together[:5], atol=1e-9)
    proba = head.predict_proba(codes)
    np.testing.assert_allclose(head.predict_proba(codes[7:8]), proba[7:8], atol=1e-12)


def test_same_seed_same_head(fitted: Any) -> None:
    head, codes, labels = fitted
    before = torch.get_rng_state()
    again = LaDiNEClassifier(members=3, samples=7, **QUICK).fit(codes, labels)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(again.sample(codes[:9]), head.sample(codes[:9]))


def test_uncertainty_splits_the_variance(fitted: Any) -> None:
    head, codes, _ = fitted
    told, labels = head.uncertainty(codes), head.sample(codes).clip(0, 1)
    own = head.predict_proba(codes).argmax(axis=1)
    variance = labels.reshape(len(codes), -1, 3).var(axis=1)[np.arange(len(codes)), own]
    np.testing.assert_allclose(told["within"] + told["between"], variance, atol=1e-12)
    np.testing.assert_allclose(told["cnpv"], 4 * variance, atol=1e-12)
    assert told.columns.tolist()[:6] == ["cpiw", "cnpv", "within", "between", "entropy", "least_confidence"]
    assert {"cpiw_0", "cnpv_2"} < set(told.columns)


def test_iota_recovers_the_frequencies_of_exact_samples_and_the_cap_of_the_other_map() -> None:
    labels = np.eye(2)[[0] * 7 + [1] * 3][None, None]
    assert probability_map(labels, iota=0.1737)[0, 0] == pytest.approx(0.70, abs=0.005)
    assert probability_map(labels, iota=0.1737, mean_first=True)[0, 0] == pytest.approx(0.91, abs=0.005)
    for classes, caps in ((2, (0.997, 0.959)), (4, (0.991, 0.887))):
        sure = np.eye(classes)[:1][None, None]
        for iota, cap in zip((0.1737, 0.3162), caps, strict=True):
            assert probability_map(sure, iota=iota)[0, 0] == pytest.approx(cap, abs=0.001)
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 500)
    wrong = np.where(generator.random(500) < 0.2, 1 - truth, truth)
    sampled = np.eye(2)[wrong][:, None, None]
    mapped = probability_map(sampled, iota=scan_iota(sampled, truth))
    assert mapped.max() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("probability", ["map", "map_of_mean"])
def test_the_other_rules_are_probabilities_and_as_accurate(fitted: Any, probability: Any) -> None:
    head, codes, labels = fitted
    ruled = LaDiNEClassifier(members=3, samples=7, probability=probability, **QUICK).fit(codes, labels)
    chances = ruled.predict_proba(codes)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert ruled.score(codes, labels) > head.score(codes, labels) - 0.05


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, NOISE_PREDICTED], ids=["y0", "eps"])
@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
def test_accuracy_on_real_data(load: Any, settings: dict[str, Any]) -> None:
    features, labels = load(return_X_y=True)
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    head = LaDiNEClassifier(**{**QUICK, **settings})
    theirs = cross_val_score(reference, features, labels, cv=5).mean()
    assert cross_val_score(head, features, labels, cv=5).mean() > theirs - 0.02


def test_depths_are_the_columns_of_the_members() -> None:
    codes, labels = blobs(**OVERLAPPING)
    noise = np.random.default_rng(1).standard_normal((len(codes), 8))
    table = np.column_stack([noise, codes])
    head = LaDiNEClassifier(depths=(8, 40), **QUICK).fit(table, labels)
    assert [len(own) for own in head.columns_] == [8, 40]
    told = head.member_probabilities(table)
    np.testing.assert_allclose(told.sum(axis=2), 1)
    right = (told.argmax(axis=2) == labels[:, None]).mean(axis=0)
    assert right[1] > 0.9 > right[0] + 0.1
    alone = LaDiNEClassifier(depths=np.array([8, 40]), members=1, **QUICK).fit(table, labels)
    assert alone.sample(table).shape[1] == 1
    assert alone.state()[0]["parameters"]["depths"] == [8, 40]


def test_state_survives_json(fitted: Any) -> None:
    head, codes, _ = fitted
    config, arrays = head.state()
    again = LaDiNEClassifier.from_state(json.loads(json.dumps(config)), arrays)
    np.testing.assert_array_equal(again.sample(codes[:5]), head.sample(codes[:5]))
    np.testing.assert_array_equal(again.predict_proba(codes), head.predict_proba(codes))
    assert again.iota_ == head.iota_
    with pytest.raises(CheckpointError, match="must be a LaDiNEClassifier, got LinearProbe"):
        LaDiNEClassifier.from_state({**config, "head": "LinearProbe"}, arrays)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"depths": (10, 30), "members": 3}, "members must be at most the 2 depths given, got 3"),
        ({"depths": (10, 20)}, "depths must be widths that add up to the 40 columns of X"),
        ({"steps": 5}, "steps must be 1, or between 10 and 1000, got 5"),
        ({"parametrisation": "v"}, "parametrisation must be one of y0, eps, got 'v'"),
        ({"probability": "vote"}, "probability must be one of expectation, map, map_of_mean"),
        ({"eta": 2}, "eta must be between 0 and 1"),
        ({"members": 0}, "members must be at least 1"),
        ({"folds": 41}, "must have at least 41 samples for 41 folds, got 40"),
    ],
)
def test_wrong_options_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        LaDiNEClassifier(**settings).fit(*blobs(**OVERLAPPING))


def test_bad_arrays_are_refused(fitted: Any) -> None:
    head, codes, _ = fitted
    with pytest.raises(InputError, match="at least two classes, got one class"):
        LaDiNEClassifier().fit(codes, np.zeros(len(codes)))
    with pytest.raises(InputError, match="X has 39 features, but LaDiNEClassifier is expecting 40"):
        head.predict(codes[:, :39])
    with pytest.raises(InputError, match="NaN"):
        head.predict(np.full((1, 40), np.nan))


@pytest.mark.parametrize(
    ("depths", "told"), [(6, "depths must be a list"), ([3, 0], "each of depths must be")]
)
def test_depths_that_are_no_widths_are_refused(depths: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        LaDiNEClassifier(depths=depths).fit(np.zeros((40, 6)), np.arange(40) % 2)


def test_signal_variances_have_the_digits_of_float64() -> None:
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(alpha_bar_table().numpy(), expected, rtol=1e-12)
