# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldae.diffusion import samplers
from ldae.errors import InputError
from ldae.pipeline.networks import Networks, choose_device, fresh_noise, volume_batch
from ldae.pipeline.pipeline import LDAEPipeline


@pytest.fixture(scope="module")
def networks(pipe: LDAEPipeline) -> Networks:
    return pipe.networks


@pytest.fixture(scope="module")
def volumes(pipe: LDAEPipeline, scans: list[str]) -> Tensor:
    return torch.stack([pipe.read(path).data for path in scans])


def test_latents_are_normalised_posterior_means(networks: Networks, volumes: Tensor) -> None:
    mean, _ = networks.autoencoder.encode(volumes)
    wanted = (mean - networks.normaliser.mean) / networks.normaliser.std
    torch.testing.assert_close(networks.compress(volumes), wanted, rtol=1e-4, atol=1e-5)
    decoded = networks.autoencoder.decode(mean).clamp(0, 1)
    torch.testing.assert_close(networks.expand(wanted), decoded, rtol=1e-4, atol=1e-5)
    assert 0.05 < decoded.mean() < 0.95


def test_noise_is_the_sampler_s(networks: Networks, volumes: Tensor) -> None:
    latents, codes = networks.compress(volumes), networks.describe(volumes)
    model = networks.diffusion.eps_model(codes)
    wanted, _ = samplers.encode(model, latents, schedule=networks.diffusion.schedule, steps=3, solver="ddim")
    found, _ = networks.to_noise(latents, codes, steps=3, solver="ddim", batch_size=3)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    back = samplers.decode(model, wanted, schedule=networks.diffusion.schedule, steps=5, solver="ddim")
    again = networks.from_noise(found, codes, steps=5, solver="ddim")
    torch.testing.assert_close(again, back, rtol=1e-4, atol=1e-3)


def test_without_code_the_denoiser_works_alone(networks: Networks, volumes: Tensor) -> None:
    latents = networks.compress(volumes)
    alone, _ = networks.to_noise(latents, None, steps=3)
    model = networks.diffusion.eps_model(None)
    gaussian = networks.diffusion.gaussian(None)
    wanted, _ = samplers.encode(
        model, latents, schedule=networks.diffusion.schedule, steps=3, gaussian=gaussian
    )
    torch.testing.assert_close(alone, wanted, rtol=1e-4, atol=1e-4)
    assert (alone - networks.to_noise(latents, networks.describe(volumes), steps=3)[0]).abs().max() > 1e-2


def test_nothing_learns(networks: Networks, volumes: Tensor) -> None:
    networks.train()
    assert not any(module.training for module in networks.modules())
    assert not any(parameter.requires_grad for parameter in networks.parameters())
    assert not networks.describe(volumes).requires_grad


def test_reduced_precision_keeps_the_state_in_float32(
    run_dir: Path, pipe: LDAEPipeline, scans: list[str]
) -> None:
    reduced = LDAEPipeline.from_pretrained(run_dir / "pipeline", device="cpu", dtype=torch.bfloat16)
    code, exact = reduced.encode(scans[0], steps=3), pipe.encode(scans[0], steps=3)
    assert code.stochastic.dtype == torch.float32
    assert not torch.equal(code.stochastic, exact.stochastic)
    # rounding the state itself to bfloat16 would move it by far more than the networks' rounding does
    assert (code.stochastic - exact.stochastic).square().mean().sqrt() < 0.05
    assert all(weight.dtype == torch.float32 for weight in reduced.networks.parameters())
    assert reduced.sha256 == pipe.sha256


def test_fresh_noise_depends_on_its_own_seed_alone() -> None:
    many = fresh_noise((3, 4), seeds=[(0, 0), (0, 1), (5, 0)])
    assert torch.equal(many[2], fresh_noise((3, 4), seeds=[(5, 0)])[0])
    assert (many[0] - many[1]).abs().max() > 0.1
    large = fresh_noise((100_000,), seeds=[(1, 1)])
    assert abs(large.mean()) < 0.02
    assert abs(large.std() - 1) < 0.02


def test_batches_shrink_with_the_scan() -> None:
    assert volume_batch((128, 160, 128)) == 1
    assert volume_batch((32, 40, 32)) == 16


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(
        InputError, match="device must be auto, cpu, or one that this machine has, got 'toaster'"
    ):
        choose_device("toaster")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(InputError, match="got 'cuda'"):
        choose_device("cuda")
