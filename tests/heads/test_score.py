# SPDX-License-Identifier: Apache-2.0
"""The slope of a head's score is that of the score, also where the head samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gaussian_blobs import blobs

from ldae.errors import InputError
from ldae.heads import DensityDirichletClassifier, LaDiNEClassifier, NeighbourClassifier, RidgeProbe
from ldae.heads.score import NOISE_SEED, head_score, score_slope

QUICK: dict[str, Any] = {"samples": 8, "epochs": 10, "diffusion_steps": 60, "hidden": (8,), "width": 8}
EPS: dict[str, Any] = {"parametrisation": "eps"}


def frozen_score(head: LaDiNEClassifier, code: np.ndarray, index: int) -> float:
    """Log odds of a class under the noise that slopes are taken under."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    said = head.differentiable_proba(torch.from_numpy(code[None]), generator=generator)[0, index]
    return float(said.log() - (1 - said).log())


@pytest.mark.parametrize(
    "settings", [{"members": 2}, {"members": 1}, {"members": 2, "parametrisation": "eps"}]
)
def test_of_a_head_that_samples_it_is_taken_under_one_noise(settings: dict[str, Any]) -> None:
    codes, labels = blobs(3, distance=0.7)
    head = LaDiNEClassifier(**QUICK, **settings).fit(codes, labels)
    slope = score_slope(head, codes[0], target_class=1)
    steps = 1e-5 * np.eye(codes.shape[1])
    rises = [
        frozen_score(head, codes[0] + step, 1) - frozen_score(head, codes[0] - step, 1) for step in steps
    ]
    np.testing.assert_allclose(slope, np.array(rises) / 2e-5, rtol=1e-4, atol=1e-6)
    if "parametrisation" not in settings:  # and its own noise changes the score by little
        far = codes[0] + 0.2 * slope / np.linalg.norm(slope)
        risen = np.diff(head_score(head, [codes[0], far], target_class=1))[0]
        assert risen == pytest.approx(0.2 * np.linalg.norm(slope), rel=0.3)


def test_without_autograd_it_is_a_difference() -> None:
    codes, labels = blobs(2, distance=0.5)
    density = DensityDirichletClassifier().fit(codes, labels)
    along = np.random.default_rng(0).standard_normal(6)
    rise = np.diff(head_score(density, [codes[0] - 1e-4 * along, codes[0] + 1e-4 * along]))[0] / 2e-4
    assert score_slope(density, codes[0]) @ along == pytest.approx(rise, rel=1e-3)
    ridge = RidgeProbe(regularisation=[1.0]).fit(codes, codes @ along)
    np.testing.assert_allclose(score_slope(ridge, codes[0]), ridge.direction_, rtol=1e-6)


def test_a_head_of_jumps_has_none() -> None:
    head = NeighbourClassifier().fit(*blobs(2))
    with pytest.raises(InputError, match="changes smoothly with the code, got NeighbourClassifier"):
        score_slope(head, np.zeros(6))
