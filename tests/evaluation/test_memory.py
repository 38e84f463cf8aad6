# SPDX-License-Identifier: Apache-2.0
"""What a training step takes, against what can be counted by hand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ldae.cli.configs import find_config, read_configs
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


@pytest.mark.slow
def test_the_verb_tells_what_fits_which_card(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configs = [
        word
        for name in ("aekl", "ldae_pretrain", "ldae_repr_learn")
        for word in ("--config", f"demo/{name}.yaml")
    ]
    assert main(["doctor", "--memory", *configs, "--out", str(tmp_path)]) == 0
    assert "16 GB, representation: batch 32; more by accumulation" in capfd.readouterr().out
    document = read_json(tmp_path / "memory.json")
    assert document["size"] == list(SIZE)
    assert {row["stage"] for row in document["needs"]} == {"autoencoder", "denoiser", "representation"}
    assert main(["doctor", "--memory", "--config", "demo/aekl.yaml"]) == 2
    assert "must also name a configuration of denoiser, representation" in capfd.readouterr().err
    assert main(["doctor"]) == 2
    assert "--pipeline must be given" in capfd.readouterr().err
