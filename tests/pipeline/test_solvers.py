# SPDX-License-Identifier: Apache-2.0
"""Codes of several solvers: exact round trips, swaps and mixes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ldae.errors import InputError
from ldae.pipeline.code import Code
from ldae.pipeline.interpolation import mix_codes
from ldae.pipeline.pipeline import LDAEPipeline

STEPS = 4


@pytest.fixture(scope="module")
def exact(pipe: LDAEPipeline, scans: list[str]) -> list[Code]:
    return pipe.encode(scans[:2], steps=STEPS, solver="exact")


def test_exact_comes_back_in_a_few_steps(pipe: LDAEPipeline, scans: list[str], exact: list[Code]) -> None:
    volumes = torch.stack([pipe.read(path).data for path in scans[:2]])
    latents, semantic = pipe.networks.compress(volumes), pipe.networks.describe(volumes)
    noise, previous = pipe.networks.to_noise(latents, semantic, steps=STEPS, solver="exact")
    back = pipe.networks.from_noise(noise, semantic, steps=STEPS, solver="exact", previous=previous)
    assert (back - latents).abs().max() < 1e-3
    decoded = torch.stack([scan.data for scan in pipe.decode(exact, steps=STEPS)])
    torch.testing.assert_close(decoded, pipe.networks.expand(latents), atol=1e-3, rtol=0)


def test_auxiliary_is_saved_and_sized(exact: list[Code], tmp_path: Path) -> None:
    found = Code.load(exact[0].save(tmp_path / "code.safetensors"))
    assert found.solver == "exact"
    assert torch.equal(found.auxiliary["previous"], exact[0].auxiliary["previous"])
    assert found.auxiliary_numbers == found.stochastic.numel() + 1


def test_exact_without_its_auxiliary_or_in_other_steps_is_refused(
    pipe: LDAEPipeline, exact: list[Code]
) -> None:
    with pytest.raises(InputError, match="must hold its auxiliary, got one without"):
        pipe.decode(replace(exact[0], auxiliary={}), steps=STEPS)
    with pytest.raises(InputError, match=r"steps must be 4, .* got 5"):
        pipe.decode(exact[0], steps=5)
    plain = pipe.decode(replace(exact[0], auxiliary={}), steps=5, solver="gaussian-2m")
    assert torch.isfinite(plain.data).all()


def test_ends_of_a_mix_are_the_scans(pipe: LDAEPipeline, exact: list[Code]) -> None:
    first, _, last = pipe.interpolate(*exact, fractions=[0, 0.5, 1], steps=STEPS)
    torch.testing.assert_close(first.data, pipe.decode(exact[0], steps=STEPS).data, atol=1e-4, rtol=0)
    torch.testing.assert_close(last.data, pipe.decode(exact[1], steps=STEPS).data, atol=1e-4, rtol=0)


def test_swapped_semantic_code_keeps_the_auxiliary(pipe: LDAEPipeline, exact: list[Code]) -> None:
    swapped = replace(exact[0], semantic=exact[1].semantic)
    assert torch.isfinite(pipe.decode(swapped, steps=STEPS).data).all()


def test_trajectory_ends_at_the_scans(pipe: LDAEPipeline, scans: list[str]) -> None:
    codes = pipe.encode(scans[:2], steps=STEPS)
    ends = pipe.interpolate(*codes, fractions=[0, 1], steps=STEPS, trajectory=True)
    for end, code in zip(ends, codes, strict=True):
        torch.testing.assert_close(end.data, pipe.decode(code, steps=STEPS).data, atol=1e-4, rtol=0)
    mixed = pipe.interpolate(*codes, fractions=[0.5], steps=STEPS, trajectory=True)[0]
    assert torch.isfinite(mixed.data).all()


def test_codes_of_two_solvers_are_not_mixed(pipe: LDAEPipeline, scans: list[str], exact: list[Code]) -> None:
    other = pipe.encode(scans[1], steps=STEPS)
    with pytest.raises(InputError, match="must both be encoded by solver exact"):
        mix_codes(exact[0], other, fraction=0.5)
    with pytest.raises(InputError, match="Codes must be made by one solver, got exact, gaussian-2m"):
        pipe.decode([exact[0], other], steps=STEPS)


def test_parallel_noise_is_mixed_and_opposite_refused(pipe: LDAEPipeline, scans: list[str]) -> None:
    code = pipe.encode(scans[0], steps=2)
    parallel = mix_codes(code, replace(code, stochastic=2 * code.stochastic), fraction=0.5)
    torch.testing.assert_close(parallel.stochastic, 1.5 * code.stochastic)
    with pytest.raises(InputError, match="must not be opposite"):
        mix_codes(code, replace(code, stochastic=-code.stochastic), fraction=0.5)


def test_stop_fraction_is_a_share(pipe: LDAEPipeline, scans: list[str]) -> None:
    code = pipe.encode(scans[0], steps=2)
    with pytest.raises(InputError, match=r"stop_fraction must lie within 0\.\.1, got 1\.5"):
        pipe.decode(code, steps=2, stop_fraction=1.5)
