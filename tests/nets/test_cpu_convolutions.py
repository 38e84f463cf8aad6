# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldae.nets.cpu_convolutions import fit_to_cpu
from ldae.nets.unet import UNet, UNetConfig

SIZES = [(1, 1, 1), (2, 3, 2), (2, 5, 4), (3, 4, 1), (4, 1, 5), (4, 4, 4), (5, 6, 7)]
CONVOLUTIONS = [(8, 8, 3, 1), (16, 32, 3, 1), (32, 16, 3, 2), (8, 16, 5, 1)]


def leave_nans_in_memory() -> None:
    """Fill and free blocks of many sizes: what is read unwritten is seen to be no number."""
    for _ in range(8):
        [torch.full((n,), float("nan")) for n in (1728, 6912, 13824, 16000, 55296, 100_000, 300_000)]


def weight_gradients(net: nn.Module, x: Tensor, *, bf16: bool) -> list[Tensor]:
    net.zero_grad()
    leave_nans_in_memory()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        out = net(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
    return [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("inputs", "outputs", "kernel", "stride"), CONVOLUTIONS)
def test_gradients_of_small_volumes_are_those_of_float32(
    size: tuple[int, ...], inputs: int, outputs: int, kernel: int, stride: int
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=kernel // 2))
    net.to(memory_format=torch.channels_last_3d)
    fit_to_cpu(net)
    x = torch.randn(2, inputs, *size).to(memory_format=torch.channels_last_3d)
    expected = weight_gradients(net, x, bf16=False)[0]
    got = weight_gradients(net, x, bf16=True)[0]
    assert (got - expected).norm() <= 0.02 * expected.norm()


def test_large_volumes_stay_in_bfloat16() -> None:
    net = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 4, 1))
    fit_to_cpu(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net[0](torch.randn(1, 4, 4, 4, 4)).dtype == torch.bfloat16
        assert net[0](torch.randn(1, 4, 4, 3, 4)).dtype == torch.float32
        assert net[1](torch.randn(1, 4, 1, 1, 1)).dtype == torch.bfloat16


def test_slices_are_covered_too() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    fit_to_cpu(net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(torch.randn(1, 4, 4, 3)).dtype == torch.float32


def test_a_network_with_two_planes_at_its_lowest_level_has_true_gradients() -> None:
    config = UNetConfig(
        base=16, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=8, groups=4
    )
    torch.manual_seed(0)
    unet = UNet(config)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    fit_to_cpu(unet)
    names = list(unet.state_dict())

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = copy.deepcopy(unet)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.unet(x, torch.tensor([3, 900]))
            return out

    call, x = Call(), torch.randn(2, 3, 4, 6, 4)
    assert list(call.unet.state_dict()) == names
    expected = torch.cat([one.flatten() for one in weight_gradients(call, x, bf16=False)])
    for _ in range(3):
        got = torch.cat([one.flatten() for one in weight_gradients(call, x, bf16=True)])
        assert (got - expected).norm() <= 0.1 * expected.norm()


@pytest.mark.parametrize(("size", "patch"), [((32, 40), (8, 8)), ((33, 47), (8, 4)), ((4, 4), (4, 4))])
def test_patches_cut_by_a_product_of_matrices_are_those_of_the_convolution(
    size: tuple[int, int], patch: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 12, patch, stride=patch)
    product = nn.Sequential(copy.deepcopy(conv))
    fit_to_cpu(product)
    x = torch.randn(5, 1, *size)
    assert torch.equal(product(x), conv(x))
    expected = conv(x)
    with FlopCounterMode(display=False) as counter, torch.autocast("cpu", dtype=torch.bfloat16):
        got = product(x)
    assert set(counter.get_flop_counts()["Global"]) == {torch.ops.aten.addmm}, "no convolution"
    assert got.dtype == torch.bfloat16
    assert (got - expected).norm() <= 0.01 * expected.norm()
    (got * expected.detach()).sum().backward()
    (expected * expected.detach()).sum().backward()
    for mine, theirs in zip(product[0].parameters(), conv.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert (mine.grad - theirs.grad).norm() <= 0.01 * theirs.grad.norm()


def test_slices_smaller_than_a_patch_are_refused_as_by_a_convolution() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 8, stride=8))
    fit_to_cpu(net)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match="Kernel size can't be greater"),
    ):
        net(torch.randn(2, 1, 4, 16))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 4, 4, stride=4),
        nn.Conv2d(1, 4, 4, stride=2),
        nn.Conv2d(1, 4, 4, stride=4, padding=1),
        nn.Conv2d(1, 4, 4, stride=4, dilation=2),
        nn.Conv2d(1, 4, 4, stride=4, padding="valid"),
    ],
)
def test_other_convolutions_stay_convolutions(conv: nn.Conv2d) -> None:
    net = nn.Sequential(copy.deepcopy(conv))
    fit_to_cpu(net)
    x = torch.randn(2, conv.in_channels, 13, 13)
    assert torch.equal(net(x), conv(x))
