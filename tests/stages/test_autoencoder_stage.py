# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader

from ldae.cli.main import main
from ldae.errors import InputError
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.stages.autoencoder import AutoencoderLossConfig, AutoencoderStage
from ldae.stages.autoencoder import kl_divergence as our_kl
from ldae.stages.optimiser import OptimiserConfig, Phase, learning_rate

ROOT = Path(__file__).resolve().parents[2]
SMALL = AutoencoderConfig(channels=(4, 8), res_blocks=1, groups=2)


class Watched(AutoencoderStage):
    """Notes, at every optimiser step, which networks hold gradients."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.seen: list[tuple[str, bool, bool]] = []

    def _step(self, optimiser: Any, parameters: nn.Module, schedule: Any) -> None:
        name = "generator" if parameters is self.autoencoder else "discriminator"
        self.seen.append((name, has_gradients(self.autoencoder), has_gradients(self.discriminator)))
        super()._step(optimiser, parameters, schedule)


def has_gradients(module: nn.Module | None) -> bool:
    assert module is not None
    return any(parameter.grad is not None for parameter in module.parameters())


def loader(scans: int, batch_size: int = 2) -> DataLoader[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    volumes = torch.rand(scans, 1, 8, 8, 8, generator=generator)
    return DataLoader([{"volume": volume} for volume in volumes], batch_size=batch_size)  # type: ignore[arg-type]


def train(stage: AutoencoderStage, folder: Path, *, scans: int = 8, epochs: int = 1, **settings: Any) -> None:
    trainer = Trainer(
        **settings,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(stage, loader(scans))


def adversarial(start: int) -> AutoencoderLossConfig:
    return AutoencoderLossConfig(
        perceptual=0,
        adversarial=0.1,
        adversarial_start=start,
        discriminator_channels=4,
        discriminator_layers=1,
    )


def test_neither_network_gets_the_gradient_of_the_other(tmp_path: Path) -> None:
    stage = Watched(autoencoder=SMALL, loss=adversarial(0))
    train(stage, tmp_path, scans=4)
    assert stage.seen == [("generator", True, False), ("discriminator", False, True)] * 2


def test_discriminator_starts_after_the_warm_up(tmp_path: Path) -> None:
    stage = Watched(autoencoder=SMALL, loss=adversarial(1))
    train(stage, tmp_path, scans=2, epochs=2)
    assert [name for name, *_ in stage.seen] == ["generator", "generator", "discriminator"]


def test_weight_zero_builds_no_network() -> None:
    stage = AutoencoderStage(autoencoder=SMALL, loss=AutoencoderLossConfig(perceptual=0, adversarial=0))
    assert stage.discriminator is None
    assert not list(stage.frozen.parameters())


def weights(stage: AutoencoderStage) -> torch.Tensor:
    return torch.cat([one.detach().float().flatten() for one in stage.autoencoder.parameters()])


def test_every_precision_takes_nearly_the_same_step(tmp_path: Path) -> None:
    """Lightning offers half precision with scaled gradients on GPUs only, its plugin does on a CPU.

    Adam's first step is the sign of the gradient, which rounding turns where the gradient is about 0. The
    latent's noise, which another type of number draws otherwise, is small.
    """
    quiet = replace(SMALL, log_variance=-12.0)
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0))
    ways: list[dict[str, Any]] = [{}, {"precision": "bf16-mixed"}, {"plugins": scaled}]
    moved = []
    for way in ways:
        torch.manual_seed(0)
        stage = AutoencoderStage(autoencoder=quiet, loss=adversarial(0), optimiser=OptimiserConfig(lr=1e-2))
        before = weights(stage)
        train(stage, tmp_path, scans=2, **way)
        moved.append(weights(stage) - before)
    assert float(moved[0].abs().median()) == pytest.approx(1e-2, rel=1e-3)
    for one in moved[1:]:
        assert torch.cosine_similarity(one, moved[0], dim=0) > 0.8


def test_average_moves_once_an_optimiser_step(tmp_path: Path) -> None:
    stage = AutoencoderStage(
        autoencoder=SMALL, loss=AutoencoderLossConfig(perceptual=0, adversarial=0), accumulate=2
    )
    train(stage, tmp_path, scans=12)
    assert stage.ema.average.n_averaged.item() == 3


def test_accumulated_step_equals_one_larger_batch(tmp_path: Path) -> None:
    """Without noise and with a mean loss, two batches of two are one of four."""
    weights = []
    for accumulate, batch_size in ((2, 2), (1, 4)):
        torch.manual_seed(0)
        stage = Quiet(
            autoencoder=SMALL,
            loss=AutoencoderLossConfig(perceptual=0, adversarial=0, kl=0.0),
            accumulate=accumulate,
        )
        trainer = Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(stage, loader(4, batch_size))
        weights.append(torch.cat([parameter.flatten() for parameter in stage.autoencoder.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(("accumulate", "scans"), [(3, 8), (3, 10), (5, 8), (1, 6)])
def test_the_schedule_ends_with_the_last_step(tmp_path: Path, accumulate: int, scans: int) -> None:
    """Of 4 or 5 batches an epoch, the last group may be short, and its step counts as one."""
    stage = Rated(
        autoencoder=SMALL,
        loss=AutoencoderLossConfig(perceptual=0, adversarial=0),
        accumulate=accumulate,
        optimiser=OptimiserConfig(lr=1.0, schedule="cosine", warmup=0.0),
    )
    train(stage, tmp_path, scans=scans, epochs=3)
    steps = 3 * math.ceil(scans / 2 / accumulate)
    phases = [Phase(steps, (1.0,))]
    planned = [learning_rate(stage.optimiser_config, step, phases=phases) for step in range(steps)]
    assert stage.rates == pytest.approx(planned)


class Rated(AutoencoderStage):
    """Notes the learning rate of every step."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rates: list[float] = []

    def _step(self, optimiser: Any, parameters: nn.Module, schedule: Any) -> None:
        self.rates.append(optimiser.param_groups[0]["lr"])
        super()._step(optimiser, parameters, schedule)


def test_a_shorter_last_group_steps_by_the_mean_of_its_batches(tmp_path: Path) -> None:
    """Batches of 2, two to a step, and one left: its gradient is that of a batch of 2."""
    norms = []
    for accumulate, scans in ((2, 6), (1, 6)):
        torch.manual_seed(0)
        stage = Felt(
            autoencoder=SMALL,
            loss=AutoencoderLossConfig(perceptual=0, adversarial=0, kl=0.0),
            accumulate=accumulate,
            optimiser=OptimiserConfig(lr=0.0),
        )
        train(stage, tmp_path, scans=scans)
        norms.append(stage.norms)
    assert norms[0][-1] == pytest.approx(norms[1][-1], rel=1e-4)


class Quiet(AutoencoderStage):
    """Decodes the posterior mean, so that two runs see the same."""

    def generator_losses(self, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        reconstruction = self.autoencoder.decode(self.autoencoder.encode(x)[0])
        return {"l1": (reconstruction - x).abs().mean()}, reconstruction


class Felt(Quiet):
    """Notes the gradient's length at every step."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.norms: list[float] = []

    def _step(self, optimiser: Any, parameters: nn.Module, schedule: Any) -> None:
        gradients = [
            parameter.grad.norm() for parameter in parameters.parameters() if parameter.grad is not None
        ]
        self.norms.append(float(torch.stack(gradients).norm()))
        super()._step(optimiser, parameters, schedule)


def test_accumulate_is_one_or_more() -> None:
    with pytest.raises(InputError, match="accumulate must be 1 batch or more, got 0"):
        AutoencoderStage(autoencoder=SMALL, accumulate=0)


def test_kl_is_the_divergence_from_the_standard_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 2, 4, 4, 4, generator=generator)
    sigma = torch.rand(3, 2, 4, 4, 4, generator=generator) + 0.1
    expected = kl_divergence(Normal(mean, sigma), Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    torch.testing.assert_close(our_kl(mean, sigma), expected)


@pytest.mark.parametrize(("patch", "factor"), [(1, 2), (2, 4)])
def test_folding_keeps_the_size_and_sets_the_factor(patch: int, factor: int) -> None:
    config = AutoencoderConfig(channels=(4, 8), res_blocks=1, groups=2, patch=patch, log_variance=-8.0)
    net = Autoencoder(config)
    x = torch.rand(2, 1, 8, 16, 8)
    mean, sigma = net.encode(x)
    assert config.factor == factor
    assert mean.shape == (2, 3, 8 // factor, 16 // factor, 8 // factor)
    torch.testing.assert_close(sigma, torch.full_like(sigma, torch.tensor(-4.0).exp().item()))
    assert net.decode(mean).shape == x.shape


def test_a_size_that_cannot_be_halved_is_refused_before_scans_are_read(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [f"--config={ROOT / folder / 'aekl.yaml'}" for folder in ("configs/demo", "tests/tiny")]
    place = [f"--run_dir={tmp_path}", f"--data.init_args.cohort={tiny_run / 'cohort' / 'cohort.csv'}"]
    assert main(["fit", *configs, *place, "--data.init_args.size=[18, 24, 16]"]) == 2
    assert "data.init_args.size must be multiples of 4" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
