# SPDX-License-Identifier: Apache-2.0
"""What a training step takes, against what can be counted by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ldae.cli.configs import find_config, read_configs, read_yaml
from ldae.cli.main import main
from ldae.cli.memory import GIB, _advice
from ldae.data.artefact import read_json
from ldae.evaluation.memory import (
    ALLOWANCE,
    CONTEXT_BYTES,
    LiveBytes,
    Need,
    build_stage,
    has_switch,
    measure_need,
    needs_by_batch,
)
from ldae.nets.unet import UNet, UNetConfig
from ldae.stages.autoencoder import AutoencoderLossConfig, AutoencoderStage

SIZE = (32, 40, 32)


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    names = {"autoencoder": "aekl", "denoiser": "ldae_pretrain", "representation": "ldae_repr_learn"}
    return {
        stage: read_configs([find_config(f"demo/{name}.yaml")])["model"]["init_args"]
        for stage, name in names.items()
    }


def test_a_chain_of_layers_keeps_what_it_must() -> None:
    """Two linear layers about a ReLU: the hidden values once, their gradient, and the weights' gradients."""
    rows, inputs, hidden = 64, 32, 128
    with FakeTensorMode():
        first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, 1)
        counter = LiveBytes()
        with counter:
            loss = second(first(torch.rand(rows, inputs)).relu()).sum()
            loss.backward()
    gradients = 4 * (inputs * hidden + hidden + hidden + 1)
    values = 4 * rows * (inputs + 3 * hidden)
    assert gradients < counter.peak < 1.2 * (gradients + values)
    assert counter.live >= gradients


def test_weights_are_counted_and_the_rest_grows_with_the_batch(demo: dict[str, Any]) -> None:
    needs = [measure_need("denoiser", demo, size=SIZE, batch=batch, half=False) for batch in (1, 2, 3)]
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in demo["denoiser"]["unet"].items()
    }
    assert needs[0].trained == sum(p.numel() for p in UNet(UNetConfig(**settings)).parameters())
    steps = [after.step_bytes - before.step_bytes for before, after in pairwise(needs)]
    assert steps[0] > 0
    assert steps[1] == pytest.approx(steps[0], rel=0.01)
    half = measure_need("denoiser", demo, size=SIZE, batch=3, half=True)
    assert half.step_bytes < needs[2].step_bytes


def test_recomputing_saves_memory_in_the_autoencoder(demo: dict[str, Any]) -> None:
    plain, switched = (
        measure_need("autoencoder", demo, size=SIZE, batch=8, switched=switched, half=False)
        for switched in (False, True)
    )
    assert switched.step_bytes < 0.9 * plain.step_bytes
    assert switched.trained == plain.trained


def need_of(stage: str, batch: int, gib: float, *, switched: bool = False) -> Need:
    """What a stage takes on the card, given in GiB, with all the allowances in it."""
    step = round((gib * GIB - CONTEXT_BYTES) / ALLOWANCE)
    return Need(stage, switched, batch, trained=0, frozen=0, step_bytes=step)


@pytest.mark.parametrize(
    ("plain", "switched", "card", "expected"),
    [
        # 15.88 GiB leave no room on a card of 16; 9.9 do
        ((15.88, 30), (9.9, 18.4), 16, (1, True, False)),
        # 47.98 GiB fit 48, but not what is left of it with a tenth free
        ((47.98, 90), (30, 47.98), 48, (1, True, False)),
        ((10, 14.35), (9, 10), 16, (32, False, False)),
        ((10, 14.25), (9, 10), 16, (32, False, True)),
        ((15, 20), (14.5, 15), 16, (None, False, False)),
    ],
)
def test_advice_leaves_a_tenth_of_the_card_free(
    plain: tuple[float, float],
    switched: tuple[float, float],
    card: int,
    expected: tuple[int | None, bool, bool],
) -> None:
    """Of batches 1 and 32; "or more" where one more, of 0.14 GiB, leaves it free too."""
    needs = [
        need_of("autoencoder", batch, gib, switched=form)
        for form, values in ((False, plain), (True, switched))
        for batch, gib in zip((1, 32), values, strict=True)
    ]
    advice = _advice(needs, stage="autoencoder", card=card)
    assert (advice["batch"], advice["switch"] is not None, advice["more"]) == expected


def test_batches_between_and_beyond_lie_on_lines(
    demo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {1: 100, 8: 170, 32: 650}
    monkeypatch.setattr(
        "ldae.evaluation.memory.measure_need",
        lambda stage, models, *, batch, **_: Need(stage, False, batch, 0, 0, steps[batch]),
    )
    found = needs_by_batch("denoiser", demo, size=SIZE, batches=(1, 2, 8, 16, 32, 40))
    assert [need.step_bytes for need in found] == [100, 110, 170, 330, 650, 810]


def test_what_a_configuration_leaves_out_has_the_defaults_of_training() -> None:
    """Nothing said of stage 1: its network and, by default, a discriminator."""
    with torch.device("meta"):
        built = build_stage("autoencoder", {"autoencoder": {}, "denoiser": {}}, size=SIZE)
        stage = AutoencoderStage(loss=AutoencoderLossConfig(perceptual=0))
    assert stage.discriminator is not None
    expected = [
        sum(p.numel() for p in module.parameters()) for module in (stage.autoencoder, stage.discriminator)
    ]
    assert [sum(p.numel() for p in module.parameters()) for module in built.trained] == expected


@pytest.mark.parametrize(
    ("path", "arguments", "expected"),
    [
        ("ldae.nets.backbones.TimmBackbone", {"name": "resnet18"}, True),
        ("ldae.nets.backbones.TimmBackbone", {"name": "xception41"}, True),
        ("ldae.nets.backbones.TimmBackbone", {"name": "inception_v4"}, False),
        ("ldae.nets.medmamba.MedMambaBackbone", {"channels": [4, 8], "blocks": [1, 1]}, True),
        ("ldae.nets.backbones.ConvBackbone", {}, False),
    ],
)
def test_a_backbone_has_a_switch_or_none(path: str, arguments: dict[str, Any], expected: bool) -> None:
    models = {"representation": {"encoder": {"backbone": {"path": path, "arguments": arguments}}}}
    assert has_switch("representation", models) == expected


def test_recomputing_saves_memory_in_medmamba(demo: dict[str, Any]) -> None:
    backbone = {"path": "ldae.nets.medmamba.MedMambaBackbone"}
    arguments = {"channels": [16, 32], "blocks": [2, 2], "patch": 4, "states": 4, "checkpointing": True}
    encoder = demo["representation"]["encoder"] | {"backbone": backbone | {"arguments": arguments}}
    models = demo | {"representation": demo["representation"] | {"encoder": encoder}}
    plain, switched = (
        measure_need("representation", models, size=SIZE, batch=2, switched=form) for form in (False, True)
    )
    assert switched.step_bytes < 0.9 * plain.step_bytes
    assert switched.trained == plain.trained


CONFIGS = {name: f"demo/{name}.yaml" for name in ("aekl", "ldae_pretrain", "ldae_repr_learn")}


TINY = [
    path
    for name, demo in CONFIGS.items()
    for path in (demo, Path(__file__).resolve().parents[1] / "tiny" / f"{name}.yaml")
]


def memory_of(configs: Sequence[str | Path], *, out: Path | None = None) -> int:
    words = [word for name in configs for word in ("--config", str(name))]
    return main(["doctor", "--memory", *words, *(["--out", str(out)] if out else [])])


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("aekl", ("data",), "data.init_args.size of the autoencoder stage must be"),
        ("aekl", ("model", "init_args"), "configuration of autoencoder must hold model.init_args"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, change: tuple[str, ...], told: str
) -> None:
    document = read_yaml(find_config(CONFIGS[name]))
    place = document
    for key in change[:-1]:
        place = place[key]
    del place[change[-1]]
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
    assert (
        memory_of([tmp_path / f"{name}.yaml" if other == name else path for other, path in CONFIGS.items()])
        == 2
    )
    assert re.search(told, capfd.readouterr().err)


@pytest.mark.slow
def test_channels_that_do_not_fit_together_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("model: {init_args: {unet: {in_channels: 4}}}")
    paths = list(CONFIGS.values())
    assert memory_of([*paths[:2], overlay, paths[2]]) == 2
    assert "denoiser stage must be such that they can be built" in capfd.readouterr().err
    for text, told in (("trainer:", "scans of"), ("model: []", "must hold model.init_args")):
        overlay.write_text(text)
        code = memory_of([*paths[:2], overlay, paths[2]])
        said = capfd.readouterr()
        assert told in said.out + said.err
        assert code == (0 if told == "scans of" else 2)
    assert memory_of([*paths, paths[0]]) == 2
    assert "got demo/aekl.yaml beside another" in capfd.readouterr().err
    assert memory_of([overlay, *paths]) == 2
    assert "with its overlays behind it, got" in capfd.readouterr().err


@pytest.mark.slow
def test_an_overlay_is_laid_over_the_configuration_before_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert memory_of(TINY) == 0
    assert "scans of 16x24x16" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "16", "bf16"])
def test_every_half_precision_counts_as_half(tmp_path: Path, precision: str) -> None:
    """Denoiser alone: as much as bf16 takes there, and less than float32."""
    (tmp_path / "half.yaml").write_text(f"trainer: {{precision: {precision}}}")
    assert memory_of([*TINY[:4], tmp_path / "half.yaml", *TINY[4:]], out=tmp_path) == 0
    models = {
        stage: read_configs([find_config(str(path)) for path in TINY[2 * i : 2 * i + 2]])["model"][
            "init_args"
        ]
        for i, stage in enumerate(("autoencoder", "denoiser", "representation"))
    }
    half, full = (
        measure_need("denoiser", models, size=(16, 24, 16), batch=32, half=half).step_bytes
        for half in (True, False)
    )
    rows = read_json(tmp_path / "memory.json")["needs"]
    told = [row["step_bytes"] for row in rows if row["stage"] == "denoiser" and row["batch"] == 32]
    assert told == [half]
    assert half < full


@pytest.mark.slow
def test_voxels_leave_stage_1_nothing_to_train(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "voxels.yaml").write_text("model: {init_args: {unet: {in_channels: 1}}}")
    assert (
        memory_of([*TINY[:2], "voxels.yaml", *TINY[2:4], tmp_path / "voxels.yaml", *TINY[4:]], out=tmp_path)
        == 0
    )
    assert "autoencoder: nothing to train, since latents are the voxels" in capfd.readouterr().out
    document = read_json(tmp_path / "memory.json")
    for rows in (document["needs"], document["advice"]):
        assert {row["stage"] for row in rows} == {"denoiser", "representation"}


@pytest.mark.slow
def test_the_verb_tells_what_fits_which_card(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configs = [
        word
        for name in ("aekl", "ldae_pretrain", "ldae_repr_learn")
        for word in ("--config", f"demo/{name}.yaml")
    ]
    assert main(["doctor", "--memory", *configs, "--out", str(tmp_path)]) == 0
    said = capfd.readouterr().out
    assert "16 GB, representation: batch 32 or more\n" in said
    assert "autoencoder: more by accumulation, --model.init_args.accumulate N" in said
    assert "representation: more by accumulation, --trainer.accumulate_grad_batches N; no checkp" in said
    assert "An estimate, not measured on a GPU" in said
    assert "10 % of the card free" in said
    assert "\u2026" not in said
    table = [line for line in said.splitlines() if line[:1] in "\u2502\u2503\u250f\u2514"]
    assert "  checkpointing " in said
    assert max(map(len, table)) <= 80
    document = read_json(tmp_path / "memory.json")
    assert document["size"] == list(SIZE)
    assert {row["stage"] for row in document["needs"]} == {"autoencoder", "denoiser", "representation"}
    assert main(["doctor", "--memory", "--config", "demo/aekl.yaml"]) == 2
    assert "must also name a configuration of denoiser, representation" in capfd.readouterr().err
    assert main(["doctor"]) == 2
    assert "--pipeline must be given" in capfd.readouterr().err
