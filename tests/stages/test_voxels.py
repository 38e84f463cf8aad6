# SPDX-License-Identifier: Apache-2.0
"""The baseline in voxel space: latents that are the scans themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldae.cli.main import main
from ldae.data.artefact import component_sha256, read_json
from ldae.data.latents import LatentStore
from ldae.data.spec import PreprocessingSpec
from ldae.nets.autoencoder import Autoencoder, AutoencoderConfig
from ldae.pipeline.pipeline import LDAEPipeline

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_lost_and_nothing_is_trained() -> None:
    autoencoder = Autoencoder(AutoencoderConfig(identity=True))
    x = torch.rand(2, 1, 4, 6, 4)
    mean, sigma = autoencoder.encode(x)
    assert torch.equal(autoencoder.decode(mean), x)
    assert sigma.abs().sum() == 0
    assert list(autoencoder.parameters()) == []
    assert autoencoder.config.factor == 1


@pytest.mark.slow
def test_all_stages_run_on_voxels(tiny_run: Path, branch: Callable[..., Path]) -> None:
    run = branch("voxels", "cohort", "cache")

    def fit(name: str, *words: str) -> None:
        configs = [f"demo/{name}.yaml", str(ROOT / "tests" / "tiny" / f"{name}.yaml")]
        command = [word for config in configs for word in ("--config", config)]
        assert main(["fit", *command, *words, "--run_dir", str(run)]) == 0

    fit("aekl", "--config", str(ROOT / "configs" / "voxels.yaml"))
    assert main(["latents", "--run-dir", str(run), "--device", "cpu"]) == 0
    fit("ldae_pretrain", "--model.init_args.unet.in_channels", "1", "--trainer.max_epochs", "1")
    fit("ldae_repr_learn")
    folder = run / "autoencoder"
    spec = PreprocessingSpec.from_dict(read_json(folder / "config.json")["spec"])
    store = LatentStore(run / "latents", autoencoder=component_sha256(folder), spec=spec.sha256)
    assert tuple(store.stats().mean.shape) == (1, *spec.size)
    pipe = LDAEPipeline.from_pretrained(run / "pipeline", device="cpu")
    path = store.index()["path"][0]
    code = pipe.encode(path, steps=3)
    assert code.stochastic.shape == (1, *spec.size)
    assert pipe.decode(code, steps=3).data.shape == (1, *spec.size)
