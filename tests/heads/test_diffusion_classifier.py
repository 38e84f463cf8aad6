# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from gaussian_blobs import blobs
from latent_blobs import latent_blobs
from scipy.special import log_softmax, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks

from ldae.errors import CheckpointError, InputError
from ldae.heads import DiffusionClassifier
from ldae.heads.class_diffusion import shrunk_axes
from ldae.heads.diffusion_classifier import calibrate_scores

QUICK: dict[str, Any] = {"diffusion_steps": 100, "folds": 2, "width": 16, "levels": 8, "learning_rate": 0.01}


@pytest.mark.slow
@parametrize_with_checks(
    [DiffusionClassifier(**{**QUICK, "diffusion_steps": 5})], expected_failed_checks=lambda _: {}
)
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def fitted() -> tuple[DiffusionClassifier, Any, Any]:
    codes, labels = blobs(3, width=10, distance=0.7)
    return DiffusionClassifier(**QUICK).fit(codes, labels), codes, labels


@pytest.fixture(scope="module")
def on_latents() -> tuple[DiffusionClassifier, Any, Any]:
    latents, labels = latent_blobs()
    head = DiffusionClassifier(**{**QUICK, "channels": 8, "levels": 4, "batch_size": 16})
    return head.fit(latents, labels), latents, labels


def test_without_a_network_it_is_a_shrunk_linear_discriminant_analysis() -> None:
    codes, labels = blobs(3, width=8, distance=0.7)
    codes = (codes - codes.mean(axis=0)) / codes.std(axis=0)
    head = DiffusionClassifier(diffusion_steps=0, levels=5).fit(codes, labels)
    means = np.stack([codes[labels == label].mean(axis=0) for label in range(3)])
    axes = shrunk_axes(torch.from_numpy(codes), torch.from_numpy(labels) + 1, groups=4).axes.double().numpy()
    known = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(codes, labels)
    # by the covariance that the head found, beside scikit-learn's own shrinkage of each class's covariance
    precision = np.linalg.inv(axes @ axes.T)
    offsets = codes[:, None] - means
    gaussian = log_softmax(-np.einsum("ncd,de,nce->nc", offsets, precision, offsets) / 2, axis=1)
    np.testing.assert_allclose(log_softmax(head.log_likelihoods(codes), axis=1), gaussian, atol=2e-3)
    assert (known.predict(codes) == gaussian.argmax(axis=1)).mean() > 0.95


def test_codes_of_known_gaussians_get_their_posterior() -> None:
    codes, labels = blobs(3, width=6, distance=0.6, per_class=1500)
    means = 0.6 * np.random.default_rng(0).standard_normal((3, 6))
    known = softmax(-((codes[:, None] - means) ** 2).sum(axis=2) / 2, axis=1)
    head = DiffusionClassifier(diffusion_steps=0, levels=5).fit(codes, labels)
    assert np.abs(head.predict_proba(codes[::10]) - known[::10]).max() < 0.15
    assert np.abs(head.predict_proba(codes[::10]) - known[::10]).mean() < 0.02


@pytest.mark.slow
def test_the_network_learns_what_gaussians_cannot_say() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 2
    signs = generator.choice([-1.0, 1.0], size=(600, 2))
    signs[:, 1] = np.where(labels == 0, signs[:, 0], -signs[:, 0])  # both means are zero
    codes = 2 * signs + 0.7 * generator.standard_normal((600, 2))
    options: dict[str, Any] = {"levels": 16, "width": 32, "learning_rate": 5e-3}
    blind = DiffusionClassifier(diffusion_steps=0, **options).fit(codes[:400], labels[:400])
    head = DiffusionClassifier(diffusion_steps=600, **options).fit(codes[:400], labels[:400])
    assert blind.score(codes[400:], labels[400:]) < 0.65
    assert head.steps_ > 0
    assert head.score(codes[400:], labels[400:]) > 0.95


def test_scores_are_calibrated_by_a_factor_and_offsets() -> None:
    generator = np.random.default_rng(0)
    logits = 2 * generator.standard_normal((20000, 3))
    chances = softmax(logits + np.array([0.7, 0.0, -0.7]), axis=1)
    labels = (chances.cumsum(axis=1) < generator.random((20000, 1))).sum(axis=1)
    factor, offsets, loss = calibrate_scores(25 * logits, labels, offsets=np.zeros(3))
    assert loss == pytest.approx(log_loss(labels, chances), abs=0.01)
    assert 25 * factor == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(offsets - offsets[1], [0.7, 0, -0.7], atol=0.1)


@pytest.mark.slow
def test_a_scan_does_not_depend_on_its_batch_and_fits_are_alike(fitted: Any, on_latents: Any) -> None:
    for head, values, labels in (fitted, on_latents):
        alone = np.concatenate([head.predict_proba(row[None]) for row in values[:5]])
        np.testing.assert_array_equal(head.predict_proba(values)[:5], alone)
        again = DiffusionClassifier(**head.get_params()).fit(values, labels)
        np.testing.assert_array_equal(again.predict_proba(values[:5]), alone)


def test_the_denoising_error_rises_far_from_every_class(fitted: Any) -> None:
    head, codes, _ = fitted
    told = head.uncertainty(np.concatenate([codes, codes + 20]))["denoising_error"].to_numpy()
    assert told[len(codes) :].min() > told[: len(codes)].max()


def test_latents_are_told_apart(on_latents: Any) -> None:
    head, latents, labels = on_latents
    assert head.score(latents, labels) > 0.95


def test_state_survives_json_and_bad_input_is_refused(fitted: Any, on_latents: Any) -> None:
    for head, values, _ in (fitted, on_latents):
        config, arrays = head.state()
        again = DiffusionClassifier.from_state(json.loads(json.dumps(config)), arrays)
        np.testing.assert_array_equal(again.predict_proba(values[:5]), head.predict_proba(values[:5]))
        del arrays["calibration"]
        with pytest.raises(CheckpointError, match="calibration"):
            DiffusionClassifier.from_state(config, arrays)
    head, codes, labels = fitted
    with pytest.raises(InputError, match="at least two classes"):
        DiffusionClassifier().fit(codes, np.zeros(len(labels)))
    with pytest.raises(InputError, match="X has 9 features"):
        head.predict(codes[:, 1:])
