# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import ClassifierMixin
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVC

from ldae.data.artefact import read_json, write_json
from ldae.errors import CheckpointError, InputError
from ldae.heads import LinearProbe, RidgeProbe, head_output
from ldae.pipeline.code import Code
from ldae.pipeline.head_folder import FittedHead, fitted_head, linear_direction, load_head, save_head
from ldae.pipeline.manipulation import make_direction
from ldae.pipeline.pipeline import LDAEPipeline

STEPS = 3


@pytest.fixture(scope="module")
def code(pipe: LDAEPipeline, scans: list[str]) -> Code:
    return pipe.encode(scans[0], steps=STEPS)


@pytest.fixture(scope="module")
def fitted(pipe: LDAEPipeline, diagnosis_head: LinearProbe) -> FittedHead:
    return fitted_head(
        diagnosis_head, std=pipe.statistics.std, pipeline=pipe.sha256, provenance={"target": "diagnosis"}
    )


@pytest.fixture(scope="module")
def three_class_head(embeddings: pd.DataFrame) -> LinearProbe:
    codes = embeddings.filter(regex="^y_").to_numpy()
    classes = np.array(["CN", "MCI", "AD"])[np.arange(len(codes)) % 3]
    return LinearProbe(regularisation=[0.1]).fit(codes, classes)


@pytest.mark.parametrize("target", [0.1, 0.5, 0.9])
def test_the_head_says_the_target(
    pipe: LDAEPipeline, code: Code, diagnosis_head: LinearProbe, target: float
) -> None:
    made = pipe.manipulate(code, diagnosis_head, target=target, steps=STEPS)
    assert made.achieved == pytest.approx(target, abs=1e-5)
    said = diagnosis_head.predict_proba(made.code.semantic.double().numpy()[None])
    assert said[0, diagnosis_head.classes_.tolist().index("AD")] == pytest.approx(target, abs=1e-5)
    assert torch.equal(made.code.stochastic, code.stochastic)
    alone = pipe.decode(made.code, steps=STEPS).data
    torch.testing.assert_close(made.scan.data, alone, rtol=1e-3, atol=1e-4)  # decoded beside another scan
    before = pipe.decode(code, steps=STEPS).data
    torch.testing.assert_close(made.difference.data, made.scan.data - before, rtol=1e-3, atol=1e-4)
    assert made.move.target_class == "AD"
    assert made.scan.geometry is code.geometry
    whitened = (made.code.semantic - code.semantic).double().numpy() / pipe.statistics.std
    assert np.linalg.norm(whitened) == pytest.approx(abs(made.step), rel=1e-4)


def test_a_scan_is_encoded_by_the_solver_that_is_named(
    pipe: LDAEPipeline, scans: list[str], diagnosis_head: LinearProbe
) -> None:
    made = pipe.manipulate(scans[0], diagnosis_head, target=0.4, steps=STEPS, solver="exact")
    assert made.code.solver == "exact"
    plain = pipe.reconstruct(scans[0], steps=STEPS, solver="exact").data
    torch.testing.assert_close(made.reconstruction.data, plain, rtol=1e-3, atol=1e-4)


def test_an_age(pipe: LDAEPipeline, code: Code, age_head: RidgeProbe) -> None:
    made = pipe.manipulate(code, age_head, target=64.0, steps=STEPS)
    assert made.achieved == pytest.approx(64.0, abs=1e-3)
    assert made.move.start == pytest.approx(age_head.predict(code.semantic.double().numpy()[None])[0])


def test_the_other_class_is_the_complement(
    pipe: LDAEPipeline, code: Code, diagnosis_head: LinearProbe
) -> None:
    towards = pipe.manipulate(code, diagnosis_head, target=0.3, steps=STEPS)
    away = pipe.manipulate(code, diagnosis_head, target=0.7, target_class="CN", steps=STEPS)
    torch.testing.assert_close(towards.code.semantic, away.code.semantic, rtol=1e-4, atol=1e-5)


def test_a_series_is_a_trajectory(pipe: LDAEPipeline, code: Code, diagnosis_head: LinearProbe) -> None:
    series = pipe.trajectory(code, diagnosis_head, targets=[0.2, 0.5, 0.8], steps=STEPS)
    assert [made.target for made in series] == [0.2, 0.5, 0.8]
    steps = [made.step for made in series]
    assert steps == sorted(steps)
    single = pipe.manipulate(code, diagnosis_head, target=0.5, steps=STEPS)
    torch.testing.assert_close(series[1].scan.data, single.scan.data, rtol=1e-4, atol=1e-4)


def test_a_class_must_be_named_past_two(
    pipe: LDAEPipeline, code: Code, three_class_head: LinearProbe
) -> None:
    with pytest.raises(InputError, match=r"target_class must be one of \['AD', 'CN', 'MCI'\], got none"):
        pipe.manipulate(code, three_class_head, target=0.5)
    made = pipe.manipulate(code, three_class_head, target=0.6, target_class="MCI", steps=STEPS)
    assert made.achieved == pytest.approx(0.6, abs=1e-4)


def test_a_target_out_of_reach_names_the_range(pipe: LDAEPipeline, code: Code, age_head: RidgeProbe) -> None:
    with pytest.raises(InputError, match=r"Target must lie between .* got 1e\+06"):
        pipe.manipulate(code, age_head, target=1e6)


def test_held_heads_go_on_saying_the_same(
    pipe: LDAEPipeline,
    code: Code,
    diagnosis_head: LinearProbe,
    age_head: RidgeProbe,
    three_class_head: LinearProbe,
) -> None:
    before = code.semantic.double().numpy()[None]
    free = pipe.manipulate(code, diagnosis_head, target=0.9, steps=STEPS)
    held = pipe.manipulate(
        code, diagnosis_head, target=0.9, hold=[age_head, three_class_head, age_head], steps=STEPS
    )
    after = held.code.semantic.double().numpy()[None]
    assert held.achieved == pytest.approx(0.9, abs=1e-4)
    assert age_head.predict(after) == pytest.approx(age_head.predict(before), abs=1e-3)
    np.testing.assert_allclose(
        three_class_head.predict_proba(after), three_class_head.predict_proba(before), atol=1e-4
    )
    moved = age_head.predict(free.code.semantic.double().numpy()[None]) - age_head.predict(before)
    assert abs(moved[0]) > 0.01


def test_holding_takes_off_no_more_than_it_must(
    pipe: LDAEPipeline, fitted: FittedHead, three_class_head: LinearProbe
) -> None:
    """The rows of a head with three classes span two dimensions, and a head held twice is one."""
    std = pipe.statistics.std
    other = fitted_head(three_class_head, std=std, pipeline=pipe.sha256)
    once = make_direction(fitted, statistics=pipe.statistics, hold=[other])
    twice = make_direction(fitted, statistics=pipe.statistics, hold=[other, other])
    np.testing.assert_allclose(once.unit, twice.unit, atol=1e-8)
    root = np.linalg.inv(pipe.statistics.whitening)
    basis = np.linalg.svd(other.directions @ root)[2][:2]
    gradient = root @ fitted.directions[0]
    wanted = root @ (gradient - basis.T @ (basis @ gradient))
    np.testing.assert_allclose(once.unit, wanted / np.linalg.norm(wanted), atol=1e-8)


def test_holding_the_head_itself_leaves_nothing(
    pipe: LDAEPipeline, code: Code, diagnosis_head: LinearProbe
) -> None:
    with pytest.raises(InputError, match=r"got LinearProbe, whose direction is parallel .* \(cosine 1\.0"):
        pipe.manipulate(code, diagnosis_head, target=0.5, hold=[diagnosis_head])


def test_distance_is_reported(pipe: LDAEPipeline, code: Code, age_head: RidgeProbe) -> None:
    near = pipe.move(code, age_head, targets=[float(age_head.predict(code.semantic.numpy()[None])[0])])[0]
    far = pipe.move(code, age_head, targets=[age_head.predict(code.semantic.numpy()[None])[0] + 40])[0]
    assert far.distance > near.distance
    assert far.training_range == pipe.statistics.ranges["code distance"]
    assert far.novelty.verdict.startswith("code distance ")


def test_position_along_the_direction(
    pipe: LDAEPipeline,
    code: Code,
    age_head: RidgeProbe,
    embeddings: pd.DataFrame,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In units of the spread of the training codes along the very direction."""
    start = float(age_head.predict(code.semantic.double().numpy()[None])[0])
    near, far = pipe.move(code, age_head, targets=[start, start + 30])
    direction = make_direction(
        fitted_head(age_head, std=pipe.statistics.std, pipeline=pipe.sha256), statistics=pipe.statistics
    )
    spread = pipe.statistics.spread(direction.unit)
    assert far.position - near.position == pytest.approx(far.step / spread, rel=1e-4)
    train = embeddings[embeddings["split"] == "train"].filter(regex="^y_").to_numpy()
    along = pipe.statistics.whiten(train) @ direction.unit
    # the covariance is shrunken, as that of the distance is
    assert spread == pytest.approx(along.std(ddof=1), rel=0.5)
    assert far.to_dict()["supported"] is False
    assert "position along the direction" in far.novelty.verdict
    pipe.manipulate(code, age_head, target=start + 30, steps=1)
    assert "outside what this pipeline was trained on" in caplog.text


def test_head_folder_round_trip(
    pipe: LDAEPipeline, code: Code, fitted: FittedHead, diagnosis_head: LinearProbe, tmp_path: Path
) -> None:
    folder = save_head(tmp_path / "heads" / "diagnosis", fitted)
    assert {path.name for path in folder.iterdir()} == {"head.json", "head.safetensors"}
    found = load_head(folder)
    assert found.pipeline == pipe.sha256
    assert found.provenance == {"target": "diagnosis"}
    codes = np.random.default_rng(0).normal(size=(5, 12))
    np.testing.assert_array_equal(head_output(found.head, codes), head_output(diagnosis_head, codes))
    direct = pipe.manipulate(code, diagnosis_head, target=0.2, steps=STEPS)
    by_folder = pipe.manipulate(code, folder, target=0.2, steps=STEPS)
    assert by_folder.step == pytest.approx(direct.step)
    torch.testing.assert_close(by_folder.scan.data, direct.scan.data)


def test_a_head_of_another_pipeline_is_refused_by_hash(
    pipe: LDAEPipeline, code: Code, fitted: FittedHead, tmp_path: Path
) -> None:
    folder = save_head(tmp_path, replace(fitted, pipeline="a" * 64))
    with pytest.raises(CheckpointError, match=rf"pipeline aaaaaaaaaaaa, but .*{pipe.sha256[:12]}"):
        pipe.manipulate(code, folder, target=0.5)
    with pytest.raises(CheckpointError, match="aaaaaaaaaaaa"):
        pipe.manipulate(code, fitted, target=0.5, hold=[folder])


def test_damaged_head_folders(fitted: FittedHead, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"head\.json is missing.*ldae probe"):
        load_head(tmp_path / "none")
    folder = save_head(tmp_path, fitted)
    document = read_json(folder / "head.json")
    write_json(folder / "head.json", {**document, "state": {**document["state"], "head": "Oracle"}})
    with pytest.raises(CheckpointError, match="class that this version of ldae knows, got 'Oracle'"):
        load_head(folder)
    write_json(folder / "head.json", document)
    (folder / "head.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="damaged or mixed"):
        load_head(folder)


class RBFClassifier(SVC):  # type: ignore[misc]
    """A smooth head that is not linear, on whitened codes."""

    std: np.ndarray | float = 1.0

    def __init__(self) -> None:
        super().__init__(probability=True, random_state=0)

    def predict_proba(self, codes: np.ndarray) -> np.ndarray:
        return super().predict_proba(np.asarray(codes) / self.std)


class RBFRegressor(KernelRidge):  # type: ignore[misc]
    """A smooth regression head that is not linear, on whitened codes."""

    std: np.ndarray | float = 1.0

    def __init__(self) -> None:
        super().__init__(kernel="rbf", gamma=0.02, alpha=0.1)

    def predict(self, codes: np.ndarray) -> np.ndarray:
        return super().predict(np.asarray(codes) / self.std)


class Curved(ClassifierMixin):
    """A head without a direction: P(AD) rises with the square of the first number."""

    classes_ = np.array(["AD", "CN"])
    positive_label_ = "AD"

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def predict_proba(self, codes: np.ndarray) -> np.ndarray:
        high = 1 - np.exp(-np.square(np.asarray(codes)[:, 0] / self.scale))
        return np.stack([high, 1 - high], axis=1)

    def predict(self, codes: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(codes).argmax(1)]


def test_a_head_that_is_not_linear_needs_a_direction(pipe: LDAEPipeline, code: Code) -> None:
    curved = Curved(10 * pipe.statistics.std[0])
    with pytest.raises(InputError, match="Curved has no direction in code space of its own"):
        pipe.manipulate(code, curved, target=0.5)  # type: ignore[arg-type]
    head = fitted_head(
        curved,  # type: ignore[arg-type]
        std=pipe.statistics.std,
        pipeline=pipe.sha256,
        direction=np.eye(12)[0] * 3,
    )
    np.testing.assert_allclose(head.directions, np.eye(12)[:1])
    made = pipe.manipulate(code, head, target=0.5, steps=STEPS)
    assert made.achieved == pytest.approx(0.5, abs=1e-4)


def test_a_head_without_direction_gets_a_linear_one(
    pipe: LDAEPipeline, code: Code, embeddings: pd.DataFrame
) -> None:
    """A forest, a network: the way is a linear probe's, what is reached is what the head itself says."""
    codes = embeddings.filter(regex="^y_").to_numpy(dtype=float)
    std, subjects = pipe.statistics.std, embeddings["subject"].to_numpy()
    classes = np.where(codes[:, 0] > codes[:, 0].mean(), "AD", "CN")
    for net, targets, sign in ((RBFClassifier(), classes, -1), (RBFRegressor(), codes[:, 0], 1)):
        net.fit(codes / std, targets)
        net.std = std
        direction = linear_direction(net, codes, targets=targets, std=std, groups=subjects)
        assert direction.shape == (1, 12)
        assert direction[0, 0] * sign > 0.3  # towards the last class, "CN", without a positive one
        head = fitted_head(net, std=std, pipeline=pipe.sha256, direction=direction)
        somewhere = head.direction(std=std).move(code.semantic.double().numpy(), 0.7)
        wanted = head_output(head.head, somewhere[None])[0]
        move = pipe.move(code, head, targets=[wanted])[0]
        assert move.achieved == pytest.approx(wanted, rel=1e-3, abs=1e-3)
    three = np.array(["CN", "MCI", "AD"])[np.arange(len(codes)) % 3]
    with pytest.raises(InputError, match=r"classes of the head, \['AD', 'CN'\], got \['AD', 'CN', 'MCI'\]"):
        linear_direction(
            RBFClassifier().fit(codes / std, classes),
            codes,
            targets=three,
            std=std,
        )


def test_directions_must_fit_the_codes(pipe: LDAEPipeline, diagnosis_head: LinearProbe) -> None:
    with pytest.raises(InputError, match=r"must have shape \(1, 12\), got \(1, 5\)"):
        fitted_head(diagnosis_head, std=pipe.statistics.std, pipeline=pipe.sha256, direction=np.ones(5))
