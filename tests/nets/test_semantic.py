# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ldae.errors import InputError
from ldae.nets.backbones import BackboneConfig, ConvBackbone, TimmBackbone, make_backbone
from ldae.nets.semantic import SemanticConfig, SemanticEncoder

CONV = BackboneConfig("ldae.nets.backbones.ConvBackbone", {"channels": (4, 8)})
SIZE = (12, 16, 10)


def encoder(**changes: object) -> SemanticEncoder:
    torch.manual_seed(0)
    return SemanticEncoder(SemanticConfig(code_size=6, backbone=CONV, token_size=8, **changes), size=SIZE)


@pytest.mark.parametrize("pooling", ["tokens", "queries", "attention"])
@pytest.mark.parametrize(("plane", "slices"), [("sagittal", 12), ("coronal", 16), ("axial", 10)])
def test_shapes_and_attention(pooling: str, plane: str, slices: int) -> None:
    code, attention = encoder(pooling=pooling, plane=plane).eval().describe(torch.rand(3, 1, *SIZE))
    assert code.shape == (3, 6)
    assert attention.shape == (3, slices)
    torch.testing.assert_close(attention.sum(1), torch.ones(3))


@pytest.mark.parametrize("pooling", ["tokens", "queries", "attention"])
def test_order_of_slices_matters(pooling: str) -> None:
    net = encoder(pooling=pooling).eval()
    x = torch.rand(1, 1, *SIZE)
    # untrained attention is nearly uniform, so that the order shows little, but far above rounding
    assert (net(x) - net(x.flip(4))).abs().max() > 1e-5
    if pooling != "tokens":
        net.pooling.positions.zero_()
        assert (net(x) - net(x.flip(4))).abs().max() < 1e-6


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 2), ("coronal", 3), ("axial", 4)])
def test_slices_are_cut_along_the_named_plane(plane: str, axis: int) -> None:
    net = encoder(plane=plane)
    x = torch.rand(2, 1, *SIZE)
    seen: list[torch.Tensor] = []
    net.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net.describe(x)
    torch.testing.assert_close(seen[0], x.movedim(axis, 1).flatten(0, 1))


def test_whitening_gives_every_number_unit_variance() -> None:
    net = encoder(normalisation="whiten").train()
    code = net(torch.rand(64, 1, *SIZE))
    torch.testing.assert_close(code.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    # tiny untrained activations feel the layer's epsilon
    assert (code.std(0, correction=0) > 0.5).all()


def test_layernorm_leaves_similar_scans_almost_equal_and_whitening_does_not() -> None:
    base = torch.rand(1, 1, *SIZE)
    scans = base + 0.05 * torch.rand(64, 1, *SIZE)
    spread = {}
    for name in ("whiten", "layernorm"):
        net = encoder(normalisation=name).train()
        spread[name] = net(scans).std(0).mean().item()
    assert spread["whiten"] > 3 * spread["layernorm"]


def test_eval_result_does_not_depend_on_the_batch() -> None:
    net = encoder().eval()
    x = torch.rand(4, 1, *SIZE)
    torch.testing.assert_close(net(x), torch.cat([net(scan[None]) for scan in x]), rtol=1e-4, atol=1e-5)


def test_wrong_size_is_named() -> None:
    with pytest.raises(InputError, match=r"size \(12, 16, 10\), got \(12, 16, 11\)"):
        encoder()(torch.rand(1, 1, 12, 16, 11))


def test_absent_backbone_weights_say_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        InputError, match=r"not in the local cache. Run `hf download timm/convnext_small.*pretrained: false"
    ):
        TimmBackbone()


def test_timm_backbone_takes_single_channel_slices() -> None:
    backbone = TimmBackbone("convnext_atto", pretrained=False)
    assert backbone(torch.rand(2, 1, 32, 40)).shape == (2, backbone.width)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no.such.Thing", "must name a class"),
        ("torch.nn.Linear", "must name a ldae.nets.backbones.SliceBackbone"),
    ],
)
def test_backbone_class_path_is_checked(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_backbone(BackboneConfig(path, {}))


def test_backbone_arguments_are_checked() -> None:
    with pytest.raises(
        InputError, match=r"arguments of ldae.nets.backbones.ConvBackbone must be its arguments"
    ):
        make_backbone(BackboneConfig("ldae.nets.backbones.ConvBackbone", {"colour": 3}))


@pytest.mark.parametrize(
    ("name", "widths"),
    [("convnext_atto", [40, 80, 160, 320]), ("vit_tiny_patch16_224", [192] * 5)],
)
def test_depths_of_timm_backbones_are_stages_or_the_first_five_blocks(name: str, widths: list[int]) -> None:
    from ldae.nets.backbones import TimmBackbone

    backbone = TimmBackbone(name, pretrained=False).eval()
    slices = torch.rand(2, 1, 224, 224)
    with torch.no_grad():
        token, depths = backbone.with_depths(slices)
        torch.testing.assert_close(token, backbone(slices))
    assert [tuple(depth.shape) for depth in depths] == [(2, width) for width in widths]


def test_one_pass_gives_token_and_depths_of_the_small_backbone() -> None:
    backbone = ConvBackbone((8, 16), patch=4, grid=(2, 2))
    slices = torch.rand(3, 1, 32, 40)
    token, depths = backbone.with_depths(slices)
    torch.testing.assert_close(token, backbone(slices), rtol=0, atol=0)
    assert [tuple(depth.shape) for depth in depths] == [(3, 8), (3, 16)]
    torch.testing.assert_close(depths[0], functional.gelu(backbone.stem(slices)).mean((2, 3)))
