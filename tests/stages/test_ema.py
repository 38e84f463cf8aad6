# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch
from torch import nn

from ldae.stages.ema import ExponentialAverage


def test_average_is_the_closed_form_sum() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = ExponentialAverage(layer, decay=0.9)
    values = [3.0, -1.0, 4.0, 1.0, -5.0]
    for value in values:
        nn.init.constant_(layer.weight, value)
        average.update(layer)
    n = len(values)
    weights = [0.9 ** (n - 1)] + [0.1 * 0.9 ** (n - 1 - i) for i in range(1, n)]
    expected = sum(weight * value for weight, value in zip(weights, values, strict=True))
    torch.testing.assert_close(average.module.weight.item(), expected, rtol=1e-6, atol=1e-6)


def test_buffers_are_copied_not_averaged() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2))
    average = ExponentialAverage(norm, decay=0.9)
    for seed in range(3):
        norm(torch.randn(16, 2, generator=torch.Generator().manual_seed(seed)) + seed)
        average.update(norm)
    torch.testing.assert_close(average.module[0].running_mean, norm[0].running_mean, rtol=0, atol=0)
    torch.testing.assert_close(average.module[0].running_var, norm[0].running_var, rtol=0, atol=0)


def test_buffers_are_averaged_where_that_is_asked() -> None:
    norm = nn.BatchNorm1d(1, affine=False, momentum=1.0)
    average = ExponentialAverage(norm, decay=0.9, buffers=True)
    for value in (0.0, 1.0, 3.0):
        norm(value + torch.tensor([[-1.0], [1.0]]))
        average.update(norm)
    # 0, then 0.9 * 0 + 0.1 * 1, then 0.9 * 0.1 + 0.1 * 3
    torch.testing.assert_close(average.module.running_mean, torch.tensor([0.39]))
    torch.testing.assert_close(average.module.running_var, torch.tensor([2.0]))


def test_average_stays_in_eval_mode_and_takes_no_gradient() -> None:
    parent = nn.Module()
    parent.average = ExponentialAverage(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), decay=0.9)
    parent.train()
    assert not parent.average.module.training
    assert not parent.average.module[1].training
    assert not any(parameter.requires_grad for parameter in parent.parameters())
