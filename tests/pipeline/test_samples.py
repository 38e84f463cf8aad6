# SPDX-License-Identifier: Apache-2.0
"""Scans of nobody: from the training of the code sampler to files."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_pipeline import SPEC, save_stages
from tiny_sampler import add_tiny_sampler

from ldae.cli.main import main
from ldae.data.artefact import component_sha256, read_json
from ldae.data.cohort import read_cohort
from ldae.data.split import split_hash
from ldae.errors import CheckpointError, InputError
from ldae.pipeline.assemble import add_code_sampler, assemble_pipeline
from ldae.pipeline.embed_cohort import embed_cohort
from ldae.pipeline.folder import read_index
from ldae.pipeline.pipeline import LDAEPipeline
from ldae.pipeline.samples import TrainingScans, draw_codes

TINY = Path(__file__).resolve().parents[1] / "tiny" / "code_sampler.yaml"


@pytest.fixture(scope="session")
def sampled_run(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run with a code sampler."""
    run = tmp_path_factory.mktemp("sampled") / "run"
    shutil.copytree(run_dir, run)
    embed_cohort(
        run / "pipeline",
        run / "cohort" / "cohort.csv",
        out=run / "embeddings.parquet",
        cache=run / "cache",
        device="cpu",
    )
    add_tiny_sampler(run)
    return run


@pytest.fixture(scope="session")
def sampling_pipe(sampled_run: Path) -> LDAEPipeline:
    return LDAEPipeline.from_pretrained(sampled_run / "pipeline", device="cpu")


def sample(run: Path, out: Path, *words: object) -> int:
    command = ["sample", "--pipeline", run / "pipeline", "--device", "cpu", "--steps", 3, "--out", out]
    return main([str(word) for word in (*command, *words)])


def test_it_is_a_component_that_leaves_the_codes_as_they_are(run_dir: Path, sampled_run: Path) -> None:
    before, after = (read_index(run / "pipeline") for run in (run_dir, sampled_run))
    assert after.sha256 == before.sha256
    assert after.components.keys() - before.components.keys() == {"code_sampler"}
    assert after.components["code_sampler"] == component_sha256(sampled_run / "code_sampler")


def test_fit_adds_it_and_does_nothing_again(
    sampled_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sampled_run, run, ignore=shutil.ignore_patterns("code_sampler"))
    assemble_pipeline(run, device="cpu")
    fit = ["fit", "--config", "demo/code_sampler.yaml", "--config", str(TINY), "--run_dir", str(run)]
    for _ in range(2):
        assert main(fit) == 0
    assert read_index(run / "pipeline").components["code_sampler"] == component_sha256(run / "code_sampler")
    assert "is up to date" in capfd.readouterr().out


def test_a_scan_depends_on_its_own_seed_alone(sampling_pipe: LDAEPipeline) -> None:
    five, two = (sampling_pipe.sample(n, seed=1, steps=3) for n in (5, 2))
    for one, same in zip(five, two, strict=False):
        torch.testing.assert_close(one.data, same.data, rtol=1e-4, atol=1e-4)
    other = sampling_pipe.sample(1, seed=2, steps=3)[0]
    assert float((five[0].data - other.data).abs().max()) > 1e-2
    assert float((five[0].data - five[1].data).abs().max()) > 1e-2


def test_every_scan_has_a_stochastic_code_of_its_own(sampling_pipe: LDAEPipeline) -> None:
    codes = draw_codes(sampling_pipe, 3, seed=4)
    of_class = draw_codes(sampling_pipe, 3, seed=4, target_class="AD")
    for one, other in zip(codes, of_class, strict=True):
        assert torch.equal(one.stochastic, other.stochastic)
    for name in ("semantic", "stochastic"):
        assert len({float(getattr(code, name).flatten()[0]) for code in codes}) == 3
    assert abs(float(torch.stack([code.stochastic for code in codes]).std()) - 1) < 0.05


@pytest.mark.parametrize("options", [{"solver": "exact"}, {"solver": "ddim"}, {"stop_fraction": 1.0}])
def test_ways_to_render(sampling_pipe: LDAEPipeline, options: dict) -> None:
    plain, other = sampling_pipe.sample(1, steps=3)[0], sampling_pipe.sample(1, steps=3, **options)[0]
    assert bool(torch.isfinite(other.data).all())
    assert not torch.equal(plain.data, other.data)


def test_bad_requests(sampling_pipe: LDAEPipeline, pipe: LDAEPipeline) -> None:
    with pytest.raises(InputError, match="class of a sample must be one of AD, CN, got 'FTD'"):
        sampling_pipe.sample(1, target_class="FTD")
    with pytest.raises(InputError, match="n must be 1 or more and seed 0 or more, got n=0"):
        sampling_pipe.sample(0)
    with pytest.raises(InputError, match=r"stop_fraction must lie within 0\.\.1"):
        sampling_pipe.sample(1, stop_fraction=2)
    with pytest.raises(FileNotFoundError, match=r"has no code sampler.*fit --config code_sampler.yaml"):
        pipe.sample(1)


def test_files(sampled_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sample(sampled_run, tmp_path, "-n", 2, "--class", "AD", "--seed", 3) == 0
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.nii.gz"))
    assert written == [
        f"sub-synthetic000{number}/anat/sub-synthetic000{number}_desc-sampleAD_T1w.nii.gz"
        for number in range(2)
    ]
    for number, name in enumerate(written):
        image = nib.load(tmp_path / name)
        assert image.shape == SPEC.size
        np.testing.assert_allclose(image.header.get_zooms(), SPEC.spacing)
        middle = image.affine @ [*((np.array(SPEC.size) - 1) / 2), 1]
        np.testing.assert_allclose(middle, [0, 0, 0, 1], atol=1e-4)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        voxels = image.get_fdata()
        assert np.isfinite(voxels).all()
        assert voxels.min() >= 0
        assert voxels.max() <= 1
        sidecar = read_json(tmp_path / name.replace(".nii.gz", ".json"))
        assert sidecar["Synthetic"] is True
        assert sidecar["Sources"] == []
        told = {key: sidecar[key] for key in ("Seed", "Sample", "TargetClass", "DecodeSteps", "Solver")}
        assert told == {
            "Seed": 3,
            "Sample": number,
            "TargetClass": "AD",
            "DecodeSteps": 3,
            "Solver": "gaussian-2m",
        }
        assert "training scans" in sidecar["Novelty"]
        near = sidecar["NearestTrainingScan"]
        assert Path(near["Path"]).is_file()
        assert near["Distance"] > 0
    result = read_json(tmp_path / "result.json")
    assert [output["path"] for output in result["outputs"]] == written
    assert (tmp_path / "dataset_description.json").is_file()
    near = result["outputs"][0]["NearestTrainingScan"]
    told = f"wrote {tmp_path / written[0]}; nearest training scan {near['Subject']} {near['Session']}, code"
    assert told in capfd.readouterr().out


def test_the_nearest_training_scan_is_itself(sampled_run: Path, sampling_pipe: LDAEPipeline) -> None:
    training = TrainingScans(sampling_pipe, sampled_run / "embeddings.parquet")
    assert set(training.rows["split"]) == {"train"}
    for row in training.rows.itertuples():
        found = training.nearest(sampling_pipe.read(row.path))
        assert found["Path"] == row.path
        assert found["Distance"] < 0.05


def test_the_verb_draws_what_python_draws(
    sampled_run: Path, sampling_pipe: LDAEPipeline, tmp_path: Path
) -> None:
    assert sample(sampled_run, tmp_path, "-n", 1) == 0
    voxels = nib.load(next(tmp_path.rglob("*desc-sample_T1w.nii.gz"))).get_fdata(dtype=np.float32)
    expected = sampling_pipe.sample(1, steps=3)[0].data[0].numpy()
    np.testing.assert_allclose(voxels, expected, atol=1e-5)


def test_a_wrong_class_stops_before_anything_is_written(
    sampled_run: Path, run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sample(sampled_run, tmp_path / "out", "--class", "FTD") == 2
    assert "must be one of AD, CN, got 'FTD'" in capfd.readouterr().err
    assert sample(run_dir, tmp_path / "out") == 2
    assert "has no code sampler" in capfd.readouterr().err
    assert sample(sampled_run, tmp_path / "out", "--steps", 5000) == 2
    assert sample(sampled_run, tmp_path / "out", "--embeddings", tmp_path / "none.parquet") == 2
    assert not (tmp_path / "out").exists()


def test_assembling_again_and_copying_keep_it(
    sampled_run: Path, sampling_pipe: LDAEPipeline, tmp_path: Path
) -> None:
    again = assemble_pipeline(sampled_run, out=tmp_path / "again", device="cpu")
    assert read_index(again).components["code_sampler"] == component_sha256(sampled_run / "code_sampler")
    copied = LDAEPipeline.from_pretrained(sampling_pipe.save_pretrained(tmp_path / "copy"), device="cpu")
    assert torch.equal(copied.sample(1, steps=2)[0].data, sampling_pipe.sample(1, steps=2)[0].data)


def test_a_sampler_of_other_networks_is_left_out_and_refused(
    sampled_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(sampled_run, run)
    save_stages(run, split=split_hash(read_cohort(run / "cohort" / "cohort.csv")), seed=9)
    with caplog.at_level("WARNING"):
        pipeline = assemble_pipeline(run, device="cpu")
    assert "belongs to earlier networks and is left out" in caplog.text
    assert "code_sampler" not in read_index(pipeline).components
    with pytest.raises(CheckpointError, match=r"code_sampler in .* was made from autoencoder"):
        add_code_sampler(run, pipeline)


def test_a_damaged_sampler_is_refused(sampled_run: Path, tmp_path: Path) -> None:
    shutil.copytree(sampled_run / "pipeline", tmp_path / "pipeline")
    with (tmp_path / "pipeline" / "code_sampler" / "model.safetensors").open("ab") as stream:
        stream.write(b"x")
    pipe = LDAEPipeline.from_pretrained(tmp_path / "pipeline", device="cpu")
    with pytest.raises(CheckpointError, match="damaged or mixed"):
        pipe.sample(1)
