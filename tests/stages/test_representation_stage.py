# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from ldae.data.artefact import load_component, read_json, write_json
from ldae.data.cohort import read_cohort, write_cohort
from ldae.errors import CheckpointError
from ldae.nets.backbones import BackboneConfig
from ldae.nets.estimator import EstimatorConfig
from ldae.nets.semantic import SemanticConfig
from ldae.nets.unet import UNetConfig
from ldae.stages.components import load_denoiser, load_representation
from ldae.stages.denoiser import DenoiserStage
from ldae.stages.optimiser import OptimiserConfig
from ldae.stages.representation import UNEXPLAINED_RATE, RepresentationStage
from ldae.stages.warm_start import WarmStartConfig

BACKBONE = BackboneConfig(
    "ldae.nets.backbones.ConvBackbone", {"channels": [8, 16], "patch": 4, "grid": [2, 3]}
)
ENCODER = SemanticConfig(code_size=16, token_size=8, backbone=BACKBONE)
UNET = UNetConfig(base=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), head_channels=8, groups=4)
EARLIER = ("autoencoder", "denoiser", "latents", "cache")
Train = Callable[..., Any]


class Noted(RepresentationStage):
    """Notes at every step how the frozen part stands, and what the regression leaves."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.start: dict[str, Tensor] = {}
        self.frozen_in_training: list[bool] = []
        self.errors: list[Tensor] = []

    def on_train_start(self) -> None:
        self.start = {name: value.clone() for name, value in self.learned.state_dict().items()}

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        assert self.training
        self.frozen_in_training += [module.training for module in self.frozen.modules()]
        return super().training_step(batch, batch_index)

    def regression_loss(self, y: Tensor, z0: Tensor) -> Tensor:
        assert self.regressor is not None
        self.errors.append((self.regressor(y) - z0.flatten(1)).square().detach().mean(0))
        return super().regression_loss(y, z0)


def make(run: Path, **arguments: Any) -> Noted:
    defaults = {"encoder": ENCODER, "optimiser": OptimiserConfig(lr=1e-2), "ema_decay": 0.5}
    return Noted(run_dir=str(run), **{**defaults, **arguments})


def changed(stage: Noted, prefix: str) -> bool:
    """Whether a parameter with this beginning is another than at the start."""
    return any(
        not torch.equal(stage.start[name], value)
        for name, value in stage.learned.named_parameters()
        if name.startswith(prefix)
    )


@pytest.fixture
def trained(tiny_run: Path, train: Train) -> tuple[Noted, Any]:
    """Four steps of diffusion loss."""
    stage = make(tiny_run)
    return stage, train(stage)


def test_the_frozen_denoiser_stays_as_it_was(trained: tuple[Noted, Any], tiny_run: Path) -> None:
    stage, _ = trained
    before, component = load_denoiser(tiny_run / "denoiser")
    expected, found = before.model.state_dict(), stage.frozen.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], value) for name, value in found.items())
    assert torch.equal(stage.frozen.prior, component.tensors["prior"])
    assert stage.frozen_in_training
    assert not any(stage.frozen_in_training)
    assert not any(parameter.requires_grad for parameter in stage.frozen.parameters())
    assert all(parameter.grad is None for parameter in stage.frozen.parameters())
    for part in ("encoder.backbone", "encoder.pooling", "estimator.place", "estimator.up", "estimator.code"):
        assert changed(stage, part), part


def test_layers_are_fitted_to_the_machine(trained: tuple[Noted, Any]) -> None:
    stage, _ = trained
    kinds = [(part, type(part).__name__) for part in (*stage.learned.modules(), *stage.frozen.modules())]
    norms = {name for part, name in kinds if isinstance(part, nn.GroupNorm)}
    assert norms == {"_GroupNorm"}
    assert type(stage.learned.encoder.backbone.stem).__name__ == "_PatchProduct"
    assert all(
        part.weight.is_contiguous(memory_format=torch.channels_last_3d)
        for part, _ in kinds
        if isinstance(part, nn.Conv3d)
    )


def test_the_average_holds_encoder_and_estimator_and_nothing_else(
    trained: tuple[Noted, Any], tiny_run: Path, tmp_path: Path
) -> None:
    stage, _ = trained
    assert stage.ema.average.n_averaged.item() == 4
    average, plain = stage.ema.module.state_dict(), stage.learned.state_dict()
    assert average.keys() == plain.keys()
    assert {name.split(".")[0] for name in average} == {"encoder", "estimator"}
    buffers = {name for name, _ in stage.learned.named_buffers()}
    assert buffers == {
        "encoder.norm.running_mean", "encoder.norm.running_var", "encoder.norm.num_batches_tracked",
        "estimator.unexplained",
    }  # fmt: skip
    for name in buffers:
        assert torch.equal(average[name], plain[name]), name
    assert plain["encoder.norm.num_batches_tracked"] == 4
    assert any(not torch.equal(average[name], plain[name]) for name in plain.keys() - buffers)

    stage.export(tmp_path / "representation")
    loaded, component = load_representation(tmp_path / "representation", unet=stage.frozen.unet.config)
    assert component.tensors.keys() == average.keys()
    assert all(torch.equal(component.tensors[name], value) for name, value in average.items())
    assert not loaded.encoder.training


def test_a_checkpoint_holds_no_frozen_weight_and_can_be_taken_up(
    trained: tuple[Noted, Any], tiny_run: Path, train: Train, tmp_path: Path
) -> None:
    stage, trainer = trained
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    weights = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in weights if name.startswith("frozen")]
    tops = {"learned", "ema", "normaliser"}
    assert {name.split(".")[0] for name in weights} == tops
    again = make(tiny_run)
    trainer = train(again, max_epochs=0)
    checkpoint = {"state_dict": dict(weights)}
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"], strict=True)
    assert all(torch.equal(again.state_dict()[name], value) for name, value in stage.state_dict().items())


def test_warm_start_trains_the_layer_that_lays_the_code_out(tiny_run: Path, train: Train) -> None:
    stage = make(tiny_run, warm_start=WarmStartConfig(epochs=1, lr=1e-2))
    train(stage)
    assert stage.own_regressor is None
    assert stage.regressor is stage.learned.estimator.place
    assert changed(stage, "estimator.place")
    assert changed(stage, "encoder.backbone")
    assert not changed(stage, "estimator.up")
    assert not changed(stage, "estimator.code")
    expected = torch.ones_like(stage.errors[0])
    for error in stage.errors:
        expected = expected + UNEXPLAINED_RATE * (error - expected)
    unexplained = stage.learned.estimator.unexplained
    assert unexplained is not None
    assert len(stage.errors) == 4
    torch.testing.assert_close(unexplained.flatten(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(unexplained, stage.ema.module.estimator.unexplained)


def test_the_regression_stays_beside_the_diffusion_loss(tiny_run: Path, train: Train) -> None:
    stage = make(tiny_run, warm_start=WarmStartConfig(epochs=1, weight=0.5))
    train(stage, max_epochs=2, limit_train_batches=2)
    assert len(stage.errors) == 4
    assert changed(stage, "estimator.up")


def test_the_code_gets_its_own_regressor_where_it_only_modulates(
    tiny_run: Path, train: Train, tmp_path: Path
) -> None:
    stage = make(
        tiny_run, estimator=EstimatorConfig(entry="modulation"), warm_start=WarmStartConfig(epochs=1)
    )
    train(stage)
    assert stage.regressor is stage.own_regressor
    assert stage.own_regressor is not None
    assert bool((stage.own_regressor.weight != 0).any())
    stage.export(tmp_path / "representation")
    names = load_component(tmp_path / "representation", "representation").tensors
    assert not [name for name in names if "regressor" in name or "place" in name]


def test_the_published_form_takes_steps(branch: Callable[..., Path], train: Train) -> None:
    run = branch("published", "autoencoder", "latents", "cache")
    denoiser = DenoiserStage(
        run_dir=str(run), unet=UNET, prediction="eps", statistics="channel", prior="none", ema_decay=0.5
    )
    train(denoiser)
    denoiser.export(run / "denoiser")
    stage = make(
        run,
        encoder=replace(ENCODER, pooling="attention", normalisation="layernorm"),
        estimator=EstimatorConfig(entry="modulation"),
    )
    trainer = train(stage)
    assert stage.regressor is None
    assert stage.frozen.prior is None
    assert stage.diffusion(stage.learned).prediction.name == "eps"
    assert stage.normaliser.mean.shape == (3, 1, 1, 1)
    assert bool(torch.isfinite(trainer.callback_metrics["train/loss"]))
    for part in ("encoder.backbone", "encoder.norm", "estimator.up", "estimator.code"):
        assert changed(stage, part), part


@pytest.mark.slow
def test_compiled_networks_learn_the_same(
    tiny_run: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and differentiated as torch.compile does it, without the minutes of a C++ compiler."""
    compile_with = torch.nn.Module.compile
    compiled: list[torch.nn.Module] = []

    def note(net: torch.nn.Module) -> None:
        compiled.append(net)
        compile_with(net, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", note)
    losses = []
    for switch in (False, True):
        torch.manual_seed(0)
        stage = make(tiny_run, compiled=switch)
        losses.append(train(stage, limit_train_batches=3).callback_metrics["train/loss"])
    assert len(compiled) == 4
    assert compiled[2:] == [stage.frozen.unet.trunk, stage.frozen.unet.up]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-5)


def test_a_denoiser_of_another_autoencoder_is_refused(branch: Callable[..., Path], train: Train) -> None:
    run = branch("mixed", "autoencoder", "latents", "cache")
    tiny_run = (run / "autoencoder").resolve().parent
    shutil.copytree(tiny_run / "denoiser", run / "denoiser")
    document = read_json(run / "denoiser" / "config.json")
    own, other = document["parents"]["autoencoder"], "f" * 64
    write_json(run / "denoiser" / "config.json", {**document, "parents": {"autoencoder": other}})
    with pytest.raises(CheckpointError, match=f"{other[:12]}.*{own[:12]}"):
        train(make(run))


def test_a_denoiser_of_another_split_is_refused(
    tiny_run: Path, branch: Callable[..., Path], train: Train, tmp_path: Path
) -> None:
    frame = read_cohort(tiny_run / "cohort" / "cohort.csv", check="table")
    swapped = frame["split"].map({"train": "train", "val": "test", "test": "val", "cal": "cal"})
    cohort = tmp_path / "swapped.csv"
    write_cohort(pd.DataFrame({**frame, "split": swapped}), cohort)
    with pytest.raises(CheckpointError, match=r"was trained on split .* Use one split for all stages"):
        train(make(branch("other", *EARLIER)), cohort=cohort)
