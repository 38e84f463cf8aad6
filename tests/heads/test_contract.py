# SPDX-License-Identifier: Apache-2.0
"""What holds of every head that `ldae probe` offers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from gaussian_blobs import blobs

from ldae.errors import InputError
from ldae.evaluation.head_choice import HEADS

NETWORK: dict[str, Any] = {"hidden": (8,), "epochs": 5, "learning_rate": 0.02}
DIFFUSION: dict[str, Any] = {"diffusion_steps": 5, "width": 8}
QUICK: dict[str, dict[str, Any]] = {
    "linear": {},
    "tempered": {},
    "mlp": NETWORK,
    "ensemble": NETWORK,
    "dropout": {**NETWORK, "samples": 4},
    "laplace": NETWORK,
    "neighbours": {},
    "depths": {**NETWORK, "members": 2},
    "ladine": {**NETWORK, **DIFFUSION, "members": 2, "samples": 4},
    "card": {**NETWORK, **DIFFUSION, "samples": 4},
    "evidential": {"epochs": 10, "learning_rate": 0.05},
    "hac": {"epochs": 10, "learning_rate": 0.05},
    "density": {},
    "noise-aware": {"epochs": 5, "learning_rate": 0.02, "batch_size": 32},
    "purify": {**DIFFUSION, "level": 50, "steps": 3, "draws": 2},
    "diffusion": {**DIFFUSION, "levels": 4},
    "augmented": DIFFUSION,
}
SCANS = 5


def test_no_head_is_left_out() -> None:
    assert QUICK.keys() == HEADS.keys()


def make(name: str) -> Any:
    return HEADS[name](folds=2, random_state=3, **QUICK[name])


@pytest.fixture(scope="module", params=HEADS)
def fitted(request: pytest.FixtureRequest) -> tuple[str, Any, Any, Any]:
    """A head that tells three classes with names apart, two scans of a subject."""
    codes, labels = blobs(3)
    names = np.array(["AD", "CN", "MCI"])[labels]
    groups = np.arange(len(labels)) // 2
    return request.param, make(request.param).fit(codes, names, groups=groups), codes, names


def test_three_classes_are_told_apart_by_name(fitted: Any) -> None:
    name, head, codes, labels = fitted
    assert head.classes_.tolist() == ["AD", "CN", "MCI"]
    codes, labels = codes[::4], labels[::4]
    chances = head.predict_proba(codes)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_array_equal(head.predict(codes[:SCANS]), head.classes_[chances.argmax(axis=1)[:SCANS]])
    assert head.score(codes, labels) > (0.5 if name in ("ladine", "card") else 0.8)


def test_doubt_is_a_table_with_names_and_finite_numbers(fitted: Any) -> None:
    _, head, codes, _ = fitted
    told = head.uncertainty(codes[:SCANS])
    assert isinstance(told, pd.DataFrame)
    assert {"entropy", "least_confidence"} <= set(told.columns)
    assert np.isfinite(told.to_numpy()).all()
    least = 1 - head.predict_proba(codes[:SCANS]).max(axis=1)
    np.testing.assert_allclose(told["least_confidence"], least, atol=1e-9)


def test_neither_batch_nor_order_matters_and_the_world_is_left_alone(fitted: Any) -> None:
    _, head, codes, _ = fitted
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    whole = head.predict_proba(codes[: 2 * SCANS])[:SCANS]
    alone = np.concatenate([head.predict_proba(code[None]) for code in codes[:SCANS]])
    np.testing.assert_allclose(alone, whole, rtol=1e-7, atol=1e-12)
    turned = head.predict_proba(codes[:SCANS][::-1])[::-1]
    np.testing.assert_allclose(turned, whole, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(
        head.uncertainty(codes[:1]).iloc[0], head.uncertainty(codes[:SCANS]).iloc[0], rtol=1e-6, atol=1e-9
    )
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002


def test_the_same_seed_gives_the_same_head_and_saving_keeps_it(fitted: Any) -> None:
    name, head, codes, labels = fitted
    said = head.predict_proba(codes[:SCANS])
    again = make(name).fit(codes, labels, groups=np.arange(len(labels)) // 2)
    np.testing.assert_array_equal(again.predict_proba(codes[:SCANS]), said)
    config, arrays = head.state()
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in arrays.values())
    kept = type(head).from_state(json.loads(json.dumps(config)), arrays)
    np.testing.assert_array_equal(kept.predict_proba(codes[:SCANS]), said)
    pd.testing.assert_frame_equal(kept.uncertainty(codes[:SCANS]), head.uncertainty(codes[:SCANS]))


def test_bad_input_is_told_in_a_sentence(fitted: Any) -> None:
    name, head, codes, labels = fitted
    with pytest.raises(InputError, match=r"X has 5 features, but .* is expecting 6"):
        head.predict_proba(codes[:, :5])
    with pytest.raises(InputError, match="NaN"):
        head.uncertainty(np.full((1, 6), np.nan))
    with pytest.raises(InputError, match=r"y must hold the classes of the head, .*, got 'FTD'"):
        head.score(codes[:2], ["AD", "FTD"])
    with pytest.raises(InputError, match="at least two classes, got one class"):
        make(name).fit(codes, np.full(len(codes), "CN"))
    with pytest.raises(InputError, match="NaN"):
        make(name).fit(np.where(codes > 2, np.nan, codes), labels)
    with pytest.raises(InputError, match=r"must have at least 2 (samples|subjects) for 2 folds, got 1"):
        make(name).fit(codes[:81], labels[:81])
