# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ldae.nets.half_norms import norms_in_float32

SHAPES = {"volume": (3, 12, 4, 5, 6), "slice": (3, 12, 7, 4), "tokens": (3, 12, 20)}


def run(norm: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = norm(x)
    grads = torch.autograd.grad(out, [x, *norm.parameters()], gradient.to(out.dtype))
    return [out.detach(), *grads]


def norms(*, affine: bool = True) -> tuple[nn.GroupNorm, nn.GroupNorm]:
    torch.manual_seed(0)
    plain = nn.GroupNorm(4, 12, affine=affine)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    careful = copy.deepcopy(plain)
    norms_in_float32(careful)
    return plain, careful


def taken_by(norm: nn.Module, x: Tensor) -> list[torch.dtype]:
    """The types of what the kernel is given."""
    given: list[torch.dtype] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket is torch.ops.aten.native_group_norm:
                given.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    with Watch():
        norm(x)
    return given


def test_the_kernel_works_in_float32_unless_weights_are_half_too() -> None:
    plain, careful = norms()
    x = torch.randn(SHAPES["volume"]).bfloat16()
    assert taken_by(plain, x) == [torch.bfloat16]
    assert taken_by(careful, x) == [torch.float32]
    assert torch.equal(careful.bfloat16()(x), plain.bfloat16()(x)), "as in precision bf16-true"


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", SHAPES)
def test_it_is_float32s_result_rounded_once(kind: str, dtype: torch.dtype, last: bool, affine: bool) -> None:
    plain, careful = norms(affine=affine)
    x = (3 * torch.randn(SHAPES[kind]) + 2).to(dtype)
    gradient = torch.randn(SHAPES[kind]).to(dtype)
    if last and x.ndim > 3:
        x = x.to(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    expected = run(plain, x.float(), gradient.float())
    got = run(careful, x, gradient)
    assert got[0].dtype == dtype
    assert got[1].dtype == dtype
    assert got[0].stride() == plain(x.float()).stride()
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.allclose(mine.float(), theirs.to(mine.dtype).float(), rtol=1e-2, atol=1e-4)
        assert (mine.float() - theirs).norm() <= 3e-3 * theirs.norm()


def test_layouts_may_differ_between_scans_and_gradients() -> None:
    plain, careful = norms()
    x = torch.randn(SHAPES["volume"]).bfloat16().to(memory_format=torch.channels_last_3d)
    out = careful(x.requires_grad_())
    (upstream,) = torch.autograd.grad((out.float().contiguous() ** 2).sum(), x)
    twin = x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad((plain(twin) ** 2).sum(), twin)
    assert (upstream.float() - expected).norm() <= 1e-2 * expected.norm()


def test_float32_and_float64_stay_torchs_own() -> None:
    plain, careful = norms()
    x = torch.randn(SHAPES["volume"])
    assert torch.equal(careful(x), plain(x))
    x = x.double()
    assert torch.equal(careful.double()(x), plain.double()(x))
    assert list(careful.state_dict()) == list(plain.state_dict())


def test_under_autocast_only_what_went_in_is_kept() -> None:
    _, norm = norms()
    net = nn.Sequential(nn.Conv3d(12, 12, 1), norm, nn.SiLU())
    x = torch.randn(SHAPES["volume"])
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x)
    assert out.dtype == torch.bfloat16
    large = {one.data_ptr(): one.dtype for one in kept if one.numel() == x.numel()}
    assert list(large.values()) == 3 * [torch.bfloat16], "what each of the three layers took in"
