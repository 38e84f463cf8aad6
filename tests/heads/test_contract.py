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

from ldae.errors import CheckpointError, InputError
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


def changed(value: Any) -> list[tuple[str, Any]]:
    """What a saved value may have been turned into, under the name of the fault."""
    if isinstance(value, list):
        return [("empty", []), ("zero", [0.0] * len(value)), ("nan", [float("nan")] * len(value))]
    return [("zero", 0.0), ("negative", -1.0), ("nan", float("nan"))]


POSITIVE = ("temperature", "temperatures", "iota", "precision", "chosen")
SCALES = ("scale", "probe.scale", "base.scale", "mlp.scale", "gauge.variances", "rate", "shape", "counts")


def test_what_was_changed_since_it_was_saved_is_refused(fitted: Any) -> None:
    _, head, _, _ = fitted
    config, arrays = head.state()
    restored = type(head).from_state
    unlike = r"classes must be two or more|must have (shape|its classes)"
    for classes in (["AD", "AD", "CN"], ["CN", "AD", "MCI"], ["AD", "CN"], ["AD"], []):
        with pytest.raises(CheckpointError, match=unlike):
            restored({**config, "classes": classes}, arrays)
    for key in set(POSITIVE) & config.keys():
        for _, value in changed(config[key]):
            with pytest.raises((CheckpointError, InputError), match=f"{key} must be"):
                restored({**config, key: value}, arrays)
    for columns in ([[0, 99]], [[-1, 0]], [[0, 0]], [[]]) if "columns" in config else ():
        with pytest.raises(CheckpointError, match="Saved columns must be some of 0 to 5"):
            restored({**config, "columns": columns * len(config["columns"])}, arrays)
    for name in set(SCALES) & arrays.keys():
        with pytest.raises(CheckpointError, match=r"Array .* must be above 0, got 0"):
            restored(config, {**arrays, name: 0 * arrays[name]})
    for name in (one for one in arrays if arrays[one].size):
        with pytest.raises(CheckpointError, match="must be finite"):
            restored(config, {**arrays, name: np.full_like(arrays[name], np.nan)})
    parameters = config["parameters"]
    for key in {
        "folds",
        "epochs",
        "loss",
        "evidence",
        "steps",
        "judged_at",
        "batch_size",
    } & parameters.keys():
        with pytest.raises(InputError, match=f"{key} must be"):
            restored({**config, "parameters": {**parameters, key: "zzz"}}, arrays)


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
    with pytest.raises(
        InputError, match=r"must have at least 2 .* got 1\. Leave the class out \(--classes\)"
    ):
        make(name).fit(codes[:81], labels[:81])
    holed = codes.copy()
    holed[3, 4] = np.nan
    with pytest.raises(InputError, match=r"NaN.* It is in row 3, column 4\."):
        make(name).fit(holed, labels)
    with pytest.raises(InputError, match=r"NaN.* It is in row 3, column 4\."):
        head.predict_proba(holed)


def test_labels_subjects_and_counts_of_another_kind_are_told_in_a_sentence(fitted: Any) -> None:
    name, _, codes, labels = fitted
    objects = labels.astype(object)
    with pytest.raises(InputError, match="y must hold a class for every sample, got None"):
        make(name).fit(codes, np.where(np.arange(len(codes)) == 5, None, objects))
    with pytest.raises(InputError, match="y must hold classes of one kind, got words beside numbers"):
        make(name).fit(codes, np.where(labels == "AD", 1, objects))
    groups = np.arange(len(codes)).astype(object)
    groups[0] = None
    with pytest.raises(InputError, match="groups must be one subject per sample, got None or NaN"):
        make(name).fit(codes, labels, groups=groups)
    groups[0] = "first"
    make(name).fit(codes, labels, groups=groups)
    for setting in {"folds", "batch_size", "epochs", "members"} & make(name).get_params().keys():
        with pytest.raises(InputError, match=f"{setting} must be a whole number, got '5'"):
            make(name).set_params(**{setting: "5"}).fit(codes, labels)
        with pytest.raises(InputError, match=f"{setting} must be at least"):
            make(name).set_params(**{setting: 0}).fit(codes, labels)


def test_a_generator_of_random_numbers_cannot_be_saved(fitted: Any) -> None:
    name, _, codes, labels = fitted
    head = make(name).set_params(random_state=np.random.RandomState(0)).fit(codes, labels)
    with pytest.raises(InputError, match=r"random_state must be a number, .* for a head to be saved"):
        head.state()
