# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ldae.cli.main import main
from ldae.configured import buildable
from ldae.diffusion.schedule import ScheduleConfig
from ldae.errors import CheckpointError, InputError
from ldae.nets.autoencoder import AutoencoderConfig
from ldae.nets.code_denoiser import CodeDenoiserConfig
from ldae.nets.semantic import SemanticConfig
from ldae.nets.unet import UNetConfig
from ldae.stages.autoencoder import AutoencoderLossConfig
from ldae.stages.optimiser import OptimiserConfig
from ldae.stages.warm_start import WarmStartConfig


@pytest.mark.parametrize(
    ("config", "wrong", "message"),
    [
        (AutoencoderConfig, {"res_blocks": -2}, "autoencoder.res_blocks must be at least 1, got -2"),
        (AutoencoderConfig, {"channels": (64, 0)}, r"autoencoder.channels must be at least 1, got \(64, 0\)"),
        (AutoencoderConfig, {"channels": ()}, "autoencoder.channels must have one number or more, got none"),
        (
            AutoencoderConfig,
            {"attention_levels": (4,)},
            r"autoencoder.attention_levels must be at least 0 and at most 3, got \(4,\)",
        ),
        (UNetConfig, {"base": 33}, "unet.base must be even"),
        (UNetConfig, {"dropout": 1.0}, "unet.dropout must be at least 0 and below 1, got 1.0"),
        (UNetConfig, {"downsample_axes": (3,)}, "unet.downsample_axes must be at least 0 and at most 2"),
        (UNetConfig, {"multipliers": ()}, "unet.multipliers must have one number or more"),
        (
            UNetConfig,
            {"multipliers": (1, 2)},
            r"unet.attention_levels must be at least 0 and at most 1, got \(1, 2\)",
        ),
        (
            UNetConfig,
            {"base": 96, "multipliers": (1, 2, 3), "attention_levels": (0,)},
            r"unet.head_channels must divide the channels .*, got 64 for \[96, 288\]",
        ),
        (CodeDenoiserConfig, {"layers": 1}, "network.layers must be at least 2, got 1"),
        (SemanticConfig, {"code_size": 0}, "encoder.code_size must be at least 1, got 0"),
        (ScheduleConfig, {"steps": 1}, "schedule.steps must be at least 2, got 1"),
        (ScheduleConfig, {"beta_end": 1.0}, "schedule.beta_end must be at least 0 and below 1, got 1.0"),
        (OptimiserConfig, {"lr": -1e-4}, "optimiser.lr must be at least 0, got -0.0001"),
        (OptimiserConfig, {"lr": math.inf}, "optimiser.lr must be at least 0 and finite, got inf"),
        (OptimiserConfig, {"lr": math.nan}, "optimiser.lr must be at least 0, got nan"),
        (OptimiserConfig, {"warmup": 1.5}, "optimiser.warmup must be at least 0 and at most 1, got 1.5"),
        (OptimiserConfig, {"betas": (0.9, 1.0)}, "optimiser.betas must be at least 0 and below 1"),
        (WarmStartConfig, {"epochs": -1}, "warm_start.epochs must be at least 0, got -1"),
        (AutoencoderLossConfig, {"kl": -1.0}, "loss.kl must be at least 0, got -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_their_key(
    config: Any, wrong: dict[str, Any], message: str
) -> None:
    config()
    with pytest.raises(InputError, match=message):
        config(**wrong)


def test_what_cannot_be_built_is_told_with_its_place() -> None:
    message = r"networks must fit, got ValueError: two lines \(test_configured.py, line \d+\)\. `ldae fit"
    with pytest.raises(InputError, match=message), buildable("networks must fit"):
        raise ValueError("two\n lines.")


@pytest.mark.parametrize("kind", [InputError, CheckpointError, KeyboardInterrupt, OSError, AttributeError])
def test_other_errors_pass(kind: type[BaseException]) -> None:
    with pytest.raises(kind, match=r"^as it was$"), buildable("networks must fit"):
        raise kind("as it was")


def test_a_full_card_is_no_wrong_setting() -> None:
    full = type("OutOfMemoryError", (RuntimeError,), {})
    with pytest.raises(full), buildable("networks must fit"):
        raise full
    message = "DefaultCPUAllocator: can't allocate memory"
    with pytest.raises(RuntimeError, match=message), buildable("networks must fit"):
        raise RuntimeError(message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("autoencoder.res_blocks", "-2", "autoencoder.res_blocks must be at least 1, got -2."),
        (
            "autoencoder.channels",
            "[32, 33]",
            "multiple of norm_num_groups (autoencoderkl.py, line ",
        ),
        ("ema_decay", "2", "ema_decay must be from 0 to 1, got 2.0."),
    ],
)
def test_fit_says_which_setting_is_wrong(
    key: str, value: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--config", "demo/aekl.yaml", "--run_dir", str(tmp_path / "run")]
    assert main([*words, f"--model.init_args.{key}", value]) == 2
    told = capfd.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
