# SPDX-License-Identifier: Apache-2.0
"""Calibration finds the distortion that was put in."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from ldae.errors import InputError
from ldae.heads.calibration import METHODS, Method, calibrate

CLASSES = ["CN", "AD"]  # not in the order of names


def both(p: np.ndarray) -> np.ndarray:
    """Probabilities of CN and AD from that of AD."""
    return np.stack([1 - p, p], axis=1)


@pytest.mark.parametrize("method", METHODS)
def test_an_overconfident_head_is_put_right(method: Method) -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(0.02, 0.98, 8000)
    truth = np.where(rng.random(8000) < true, "AD", "CN")
    said = expit(3 * logit(true))
    new = np.linspace(0.1, 0.9, 9)
    mapped = calibrate(both(said), truth, new=both(expit(3 * logit(new))), classes=CLASSES, method=method)
    np.testing.assert_allclose(mapped.sum(axis=1), 1)
    np.testing.assert_allclose(mapped[:, 1], new, atol=0.08 if method == "isotonic" else 0.04)


def test_temperature_divides_the_logits_of_any_number_of_classes() -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((6000, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array(["b", "a", "c"])[
        (rng.random(6000)[:, None] > true.cumsum(axis=1)).sum(axis=1).clip(max=2)
    ]
    sharp = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)
    mapped = calibrate(sharp, truth, new=sharp, classes=["b", "a", "c"], method="temperature")
    np.testing.assert_allclose(mapped, true, atol=0.03)
    # one factor for all scans
    ratio = np.log(mapped[:, 0] / mapped[:, 1]) / (logits[:, 0] - logits[:, 1])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_bad_input_is_named() -> None:
    said = both(np.linspace(0.1, 0.9, 10))
    with pytest.raises(InputError, match="method must be one of temperature, sigmoid, isotonic, got 'platt'"):
        calibrate(said, ["CN", "AD"] * 5, new=said, classes=CLASSES, method="platt")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got none of AD"):
        calibrate(said, ["CN"] * 10, new=said, classes=CLASSES, method="sigmoid")
