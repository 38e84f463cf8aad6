# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldae.nets import selective_scan as module
from ldae.nets.selective_scan import selective_scan, sequential_scan


def material(
    length: int, *, batch: int = 2, width: int = 4, states: int = 5, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """x, delta, a, b, c of three directions, with memories from one token to hundreds."""
    draw = torch.Generator().manual_seed(0)
    shape = (batch, 3, length)
    x, b, c = (torch.randn(*shape, last, generator=draw) for last in (width, states, states))
    delta = torch.rand(*shape, width, generator=draw) * 0.3 + 1e-3
    a = -16 * torch.rand(3, width, states, generator=draw)
    return [value.to(dtype).requires_grad_() for value in (x, delta, a, b, c)]


def value_and_gradients(y: Tensor, values: list[Tensor]) -> list[Tensor]:
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * weight).sum(), values)]


@pytest.mark.parametrize(("length", "chunk"), [(1, None), (7, 7), (7, 1), (37, 16), (64, 8), (300, None)])
def test_chunks_equal_one_token_after_the_other(length: int, chunk: int | None) -> None:
    values = material(length)
    expected = value_and_gradients(sequential_scan(*values), values)
    found = value_and_gradients(selective_scan(*values, chunk=chunk), values)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_value() -> None:
    assert torch.autograd.gradcheck(
        lambda *values: selective_scan(*values, chunk=3),
        material(8, batch=1, width=2, states=2, dtype=torch.float64),
    )


def test_against_mambapy() -> None:
    mamba = pytest.importorskip("mambapy.mamba")
    config = mamba.MambaConfig(d_model=4, n_layers=1, d_state=5, expand_factor=1)
    x, delta, a, b, c = material(50)
    block = mamba.MambaBlock(config)
    for path in range(3):
        theirs = block.selective_scan(
            x[:, path], delta[:, path], a[path], b[:, path], c[:, path], torch.zeros(4)
        )
        torch.testing.assert_close(selective_scan(x, delta, a, b, c)[:, path], theirs, rtol=1e-5, atol=1e-5)


def test_a_constant_input_without_decay_is_summed() -> None:
    ones = torch.ones(1, 1, 40, 1)
    y = selective_scan(ones, 0.5 * ones, torch.zeros(1, 1, 1), ones, ones)
    torch.testing.assert_close(y.flatten(), 0.5 * torch.arange(1, 41.0))


def test_thousands_of_tokens_stay_finite_in_float32() -> None:
    values = material(5120, batch=1)
    exact = sequential_scan(*(value.detach().double() for value in values))
    found = value_and_gradients(selective_scan(*values), values)
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-4, atol=1e-4)
    assert all(value.isfinite().all() for value in found)


def test_huge_steps_forget_and_stay_finite() -> None:
    x, delta, a, b, c = material(200)
    values = [x, (delta * 1e4).detach().requires_grad_(), a, b, c]
    assert all(value.isfinite().all() for value in value_and_gradients(selective_scan(*values), values))


def test_half_precision_is_computed_in_float32() -> None:
    values = [value.detach().bfloat16() for value in material(64)]
    with torch.autocast("cpu", torch.bfloat16):
        found = selective_scan(*values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, sequential_scan(*(value.float() for value in values)))


def test_parts_of_the_batch_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = material(30, batch=5)
    whole = value_and_gradients(selective_scan(*values), values)
    monkeypatch.setitem(module.MOST_STATES, "cpu", 2 * values[0][0].numel() * 5)
    for part, all_at_once in zip(value_and_gradients(selective_scan(*values), values), whole, strict=True):
        torch.testing.assert_close(part, all_at_once)
