# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gaussian_blobs import blobs
from latent_blobs import SHAPE, latent_blobs
from scipy.special import softmax
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks

from ldae.diffusion.schedule import Schedule
from ldae.errors import CheckpointError, InputError
from ldae.heads import NoiseAwareClassifier
from ldae.heads.noise_gauge import NoiseGauge

QUICK: dict[str, Any] = {"epochs": 10, "folds": 2, "learning_rate": 0.01, "batch_size": 32}
MEANS = np.array([[1.2, 0.0, 0.5], [-1.0, 0.6, 0.5], [0.0, -1.2, -1.0]])


@pytest.mark.slow
@parametrize_with_checks([NoiseAwareClassifier(**QUICK)], expected_failed_checks=lambda _: {})
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def fitted() -> tuple[NoiseAwareClassifier, Any, Any]:
    codes, labels = blobs(3, width=20, distance=0.5)
    return NoiseAwareClassifier(**QUICK).fit(codes, labels), codes, labels


@pytest.fixture(scope="module")
def on_latents() -> tuple[NoiseAwareClassifier, Any, Any]:
    latents, labels = latent_blobs()
    return NoiseAwareClassifier(width=8, **QUICK).fit(latents, labels), latents, labels


@pytest.mark.slow
def test_it_learns_the_posterior_of_noised_gaussian_classes_at_every_level() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=6000)
    codes = MEANS[labels] + generator.standard_normal((6000, 3))
    head = NoiseAwareClassifier(epochs=12, folds=5, batch_size=128).fit(codes, labels)
    tests = generator.integers(3, size=1000)
    clean = (MEANS[tests] + generator.standard_normal((1000, 3)) - head.mean_) / head.scale_
    means, variance = (MEANS - head.mean_) / head.scale_, 1 / head.scale_**2
    for level, signal in [(0, 1.0), *((t + 1, float(Schedule().alpha_bar[t])) for t in (100, 300, 500, 900))]:
        noised = signal**0.5 * clean + (1 - signal) ** 0.5 * generator.standard_normal(clean.shape)
        offsets = noised[:, None] - signal**0.5 * means
        known = softmax(-(offsets**2 / (signal * variance + 1 - signal)).sum(axis=2) / 2, axis=1)
        found = head.posterior(noised, level=level)
        assert np.abs(found - known).mean() < 0.04, level
        assert np.quantile(np.abs(found - known), 0.99) < 0.13, level


def test_a_scan_does_not_depend_on_its_batch_and_fits_are_alike(fitted: Any, on_latents: Any) -> None:
    for head, values, labels in (fitted, on_latents):
        alone = np.concatenate([head.predict_proba(row[None]) for row in values[:8]])
        np.testing.assert_array_equal(head.predict_proba(values)[:8], alone)
        again = NoiseAwareClassifier(**head.get_params()).fit(values, labels)
        np.testing.assert_array_equal(again.predict_proba(values), head.predict_proba(values))


def test_noised_versions_blur_the_judgement_and_may_disagree(fitted: Any) -> None:
    head, codes, _ = fitted
    blurred = NoiseAwareClassifier.from_state(*head.state()).set_params(judged_at="average", draws=32)
    assert blurred.predict_proba(codes).max(axis=1).mean() < head.predict_proba(codes).max(axis=1).mean()
    assert (head.uncertainty(codes)["disagreement"] == 0).all()
    told = blurred.uncertainty(codes)
    assert list(told.columns) == ["entropy", "least_confidence", "disagreement", "level"]
    assert (told["disagreement"] > 0).all()
    assert (told["disagreement"] <= told["entropy"]).all()


def test_the_gauge_finds_the_level_of_noise_in_gaussian_codes() -> None:
    generator = np.random.default_rng(0)
    spread = np.append(3.0 / np.arange(1, 9), np.full(42, 0.3))
    turn = np.linalg.qr(generator.standard_normal((50, 50)))[0]

    def draw(count: int) -> Any:
        return (spread * generator.standard_normal((count, 50))) @ turn

    codes = draw(400)
    folds = [
        (np.flatnonzero(np.arange(400) % 5 != k), np.flatnonzero(np.arange(400) % 5 == k)) for k in range(5)
    ]
    gauge = NoiseGauge.fit(codes, folds=folds)
    np.testing.assert_allclose(gauge.variances[:3], spread[:3] ** 2, rtol=0.25)
    assert abs(gauge.variances[20:50].mean() / 0.09 - 1) < 0.1
    assert (gauge.levels(draw(200)) < 60).mean() > 0.85
    for level in (100, 250, 500, 800):
        signal = float(Schedule().alpha_bar[level - 1])
        told = gauge.levels(draw(200) + ((1 - signal) / signal) ** 0.5 * generator.standard_normal((200, 50)))
        assert abs(np.median(told) - level) < 20, level


def test_the_spectrum_of_the_gauge_is_that_of_codes_it_has_not_seen() -> None:
    generator = np.random.default_rng(0)
    codes = generator.standard_normal((60, 200))  # more numbers than codes: fitted, a direction explains much
    folds = [
        (np.flatnonzero(np.arange(60) % 5 != k), np.flatnonzero(np.arange(60) % 5 == k)) for k in range(5)
    ]
    np.testing.assert_allclose(NoiseGauge.fit(codes, folds=folds).variances, 1, atol=0.6)


def test_noised_codes_are_judged_at_the_level_that_they_carry(fitted: Any) -> None:
    head, codes, labels = fitted
    assert np.median(head.levels(codes)) == 0
    noised = codes + 3 * head.scale_ * np.random.default_rng(0).standard_normal(codes.shape)
    levels = head.levels(noised)
    assert np.median(levels) > 300
    np.testing.assert_array_equal(head.uncertainty(noised)["level"], levels)
    signal = float(Schedule().alpha_bar[levels[0] - 1])
    z = signal**0.5 * (noised[:1] - head.mean_) / head.scale_
    told = head.posterior(z, level=int(levels[0]))
    np.testing.assert_allclose(head.predict_proba(noised)[:1], told, rtol=1e-5)
    clean = NoiseAwareClassifier.from_state(*head.state()).set_params(judged_at="clean")
    without = head.levels(codes) == 0
    np.testing.assert_array_equal(clean.predict_proba(codes)[without], head.predict_proba(codes)[without])
    assert log_loss(labels, head.predict_proba(noised)) < log_loss(labels, clean.predict_proba(noised)) - 0.1


def test_latents_are_told_apart_flat_or_not(on_latents: Any) -> None:
    head, latents, labels = on_latents
    assert head.latent_shape_ == SHAPE
    assert head.score(latents, labels) > 0.95
    flat = NoiseAwareClassifier(latent_shape=SHAPE, width=8, **QUICK).fit(
        latents.reshape(len(labels), -1), labels
    )
    np.testing.assert_array_equal(flat.predict_proba(latents), head.predict_proba(latents))


def test_state_survives_json(fitted: Any, on_latents: Any) -> None:
    for head, values, _ in (fitted, on_latents):
        config, arrays = head.state()
        again = NoiseAwareClassifier.from_state(json.loads(json.dumps(config)), arrays)
        np.testing.assert_array_equal(again.predict_proba(values), head.predict_proba(values))
        del arrays["network.network.leave.bias"]
        with pytest.raises(CheckpointError, match="must be saved as arrays"):
            NoiseAwareClassifier.from_state(config, arrays)


def test_bad_input_is_refused(fitted: Any, on_latents: Any) -> None:
    head, codes, labels = fitted
    with pytest.raises(InputError, match="at least two classes"):
        NoiseAwareClassifier().fit(codes, np.zeros(len(labels)))
    with pytest.raises(InputError, match="must have at least 5 samples for 5 folds"):
        NoiseAwareClassifier().fit(codes[:43], labels[:43])
    with pytest.raises(InputError, match="NaN"):
        NoiseAwareClassifier().fit(np.where(codes > 2, np.nan, codes), labels)
    with pytest.raises(InputError, match="X has 19 features"):
        head.predict(codes[:, 1:])
    with pytest.raises(InputError, match="level must be between 0 and 1000, got 1001"):
        head.posterior(codes, level=1001)
    with pytest.raises(InputError, match="judged_at must be one of estimate, clean, average, got 'noisy'"):
        NoiseAwareClassifier(judged_at="noisy").fit(codes, labels)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"must hold latents \(2, 4, 6, 4\), got \(2, 6, 4, 4\)"):
        on_latents[0].predict(on_latents[1].swapaxes(2, 3))
    with pytest.raises(InputError, match=r"latent_shape must be .* got \(2, 2, 5\)"):
        NoiseAwareClassifier(latent_shape=(2, 2, 5)).fit(codes, labels)
