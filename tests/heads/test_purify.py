# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gaussian_blobs import blobs
from latent_blobs import latent_blobs
from sklearn.utils.estimator_checks import parametrize_with_checks

from ldae.diffusion.schedule import Schedule
from ldae.errors import InputError
from ldae.heads import LinearProbe, NoiseAwareClassifier, PurifyClassifier

pytestmark = pytest.mark.slow

QUICK: dict[str, Any] = {"diffusion_steps": 50, "folds": 2, "width": 16, "draws": 4, "learning_rate": 0.01}
SMALL = {"channels": 4, "diffusion_steps": 20, "batch_size": 16}


@parametrize_with_checks(
    [PurifyClassifier(level=50, steps=3, **{**QUICK, "diffusion_steps": 5})],
    expected_failed_checks=lambda _: {},
)
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def fitted() -> tuple[PurifyClassifier, Any, Any]:
    codes, labels = blobs(3, width=10, distance=0.7)
    return PurifyClassifier(level=100, **QUICK).fit(codes, labels), codes, labels


@pytest.fixture(scope="module")
def on_latents() -> tuple[PurifyClassifier, Any, Any]:
    latents, labels = latent_blobs()
    return PurifyClassifier(level=50, steps=3, **{**QUICK, **SMALL}).fit(latents, labels), latents, labels


def test_level_0_is_the_base_classifier(fitted: Any, on_latents: Any) -> None:
    for (head, values, labels), base in zip(
        (fitted, on_latents),
        (LinearProbe(folds=2), NoiseAwareClassifier(folds=2, width=4, judged_at="clean")),
        strict=True,
    ):
        still = PurifyClassifier(**{**head.get_params(), "level": 0, "draws": 1})
        base.set_params(random_state=head.seed_).fit(values, labels)
        chances = still.fit(values, labels).predict_proba(values)
        np.testing.assert_allclose(chances, base.predict_proba(values), rtol=1e-12)
        np.testing.assert_allclose(still.purified(values)[:, 0], values)


def test_gaussian_codes_are_pulled_to_their_posterior_mean_and_keep_their_spread() -> None:
    codes = np.random.default_rng(0).standard_normal((2000, 3))
    head = PurifyClassifier(level=400, draws=64, diffusion_steps=0).fit(codes, np.arange(2000) % 2)
    clean = head.purified(codes[:200])
    # walking back from sqrt(A) z + sqrt(1 - A) eps, the flow of a unit Gaussian stands still
    signal = float(Schedule().alpha_bar[400])
    np.testing.assert_allclose(clean.mean(axis=1), signal**0.5 * codes[:200], atol=0.5)
    assert np.corrcoef(clean.mean(axis=1).ravel(), codes[:200].ravel())[0, 1] > 0.95
    assert clean.std() == pytest.approx(1, abs=0.1)


def test_the_level_is_chosen_for_held_out_scans_that_are_corrupted() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(400) % 2
    codes = generator.standard_normal((400, 30)) * np.r_[2.0, 0.05 * np.ones(29)]
    codes[:, 0] += 2.5 * labels
    codes[:, 1:] += 0.03 * (2 * labels - 1)[:, None]  # told by tiny differences that corruption drowns
    calm = PurifyClassifier(corruption=0.0, diffusion_steps=0, draws=4).fit(codes, labels)
    rough = PurifyClassifier(corruption=3.0, diffusion_steps=0, draws=4).fit(codes, labels)
    assert calm.level_ < rough.level_


def test_a_scan_does_not_depend_on_its_batch_and_fits_are_alike(fitted: Any, on_latents: Any) -> None:
    for head, values, labels in (fitted, on_latents):
        alone = np.concatenate([head.predict_proba(row[None]) for row in values[:5]])
        np.testing.assert_allclose(head.predict_proba(values)[:5], alone, rtol=1e-12)
        again = PurifyClassifier(**head.get_params()).fit(values, labels)
        np.testing.assert_allclose(again.predict_proba(values[:5]), alone, rtol=1e-12)
        told = head.uncertainty(values[:5])
        assert (told["disagreement"] > 0).all()


def test_latents_are_told_apart(on_latents: Any) -> None:
    head, latents, labels = on_latents
    assert head.score(latents, labels) > 0.9


def test_state_survives_json_and_bad_input_is_refused(fitted: Any, on_latents: Any) -> None:
    for head, values, _ in (fitted, on_latents):
        config, arrays = head.state()
        again = PurifyClassifier.from_state(json.loads(json.dumps(config)), arrays)
        np.testing.assert_array_equal(again.predict_proba(values[:5]), head.predict_proba(values[:5]))
    head, codes, labels = fitted
    with pytest.raises(InputError, match="at least two classes"):
        PurifyClassifier().fit(codes, np.zeros(len(labels)))
    with pytest.raises(InputError, match="X has 9 features"):
        head.predict(codes[:, 1:])
    with pytest.raises(InputError, match="level must be between 0 and 999, got 1000"):
        PurifyClassifier(level=1000).fit(codes, labels)
