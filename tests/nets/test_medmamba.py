# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ldae.errors import InputError
from ldae.nets.backbones import BackboneConfig, make_backbone
from ldae.nets.medmamba import MedMambaBackbone, PatchMerging, SSConvSSM
from ldae.nets.semantic import SemanticConfig, SemanticEncoder
from ldae.nets.ss2d import SS2D, STEPS, merge_paths, split_paths
from ldae.stages.optimiser import OptimiserConfig, Phase, make_optimiser

PATH = "ldae.nets.medmamba.MedMambaBackbone"
SMALL = {"channels": [8, 16], "blocks": [1, 2], "states": 4}


@pytest.fixture
def backbone() -> MedMambaBackbone:
    torch.manual_seed(0)
    return MedMambaBackbone(**SMALL).eval()


def test_paths_go_by_row_and_column_and_back() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert split_paths(image)[0, :, :, 0].tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]
    torch.testing.assert_close(
        merge_paths(split_paths(image), height=2, width=3), 4 * image.permute(0, 2, 3, 1)
    )


def test_new_steps_are_log_uniform_and_rates_count_up() -> None:
    torch.manual_seed(0)
    layer = SS2D(512, states=3)
    steps = functional.softplus(layer.step_bias)
    assert STEPS[0] * 0.999 <= steps.min()
    assert steps.max() <= STEPS[1] * 1.001
    assert steps.log10().mean().item() == pytest.approx(-2, abs=0.05)
    torch.testing.assert_close(layer.log_rates.exp()[0, 0], torch.tensor([1.0, 2.0, 3.0]))


def test_weight_decay_leaves_memories_alone() -> None:
    layer = SS2D(4, states=2)
    config = OptimiserConfig(lr=0.1, weight_decay=0.5)
    optimiser, _ = make_optimiser(config, [list(layer.parameters())], phases=[Phase(1, (0.1,))])
    for weight in layer.parameters():
        weight.data.fill_(1)
        weight.grad = torch.zeros_like(weight)
    optimiser.step()
    kept = {name for name, weight in layer.named_parameters() if (weight == 1).all()}
    assert kept == {"log_rates", "skip"}


def test_every_place_hears_of_every_other() -> None:
    torch.manual_seed(0)
    layer = SS2D(4, states=2)
    image = torch.rand(1, 5, 6, 4, requires_grad=True)
    for place in ((0, 0), (4, 5), (2, 3)):
        (gradient,) = torch.autograd.grad(layer(image)[0, *place].sum(), image)
        assert (gradient[0].abs().amax(-1) > 0).all()


def test_a_turned_image_swaps_the_paths() -> None:
    torch.manual_seed(0)
    layer = SS2D(4, states=2)
    image = torch.rand(1, 5, 6, 4)
    expected = layer(image).transpose(1, 2)
    order = torch.tensor([1, 0, 3, 2])
    for weight in (layer.select, layer.step, layer.step_bias, layer.log_rates, layer.skip):
        weight.data = weight.data[order]
    layer.conv.weight.data = layer.conv.weight.data.transpose(2, 3)
    torch.testing.assert_close(layer(image.transpose(1, 2)), expected)


def test_the_block_shuffles_its_halves_into_each_other() -> None:
    torch.manual_seed(0)
    block = SSConvSSM(6, states=2).eval()
    image = torch.rand(2, 3, 4, 6)
    change = block(image) - image
    near = block.convs(image[..., :3].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(change[..., ::2], near)
    torch.testing.assert_close(change[..., 1::2], block.scan(block.norm(image[..., 3:])))


def test_merging_pads_an_odd_side() -> None:
    merge = PatchMerging(2, 4)
    odd = torch.rand(1, 3, 5, 2)
    torch.testing.assert_close(merge(odd), merge(functional.pad(odd, (0, 0, 0, 1, 0, 1))))
    assert merge(odd).shape == (1, 2, 3, 4)


@pytest.mark.parametrize("size", [(4, 4), (17, 23), (24, 16)])
def test_slices_of_any_size_and_number(backbone: MedMambaBackbone, size: tuple[int, int]) -> None:
    slices = torch.rand(3, 1, *size)
    tokens = backbone(slices)
    token, depths = backbone.with_depths(slices)
    assert [depth.shape for depth in depths] == [(3, 8), (3, 16)]
    torch.testing.assert_close(token, tokens)
    torch.testing.assert_close(backbone(slices[1:2]), tokens[1:2], rtol=1e-4, atol=1e-5)


def test_default_is_medmamba_t() -> None:
    with torch.device("meta"):
        net = MedMambaBackbone()
    assert net.width == 768
    assert sum(weight.numel() for weight in net.parameters()) == pytest.approx(14.4e6, rel=0.02)


def test_checkpointing_changes_no_gradient() -> None:
    slices = torch.rand(2, 1, 16, 16)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = MedMambaBackbone(**SMALL, checkpointing=checkpointing).train()
        net(slices).square().sum().backward()
        found.append(net.stem.weight.grad)
    torch.testing.assert_close(*found)


def test_autocast_stays_near_float32(backbone: MedMambaBackbone) -> None:
    slices = torch.rand(2, 1, 32, 32)
    exact = backbone(slices)
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone(slices)
    assert (found.float() - exact).norm() < 0.03 * exact.norm()


def test_drop_in_for_the_semantic_encoder() -> None:
    torch.manual_seed(0)
    config = SemanticConfig(code_size=6, token_size=8, backbone=BackboneConfig(PATH, SMALL))
    encoder = SemanticEncoder(config, size=(12, 16, 5)).train()
    code, depths = encoder.describe_depths(torch.rand(4, 1, 12, 16, 5))
    assert [depth.shape for depth in depths] == [(4, 16), (4, 32)]
    code.square().sum().backward()
    unmoved = [name for name, weight in encoder.named_parameters() if weight.grad is None]
    assert unmoved == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": [8, 15], "blocks": [1, 1]}, "channels must be even.* got 15"),
        ({"channels": [8, 16], "blocks": [1]}, r"blocks must be a number a stage, got \[1\]"),
    ],
)
def test_stages_must_fit(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_backbone(BackboneConfig(PATH, arguments))
