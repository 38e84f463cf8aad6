# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.special import logit

from ldae.errors import InputError
from ldae.evaluation.attribution import (
    ScanScore,
    code_shapley,
    integrated_gradients,
    occlusion,
    slice_shapley,
)
from ldae.heads import (
    EvidentialClassifier,
    LaDiNEClassifier,
    LinearProbe,
    NeighbourClassifier,
    RidgeProbe,
)
from ldae.heads.score import head_score, score_slope
from ldae.nets.backbones import BackboneConfig
from ldae.nets.semantic import SemanticConfig, SemanticEncoder

SIZE, CODE = (16, 16, 8), 5
CUBE = (slice(4, 6), slice(10, 12), slice(2, 3))

pytest.importorskip("captum")
pytest.importorskip("shap")


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, CODE))


@pytest.fixture(scope="module")
def heads(codes: np.ndarray) -> dict[str, object]:
    """A probe of each kind."""
    noise = np.random.default_rng(1).normal(size=len(codes))
    number = codes @ np.arange(CODE) + 0.3 * noise
    names = np.where(number > 0, "AD", "CN")
    return {
        "number": RidgeProbe(regularisation=[1.0]).fit(codes, number),
        "class": LinearProbe(regularisation=[1.0], positive_label="AD").fit(codes, names),
        "any": EvidentialClassifier(epochs=60).fit(codes, names),
        "sampling": LaDiNEClassifier(members=2, epochs=20, diffusion_steps=60).fit(codes, names),
    }


@pytest.fixture(scope="module")
def encoder() -> SemanticEncoder:
    torch.manual_seed(0)
    backbone = BackboneConfig("ldae.nets.backbones.ConvBackbone", {"channels": [8, 16], "patch": 2})
    config = SemanticConfig(code_size=CODE, token_size=8, backbone=backbone)
    net = SemanticEncoder(config, size=SIZE).train()
    net(torch.rand(32, 1, *SIZE))
    return net.requires_grad_(False).eval()


@pytest.mark.parametrize("kind", ["number", "class", "any"])
def test_slopes_are_the_scores(kind: str, heads: dict[str, object], codes: np.ndarray) -> None:
    head, code, along = heads[kind], codes[0], np.random.default_rng(2).normal(size=CODE)
    moved = head_score(head, [code + 1e-4 * along, code - 1e-4 * along])
    assert score_slope(head, code) @ along == pytest.approx((moved[0] - moved[1]) / 2e-4, rel=1e-3)


@pytest.mark.parametrize("kind", ["number", "class"])
def test_of_a_linear_head_shap_is_weight_times_distance_from_the_mean(
    kind: str, heads: dict[str, object], codes: np.ndarray
) -> None:
    head = heads[kind]
    found = code_shapley(head, codes[:4], background=codes[10:])
    np.testing.assert_allclose(
        found, head.direction_ * (codes[:4] - codes[10:].mean(axis=0)), rtol=1e-7, atol=1e-10
    )


def test_the_other_class_has_the_opposite_values(heads: dict[str, object], codes: np.ndarray) -> None:
    ours, theirs = (
        code_shapley(heads["class"], codes[:4], background=codes, target_class=name) for name in ("AD", "CN")
    )
    np.testing.assert_allclose(ours, -theirs)


@pytest.mark.slow  # shap compiles for ten seconds
def test_of_any_head_shap_adds_up(heads: dict[str, object], codes: np.ndarray) -> None:
    head, background = heads["any"], codes[:10]
    found = code_shapley(head, codes[20:23], background=background)
    expected = head_score(head, codes[20:23]) - head_score(head, background).mean()
    np.testing.assert_allclose(found.sum(axis=1), expected, rtol=1e-4, atol=1e-5)


def test_the_score_is_log_odds_or_the_number(heads: dict[str, object], codes: np.ndarray) -> None:
    head = heads["class"]
    np.testing.assert_allclose(
        head_score(head, codes, target_class="CN"), logit(head.predict_proba(codes)[:, 1])
    )
    np.testing.assert_allclose(head_score(heads["number"], codes), heads["number"].predict(codes))


@pytest.mark.parametrize("kind", ["number", "class", "any"])
def test_integrated_gradients_and_slices_add_up(
    kind: str, heads: dict[str, object], encoder: SemanticEncoder
) -> None:
    torch.manual_seed(1)
    volume, baseline = torch.rand(1, *SIZE), torch.full((1, *SIZE), 0.5)
    score = ScanScore(encoder, heads[kind])
    difference = float(score(volume[None]) - score(baseline[None]))
    assert abs(difference) > 1e-3
    found = integrated_gradients(score, volume, baseline=baseline)
    assert found.shape == volume.shape
    assert float(found.sum()) == pytest.approx(difference, rel=2e-3, abs=1e-4)
    assert slice_shapley(score, volume, baseline=baseline).sum() == pytest.approx(difference, rel=1e-4)


def test_gradients_of_a_head_that_samples_add_up_but_for_its_noise(
    heads: dict[str, object], encoder: SemanticEncoder
) -> None:
    torch.manual_seed(1)
    volume, baseline = torch.rand(1, *SIZE), torch.full((1, *SIZE), 0.5)
    volume[..., 3:] = 3.0
    score = ScanScore(encoder, heads["sampling"])
    difference = float(score(volume[None]) - score(baseline[None]))
    assert abs(difference) > 0.2
    found = integrated_gradients(score, volume, baseline=baseline)
    assert float(found.sum()) == pytest.approx(difference, rel=0.05)


def test_gradients_of_a_head_of_jumps_are_refused(codes: np.ndarray, encoder: SemanticEncoder) -> None:
    head = NeighbourClassifier().fit(codes, np.where(codes[:, 0] > 0, "AD", "CN"))
    volume = torch.rand(1, *SIZE)
    with pytest.raises(InputError, match="changes smoothly with the code, got NeighbourClassifier"):
        integrated_gradients(ScanScore(encoder, head), volume, baseline=torch.zeros_like(volume))


def test_a_slice_alone_has_its_own_effect(heads: dict[str, object], encoder: SemanticEncoder) -> None:
    """Scans that differ in one slice: no other one adds anything."""
    torch.manual_seed(1)
    volume = torch.rand(1, *SIZE)
    baseline = volume.clone()
    baseline[..., 3] = 0
    score = ScanScore(encoder, heads["number"])
    found = slice_shapley(score, volume, baseline=baseline)
    assert found[3] == pytest.approx(float(score(volume[None]) - score(baseline[None])), rel=1e-4)
    np.testing.assert_allclose(np.delete(found, 3), 0, atol=1e-6)


class BrightCube(ScanScore):
    """A score that looks at one place."""

    def forward(self, volumes: torch.Tensor) -> torch.Tensor:
        return 3 * volumes[(slice(None), 0, *CUBE)].mean((1, 2, 3))


@pytest.fixture
def cube(encoder: SemanticEncoder, heads: dict[str, object]) -> tuple[BrightCube, torch.Tensor, torch.Tensor]:
    """The score, a dim scan with a bright cube, and the scan without it."""
    torch.manual_seed(2)
    baseline = 0.2 * torch.rand(1, *SIZE)
    volume = baseline + 0.1 * torch.rand(1, *SIZE)
    volume[(0, *CUBE)] += 0.6
    return BrightCube(encoder, heads["number"]), volume, baseline


def test_occlusion_is_largest_where_a_bright_cube_decides(
    cube: tuple[BrightCube, torch.Tensor, torch.Tensor],
) -> None:
    score, volume, baseline = cube
    found = occlusion(score, volume, baseline=baseline)[0]
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[CUBE] = True
    expected = float(score(volume[None]) - score(baseline[None]))
    torch.testing.assert_close(found[inside], torch.full((4,), expected))
    assert (found[~inside] == 0).all()


def test_integrated_gradients_of_a_mean_are_its_parts(
    cube: tuple[BrightCube, torch.Tensor, torch.Tensor],
) -> None:
    score, volume, baseline = cube
    expected = torch.zeros(1, *SIZE)
    expected[(0, *CUBE)] = 3 / 4 * (volume - baseline)[(0, *CUBE)]
    torch.testing.assert_close(
        integrated_gradients(score, volume, baseline=baseline), expected, rtol=1e-4, atol=1e-6
    )


def test_without_the_extra_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
    heads: dict[str, object],
    codes: np.ndarray,
    cube: tuple[BrightCube, torch.Tensor, torch.Tensor],
) -> None:
    score, volume, baseline = cube
    for module in ("captum", "shap"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"need shap. Install it with: pip install 'ldae\[explain\]'"):
        code_shapley(heads["number"], codes, background=codes)
    with pytest.raises(InputError, match=r"need captum. Install it with: pip install 'ldae\[explain\]'"):
        occlusion(score, volume, baseline=baseline)
