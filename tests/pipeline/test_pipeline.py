# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

import ldae
from ldae.data.spec import PreprocessingSpec
from ldae.diffusion.interpolation import slerp
from ldae.errors import CheckpointError, InputError
from ldae.pipeline.code import Code
from ldae.pipeline.pipeline import LDAEPipeline

STEPS = 4


@pytest.fixture(scope="module")
def codes(pipe: LDAEPipeline, scans: list[str]) -> list[Code]:
    return pipe.encode(scans, steps=STEPS)


def test_the_package_offers_the_pipeline() -> None:
    assert ldae.LDAEPipeline is LDAEPipeline


def test_scans_do_not_depend_on_their_neighbours(
    pipe: LDAEPipeline, scans: list[str], codes: list[Code]
) -> None:
    alone = pipe.encode(scans[2], steps=STEPS)
    torch.testing.assert_close(alone.semantic, codes[2].semantic, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.stochastic, codes[2].stochastic, rtol=1e-3, atol=1e-3)
    together = pipe.decode(codes, steps=STEPS)
    torch.testing.assert_close(
        pipe.decode(codes[2], steps=STEPS).data, together[2].data, rtol=1e-4, atol=1e-4
    )
    # and the test would notice: other scans have other codes and other volumes
    assert (codes[0].semantic - codes[2].semantic).abs().max() > 0.05
    assert (codes[0].stochastic - codes[2].stochastic).abs().max() > 0.1
    assert (together[0].data - together[2].data).abs().max() > 0.01


def test_batch_size_changes_nothing(pipe: LDAEPipeline, scans: list[str], codes: list[Code]) -> None:
    small = pipe.encode(scans, steps=STEPS, batch_size=3)
    for one, other in zip(small, codes, strict=True):
        torch.testing.assert_close(one.stochastic, other.stochastic, rtol=1e-3, atol=1e-3)


def test_shapes_of_a_code(codes: list[Code]) -> None:
    assert codes[0].semantic.shape == (12,)
    assert codes[0].stochastic.shape == (3, 8, 12, 8)
    assert codes[0].semantic.dtype == codes[0].stochastic.dtype == torch.float32
    assert codes[0].auxiliary == {}
    assert codes[0].geometry is not None
    assert codes[0].intensity is not None


def test_semantic_codes_need_no_walk(pipe: LDAEPipeline, scans: list[str], codes: list[Code]) -> None:
    found = pipe.describe([pipe.read(scans[0]), *scans[1:]])
    torch.testing.assert_close(found, torch.stack([code.semantic for code in codes]))
    assert pipe.describe([]).shape == (0, 12)


def test_more_steps_reconstruct_the_autoencoder_better(pipe: LDAEPipeline, scans: list[str]) -> None:
    volumes = pipe.read(scans[0]).data[None]
    wanted = pipe.networks.expand(pipe.networks.compress(volumes))[0]
    errors = [
        (pipe.reconstruct(scans[0], steps=steps).data - wanted).square().mean().item() for steps in (2, 24)
    ]
    assert errors[1] < 0.2 * errors[0]


def test_both_codes_matter(pipe: LDAEPipeline, codes: list[Code]) -> None:
    own = pipe.decode(codes[0], steps=STEPS).data
    other_semantic = replace(codes[0], semantic=codes[1].semantic)
    other_stochastic = replace(codes[0], stochastic=codes[1].stochastic)
    assert (pipe.decode(other_semantic, steps=STEPS).data - own).abs().max() > 1e-3
    assert (pipe.decode(other_stochastic, steps=STEPS).data - own).abs().max() > 1e-2
    stopped = pipe.decode(codes[0], steps=STEPS, stop_fraction=0.5).data
    assert (stopped - own).abs().max() > 1e-4


def test_decoded_scan_goes_back_to_its_own_space(
    pipe: LDAEPipeline, scans: list[str], codes: list[Code], tmp_path: Path
) -> None:
    source = nib.load(scans[1])
    assert source.get_data_dtype() == np.int16
    scan = pipe.decode(codes[1], steps=STEPS)
    assert scan.data.shape == (1, *pipe.spec.size)
    assert 0 <= scan.data.min() < scan.data.max() <= 1
    written = nib.load(scan.save(tmp_path / "out.nii.gz"))
    assert written.shape == source.shape
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-4)
    assert written.header["sform_code"] == source.header["sform_code"]
    assert written.header["qform_code"] == source.header["qform_code"]
    # in the source's units, not in [0, 1]
    assert 50 < np.asarray(written.dataobj).max() < 2 * np.asarray(source.dataobj).max()


def test_reconstruct_is_encode_then_decode(pipe: LDAEPipeline, scans: list[str]) -> None:
    code = pipe.encode(scans[0], steps=3, solver="ddim")
    wanted = pipe.decode(code, steps=5).data
    found = pipe.reconstruct(scans[0], steps=3, decode_steps=5, solver="ddim").data
    torch.testing.assert_close(found, wanted)
    without = pipe.reconstruct(scans[0], steps=3, decode_steps=5, solver="ddim", stop_fraction=1).data
    torch.testing.assert_close(without, pipe.decode(code, steps=5, stop_fraction=1).data)
    assert (without - wanted).abs().max() > 0.01


def test_variations_are_seeded_each(pipe: LDAEPipeline, codes: list[Code]) -> None:
    two = pipe.vary(codes[0], n=2, seed=7, steps=STEPS)
    five = pipe.vary(codes[0], n=5, seed=7, steps=STEPS)
    assert len(five) == 5
    for one, other in zip(two, five[:2], strict=True):
        torch.testing.assert_close(one.data, other.data, rtol=1e-4, atol=1e-4)
    assert (five[0].data - five[1].data).abs().max() > 0.01
    other_seed = pipe.vary(codes[0], n=1, seed=8, steps=STEPS)[0]
    assert (other_seed.data - five[0].data).abs().max() > 0.01
    assert two[0].geometry is codes[0].geometry


def test_variations_of_nothing_are_refused(pipe: LDAEPipeline, codes: list[Code]) -> None:
    with pytest.raises(InputError, match="n must be 1 or more"):
        pipe.vary(codes[0], n=0)


def test_interpolation_ends_at_the_two_scans(pipe: LDAEPipeline, codes: list[Code]) -> None:
    first, middle, last = pipe.interpolate(codes[0], codes[1], fractions=[0, 0.5, 1], steps=STEPS)
    torch.testing.assert_close(first.data, pipe.decode(codes[0], steps=STEPS).data, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last.data, pipe.decode(codes[1], steps=STEPS).data, rtol=1e-3, atol=1e-3)
    assert last.geometry is codes[0].geometry
    mixed = replace(
        codes[0],
        semantic=(codes[0].semantic + codes[1].semantic) / 2,
        stochastic=slerp(codes[0].stochastic[None], codes[1].stochastic[None], fraction=0.5)[0],
    )
    torch.testing.assert_close(middle.data, pipe.decode(mixed, steps=STEPS).data, rtol=1e-4, atol=1e-4)


def test_interpolation_takes_each_scan_s_own_angle(pipe: LDAEPipeline, codes: list[Code]) -> None:
    alone = pipe.interpolate(codes[2], codes[3], fractions=[0.3], steps=STEPS)[0]
    among = pipe.interpolate(codes[2], codes[3], fractions=[0.1, 0.3, 0.9], steps=STEPS)[1]
    torch.testing.assert_close(alone.data, among.data, rtol=1e-4, atol=1e-4)


def test_parallel_noise_gives_no_nan(pipe: LDAEPipeline, codes: list[Code]) -> None:
    other = replace(codes[1], stochastic=codes[0].stochastic)
    assert torch.isfinite(pipe.interpolate(codes[0], other, fractions=[0.5], steps=STEPS)[0].data).all()


def test_opposite_noise_has_no_way_between(pipe: LDAEPipeline, codes: list[Code]) -> None:
    other = replace(codes[1], stochastic=-codes[0].stochastic)
    with pytest.raises(InputError, match="must not be opposite, got an angle of 180 degrees"):
        pipe.interpolate(codes[0], other, fractions=[0.5], steps=STEPS)


def test_extrapolation_only_when_asked(pipe: LDAEPipeline, codes: list[Code]) -> None:
    with pytest.raises(InputError, match=r"fractions must lie within 0\.\.1, got \[1\.2\]"):
        pipe.interpolate(codes[0], codes[1], fractions=[0.5, 1.2], steps=STEPS)
    assert len(pipe.interpolate(codes[0], codes[1], fractions=[1.2], steps=STEPS, extrapolate=True)) == 1


@pytest.mark.parametrize("steps", [0, 1000, -3])
def test_steps_beyond_the_levels_are_refused(
    pipe: LDAEPipeline, scans: list[str], codes: list[Code], steps: int
) -> None:
    message = rf"steps must be between 1 and 999, got {steps}"
    with pytest.raises(InputError, match=message):
        pipe.encode(scans[0], steps=steps)
    with pytest.raises(InputError, match=message):
        pipe.decode(codes[0], steps=steps)


def test_a_scan_of_another_spec_is_refused(pipe: LDAEPipeline, scans: list[str]) -> None:
    other = PreprocessingSpec(spacing=(8, 8, 8), size=(16, 16, 16)).apply(scans[0])
    with pytest.raises(InputError, match="preprocessed with the pipeline's spec"):
        pipe.encode(other, steps=STEPS)


def test_scans_are_taken_as_files_or_as_scans(
    pipe: LDAEPipeline, scans: list[str], codes: list[Code]
) -> None:
    code = pipe.encode(pipe.read(Path(scans[0])), steps=STEPS)
    torch.testing.assert_close(code.semantic, codes[0].semantic, rtol=1e-4, atol=1e-5)


def test_a_code_of_another_pipeline_is_refused_by_hash(pipe: LDAEPipeline, codes: list[Code]) -> None:
    stranger = replace(codes[0], pipeline="f" * 64)
    for refused in (
        lambda: pipe.decode(stranger),
        lambda: pipe.vary(stranger),
        lambda: pipe.interpolate(codes[0], stranger),
    ):
        with pytest.raises(CheckpointError, match=f"ffffffffffff.*{pipe.sha256[:12]}"):
            refused()


def test_lists_may_be_empty(pipe: LDAEPipeline) -> None:
    assert pipe.encode([]) == []
    assert pipe.decode([]) == []


def test_embed_is_one_row_a_scan(
    pipe: LDAEPipeline, cohort: pd.DataFrame, embeddings: pd.DataFrame, codes: list[Code]
) -> None:
    assert list(embeddings.columns[:6]) == ["subject", "session", "split", "path", "diagnosis", "age"]
    assert list(embeddings.columns[6:9]) == ["site", "y_000", "y_001"]
    assert list(embeddings["path"]) == list(cohort["path"])
    rows = torch.from_numpy(embeddings.filter(regex="^y_").to_numpy(copy=True)[:4])
    torch.testing.assert_close(
        rows.float(), torch.stack([code.semantic for code in codes]), rtol=1e-4, atol=1e-5
    )


def test_embed_takes_paths(pipe: LDAEPipeline, scans: list[str], embeddings: pd.DataFrame) -> None:
    table = pipe.embed(scans[:2])
    assert list(table["subject"]) == ["sub-00", "sub-01"]
    assert list(table["session"]) == ["ses-1", "ses-1"]
    assert table["age"].isna().all()
    np.testing.assert_allclose(table["y_003"], embeddings["y_003"][:2], rtol=1e-4, atol=1e-5)


def test_embed_takes_a_table_s_path(pipe: LDAEPipeline, run_dir: Path, embeddings: pd.DataFrame) -> None:
    table = pipe.embed(run_dir / "cohort" / "cohort.csv")
    np.testing.assert_allclose(table["y_003"], embeddings["y_003"], rtol=1e-5)
