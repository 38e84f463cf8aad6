# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from ldae.diffusion.schedule import Schedule, ScheduleConfig
from ldae.errors import InputError


def closed_form(kind: str, steps: int = 1000) -> np.ndarray:
    if kind == "linear":
        return np.cumprod(1 - np.linspace(1e-4, 0.02, steps, dtype=np.float64))
    time = np.arange(steps + 1) / steps
    signal = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - signal[1:] / signal[:-1], 0.999))


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_alpha_bar_is_the_float64_product(kind: str) -> None:
    schedule = Schedule(ScheduleConfig(kind=kind))
    np.testing.assert_allclose(schedule.alpha_bar.numpy(), closed_form(kind), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(schedule.alpha_bar_previous[1:], schedule.alpha_bar[:-1])
    assert schedule.alpha_bar_previous[0] == 1


def test_linear_reference_values() -> None:
    schedule = Schedule()
    assert schedule.alpha_bar[0].item() == pytest.approx(1 - 1e-4, abs=1e-7)
    assert schedule.alpha_bar[-1].item() == pytest.approx(4.0358e-5, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_tables_are_never_cast(dtype: torch.dtype) -> None:
    schedule = Schedule()
    before = schedule.alpha_bar.clone()
    torch.nn.Sequential(schedule).to(dtype)
    assert schedule.alpha_bar.dtype == torch.float32
    torch.testing.assert_close(schedule.alpha_bar, before, rtol=0, atol=0)


def test_tables_follow_the_device_and_stay_out_of_the_state() -> None:
    schedule = Schedule().to("meta")
    assert schedule.alpha_bar.device.type == "meta"
    assert not schedule.state_dict()


def test_signal_to_noise() -> None:
    schedule = Schedule()
    t = torch.tensor([0, 500, 999])
    expected = closed_form("linear")[t] / (1 - closed_form("linear")[t])
    np.testing.assert_allclose(schedule.signal_to_noise(t).numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize("steps", [1, 7, 20, 999])
def test_grid_runs_from_clean_to_noise(steps: int) -> None:
    grid = Schedule().grid(steps)
    assert (grid[0], grid[-1], len(grid)) == (0, 999, steps + 1)
    assert grid == sorted(set(grid))


@pytest.mark.parametrize("steps", [0, 1000])
def test_grid_refuses_more_steps_than_levels(steps: int) -> None:
    with pytest.raises(InputError, match=f"between 1 and 999, got {steps}"):
        Schedule().grid(steps)
