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
from ldae.data.artefact import read_json
from ldae.evaluation.memory import LiveBytes, measure_need
from ldae.nets.unet import UNet, UNetConfig

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


CONFIGS = {name: f"demo/{name}.yaml" for name in ("aekl", "ldae_pretrain", "ldae_repr_learn")}


def memory_of(configs: Sequence[str | Path]) -> int:
    return main(["doctor", "--memory", *(word for name in configs for word in ("--config", str(name)))])


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("aekl", ("data",), "autoencoder stage cannot be built: data.init_args.size"),
        ("aekl", ("model", "init_args"), "configuration of autoencoder must hold model.init_args"),
        ("aekl", ("model", "init_args", "autoencoder"), "autoencoder stage cannot be built: .* KeyError"),
        ("ldae_pretrain", ("model", "init_args", "unet"), "denoiser stage cannot be built: .* KeyError"),
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
    assert "denoiser stage cannot be built" in capfd.readouterr().err
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
    tiny = Path(__file__).resolve().parents[1] / "tiny"
    pairs = [path for name, demo in CONFIGS.items() for path in (demo, tiny / f"{name}.yaml")]
    assert memory_of(pairs) == 0
    assert "scans of 16x24x16" in capfd.readouterr().out


@pytest.mark.slow
def test_the_verb_tells_what_fits_which_card(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configs = [
        word
        for name in ("aekl", "ldae_pretrain", "ldae_repr_learn")
        for word in ("--config", f"demo/{name}.yaml")
    ]
    assert main(["doctor", "--memory", *configs, "--out", str(tmp_path)]) == 0
    assert "16 GB, representation: batch 32 or more; more by accumulation" in capfd.readouterr().out
    document = read_json(tmp_path / "memory.json")
    assert document["size"] == list(SIZE)
    assert {row["stage"] for row in document["needs"]} == {"autoencoder", "denoiser", "representation"}
    assert main(["doctor", "--memory", "--config", "demo/aekl.yaml"]) == 2
    assert "must also name a configuration of denoiser, representation" in capfd.readouterr().err
    assert main(["doctor"]) == 2
    assert "--pipeline must be given" in capfd.readouterr().err
