# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from ldae.evaluation.slice_importance import slice_importance
from ldae.nets.backbones import BackboneConfig
from ldae.nets.estimator import EstimatorConfig, GradientEstimator
from ldae.nets.semantic import SemanticConfig, SemanticEncoder
from ldae.nets.unet import UNetConfig

SLICES, WIDTH, TOKEN, CODE = 4, 8, 3, 5
UNET = UNetConfig(base=8, multipliers=(1,), blocks=1, attention_levels=(), head_channels=8, groups=4)


@pytest.fixture
def encoder() -> SemanticEncoder:
    """An encoder that weighs all slices alike, so that its code is linear in the tokens."""
    torch.manual_seed(0)
    backbone = BackboneConfig("ldae.nets.backbones.ConvBackbone", {"channels": [WIDTH]})
    config = SemanticConfig(code_size=CODE, token_size=TOKEN, backbone=backbone)
    encoder = SemanticEncoder(config, size=(8, 8, SLICES)).requires_grad_(False).eval()
    encoder.pooling.score.weight.zero_()
    return encoder


def make_estimator(**config: str) -> GradientEstimator:
    estimator = GradientEstimator(
        EstimatorConfig(**config), unet=UNET, code_size=CODE, latent_shape=(2, 2, 2)
    )
    if estimator.place is not None:
        torch.nn.init.normal_(estimator.place.weight)
    return estimator.requires_grad_(False)


def test_of_a_linear_pooling_it_is_the_variance_that_a_slice_brings(encoder: SemanticEncoder) -> None:
    tokens, estimator = torch.randn(30, SLICES, encoder.backbone.width), make_estimator()
    found = slice_importance(encoder, estimator, tokens)
    narrow = encoder.pooling.narrow(tokens)
    weights = encoder.pooling.project.weight.reshape(CODE, SLICES, TOKEN)
    parts = torch.einsum("bst,cst->bsc", narrow - narrow.mean(0), weights)
    for name, change in {"code": parts, "prediction": parts @ estimator.place.weight.T}.items():
        share = change.square().sum((0, 2)) / change.sum(1).square().sum()
        assert found[name].tolist() == pytest.approx(share.tolist(), rel=1e-4)
    assert found["attention"].tolist() == pytest.approx([1 / SLICES] * SLICES)


def test_a_slice_that_alone_counts_has_all(encoder: SemanticEncoder) -> None:
    encoder.pooling.project.weight[:, : 2 * TOKEN] = 0
    encoder.pooling.project.weight[:, 3 * TOKEN :] = 0
    found = slice_importance(encoder, make_estimator(), torch.randn(9, SLICES, encoder.backbone.width))
    assert found["code"].tolist() == pytest.approx([0, 0, 1, 0], abs=1e-6)
    assert found["prediction"].tolist() == pytest.approx([0, 0, 1, 0], abs=1e-6)


def test_codes_that_do_not_vary_and_an_estimator_that_lays_nothing_out(encoder: SemanticEncoder) -> None:
    encoder.pooling.project.weight.zero_()
    tokens = torch.randn(9, SLICES, encoder.backbone.width)
    found = slice_importance(encoder, make_estimator(entry="modulation"), tokens)
    assert found["code"].tolist() == [0] * SLICES
    assert "prediction" not in found
