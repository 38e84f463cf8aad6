# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from ldae.data.artefact import read_json
from ldae.diffusion.model import GuidedDiffusion, LatentDenoiser
from ldae.diffusion.prediction import add_noise
from ldae.errors import InputError
from ldae.evaluation.code import evaluate_code, spread_levels, v_errors
from ldae.evaluation.material import Material, ScanSet


def test_twenty_levels_of_a_thousand() -> None:
    assert spread_levels(20, total=1000) == list(range(25, 1000, 50))
    assert spread_levels(2, total=100) == [25, 75]
    with pytest.raises(InputError, match="steps must be between 1 and 100"):
        spread_levels(101, total=100)


def test_error_of_a_v_network(scan_set: ScanSet) -> None:
    model = scan_set.pipeline.networks.diffusion
    z0, noise, y = torch.randn(3, 3, 8, 12, 8), torch.randn(3, 3, 8, 12, 8), torch.randn(3, 12)
    t = torch.tensor([25, 475, 975])
    signal = model.schedule.signal(t, 5)
    z, target = add_noise(z0, noise, signal), signal.sqrt() * noise - (1 - signal).sqrt() * z0
    with torch.no_grad():
        right = (model(z, t, y) - target).square().mean((1, 2, 3, 4))
        none = (model.denoiser(z, t) - target).square().mean((1, 2, 3, 4))
    found = v_errors(model, z0, t=t, noise=noise, codes=(y, None))
    torch.testing.assert_close(found[0], right)
    torch.testing.assert_close(found[1], none)


def test_error_of_an_eps_network_is_that_of_the_v_it_implies(scan_set: ScanSet) -> None:
    known = scan_set.pipeline.networks.diffusion
    denoiser = LatentDenoiser(known.denoiser.unet, schedule=known.schedule, prediction="eps")
    model = GuidedDiffusion(denoiser, known.estimator)
    z0, noise, y = torch.randn(3, 3, 8, 12, 8), torch.randn(3, 3, 8, 12, 8), torch.randn(3, 12)
    t = torch.tensor([25, 300, 600])
    signal = model.schedule.signal(t, 5)
    with torch.no_grad():
        error = (model(add_noise(z0, noise, signal), t, y) - noise).square().mean((1, 2, 3, 4))
    # v = (eps - sqrt(1 - A) z) / sqrt(A): an error of eps is that of v times sqrt(A)
    found = v_errors(model, z0, t=t, noise=noise, codes=(y,))[0]
    torch.testing.assert_close(found, error / signal.flatten(), rtol=1e-4, atol=1e-5)


def test_gaps_are_means_over_scans_and_levels(material: Material) -> None:
    folder = evaluate_code(
        material.pipeline,
        material.cohort,
        out=material.run_dir / "evaluation" / "code",
        steps=3,
        limit=7,
        device="cpu",
    )
    result, table = read_json(folder / "result.json"), pd.read_csv(folder / "table.csv")
    assert list(table["level"]) == [166, 500, 833]
    assert result["scans"] == result["subjects"] == len(pd.read_csv(folder / "scans.csv")) == 7
    for name in ("right", "shuffled", "none"):
        assert result["values"][f"gap_{name}"] == pytest.approx(table[name].mean(), rel=1e-5)
        low, high = result["values"][f"gap_{name}_ci"]
        assert low < result["values"][f"gap_{name}"] < high
    assert result["values"]["gap_right"] != result["values"]["gap_shuffled"]


def test_every_scan_counts_when_asked(material: Material, scan_set: ScanSet, tmp_path: Path) -> None:
    folder = evaluate_code(
        material.pipeline, material.cohort, out=tmp_path, steps=1, limit=None, device="cpu"
    )
    assert read_json(folder / "result.json")["scans"] == len(scan_set.rows)
