# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ldae.data.artefact import load_component
from ldae.data.latents import LatentStats
from ldae.errors import InputError
from ldae.nets.unet import UNetConfig
from ldae.stages.components import load_denoiser
from ldae.stages.denoiser import DenoiserStage, make_normaliser
from ldae.stages.optimiser import OptimiserConfig

UNET = UNetConfig(base=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=8, groups=4)
DECAY = 0.7


class Noted(DenoiserStage):
    """Keeps the weights as they are after every optimiser step."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.history: list[torch.Tensor] = []

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        self.history.append(flat(self.unet))


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def random_stats() -> LatentStats:
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(3, 4, 6, 4, generator=generator) + 0.01
    return LatentStats(
        mean=torch.randn(place.shape, generator=generator),
        channel_mean=torch.tensor([0.1, -0.2, 0.3]),
        place_std=place,
        std=place.square().mean(dim=(1, 2, 3)).sqrt(),
        channel_std=torch.tensor([1.5, 2.0, 0.5]),
    )


def test_noise_of_a_seed_does_not_depend_on_the_layout_in_memory() -> None:
    stage = DenoiserStage(unet=UNET)
    z0 = torch.zeros(2, 3, 4, 6, 4)
    drawn = []
    for scans in (z0, z0.to(memory_format=torch.channels_last_3d)):
        torch.manual_seed(3)
        drawn.append(stage.noise_like(scans))
    assert drawn[0].shape == z0.shape
    assert torch.equal(*drawn)


@pytest.mark.parametrize("level", [0, 100, 500, 999])
def test_loss_at_the_start_is_what_the_prior_leaves(level: int) -> None:
    """Over Gaussian latents of variance s the prior is exact: it leaves Var[v | z_t] = s / (A s + 1 - A)."""
    stage = DenoiserStage(unet=UNET)
    variance = torch.rand(3, 4, 6, 4, generator=torch.Generator().manual_seed(1)) * 2
    stage.place_variance = variance
    torch.manual_seed(2)
    z0 = torch.randn(512, 3, 4, 6, 4) * variance.sqrt()
    t = torch.full((512,), level)
    with torch.no_grad():
        loss = stage.loss(stage.denoiser(stage.unet), z0, t, torch.randn_like(z0)).mean()
    signal = stage.schedule.alpha_bar[level]
    torch.testing.assert_close(loss, (variance / (signal * variance + 1 - signal)).mean(), rtol=0.02, atol=0)


def test_loss_at_the_start_without_prior_is_the_mean_square_of_v() -> None:
    stage = DenoiserStage(unet=UNET, prior="none")
    torch.manual_seed(0)
    z0, noise, t = torch.randn(8, 3, 4, 6, 4), torch.randn(8, 3, 4, 6, 4), torch.randint(1000, (8,))
    model = stage.denoiser(stage.unet)
    expected = model.prediction.target(z0, noise, t).square().flatten(1).mean(1)
    torch.testing.assert_close(stage.loss(model, z0, t, noise).detach(), expected)


@pytest.mark.parametrize("other", [{"prediction": "eps"}, {"statistics": "channel"}])
def test_prior_needs_what_it_speaks_of(other: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"prior place needs .* Set prior: none"):
        DenoiserStage(unet=UNET, prior="place", **other)


def test_prior_is_the_variance_of_each_place_of_the_normalised_latents(
    tiny_run: Path, train: Callable[..., Any]
) -> None:
    stage = DenoiserStage(run_dir=str(tiny_run), unet=UNET)
    trainer = train(stage, limit_train_batches=1)
    latents = stage.normaliser(trainer.datamodule.datasets["train"].mean)
    assert stage.place_variance is not None
    torch.testing.assert_close(latents.mean(0), torch.zeros(3, 4, 6, 4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.var(0, correction=0), stage.place_variance, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(stage.place_variance.mean(dim=(1, 2, 3)), torch.ones(3), rtol=1e-4, atol=0)


def test_average_is_the_closed_form_sum_with_accumulation(tiny_run: Path, train: Callable[..., Any]) -> None:
    """Seven batches, two to a step: four steps an epoch, the last one with a single batch."""
    stage = Noted(run_dir=str(tiny_run), unet=UNET, ema_decay=DECAY, optimiser=OptimiserConfig(lr=1e-2))
    train(stage, batch_size=2, limit_train_batches=7, max_epochs=2, accumulate_grad_batches=2)
    n = len(stage.history)
    assert n == 8
    assert stage.ema.average.n_averaged.item() == n
    weights = [DECAY ** (n - 1)] + [(1 - DECAY) * DECAY ** (n - 1 - step) for step in range(1, n)]
    expected = sum(weight * value.double() for weight, value in zip(weights, stage.history, strict=True))
    torch.testing.assert_close(flat(stage.ema.module).double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(stage.history[0], stage.history[-1])


def test_a_training_without_end_is_refused(tiny_run: Path, train: Callable[..., Any]) -> None:
    stage = DenoiserStage(run_dir=str(tiny_run), unet=UNET)
    with pytest.raises(InputError, match="max_epochs must be given"):
        train(stage, max_epochs=-1, max_steps=3)


@pytest.mark.parametrize("statistics", ["voxel", "channel"])
def test_a_sampled_latent_moves_by_its_sigma(statistics: str) -> None:
    torch.manual_seed(0)
    stats = random_stats()
    batch = {"mean": torch.randn(2, 3, 4, 6, 4), "sigma": torch.rand(2, 3, 4, 6, 4)}
    clean = {}
    for latent in ("mean", "sample"):
        stage = DenoiserStage(unet=UNET, statistics=statistics, prior="none", latent=latent)
        stage.normaliser = make_normaliser(stats, stage.statistics)
        torch.manual_seed(5)
        clean[latent] = stage.clean_latent(batch)
    mean, std = (
        (stats.mean, stats.std)
        if statistics == "voxel"
        else (stats.channel_mean[:, None, None, None], stats.channel_std)
    )
    torch.testing.assert_close(clean["mean"], (batch["mean"] - mean) / std[:, None, None, None])
    torch.manual_seed(5)
    moved = torch.randn_like(batch["sigma"]) * batch["sigma"] / std[:, None, None, None]
    torch.testing.assert_close(clean["sample"] - clean["mean"], moved, rtol=1e-4, atol=1e-5)


def test_what_is_exported_says_what_was_trained(
    branch: Callable[..., Path], train: Callable[..., Any], tmp_path: Path
) -> None:
    stage = DenoiserStage(
        run_dir=str(branch("run", "autoencoder", "latents", "cache")), unet=UNET, ema_decay=DECAY
    )
    train(stage)
    sha = stage.export(tmp_path / "denoiser")
    component = load_component(tmp_path / "denoiser", "denoiser")
    assert component.sha256 == sha
    loaded, _ = load_denoiser(tmp_path / "denoiser")
    z, t = torch.randn(2, 3, 4, 6, 4), torch.tensor([3, 800])
    with torch.no_grad():
        expected = stage.denoiser(stage.ema.module)(z, t)
        torch.testing.assert_close(loaded.model(z, t), expected, rtol=1e-4, atol=1e-5)
        plain = stage.denoiser(stage.unet)(z, t)
    assert not torch.allclose(expected, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_networks_learn_the_same(
    tiny_run: Path, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as torch.compile does it, without the minutes of a C++ compiler."""
    compile_with = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compile_with(net, backend="aot_eager"))
    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        stage = Noted(run_dir=str(tiny_run), unet=UNET, compiled=compiled)
        train(stage, limit_train_batches=3)
        ends.append(stage)
    assert len(ends[1].history) == 3
    torch.testing.assert_close(ends[1].history[-1], ends[0].history[-1], rtol=1e-3, atol=1e-5)
    assert ends[1].unet.state_dict().keys() == ends[0].unet.state_dict().keys()


def test_validation_noise_belongs_to_the_scan_not_to_its_batch() -> None:
    stage = DenoiserStage(unet=UNET)
    scans, index = torch.zeros(6, 3, 4, 6, 4), torch.arange(6)
    whole = stage.fixed_noise(scans, index=index)
    torch.testing.assert_close(stage.fixed_noise(scans[2:4], index=index[2:4]), whole[2:4])
    levels = stage.fixed_levels(torch.arange(1000), steps=1000)
    assert abs(float(levels.float().mean()) - 499.5) < 2
    assert levels.unique().numel() > 850
    assert 0 <= int(levels.min()) < int(levels.max()) < 1000


class Felt(DenoiserStage):
    """Notes the gradient's length at every step; every draw is the same."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.norms: list[float] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        torch.manual_seed(batch_index)
        return super().training_step(batch, batch_index)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        gradients = [one.grad.norm() for one in self.unet.parameters() if one.grad is not None]
        self.norms.append(float(torch.stack(gradients).norm()))


def test_a_shorter_last_group_steps_by_the_mean_of_its_batches(
    branch: Callable[..., Path], train: Callable[..., Any]
) -> None:
    """Three batches, two to a step: the gradient of the last is that of a step of its own."""
    run = branch("run", "autoencoder", "latents", "cache")
    norms = []
    for accumulate in (1, 2):
        torch.manual_seed(0)
        stage = Felt(run_dir=str(run), unet=UNET, optimiser=OptimiserConfig(lr=0.0))
        train(stage, limit_train_batches=3, accumulate_grad_batches=accumulate)
        norms.append(stage.norms)
    assert [len(each) for each in norms] == [3, 2]
    assert norms[1][-1] == pytest.approx(norms[0][-1], rel=1e-4)
