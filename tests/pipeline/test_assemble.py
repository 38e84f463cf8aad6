# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ldae.data.artefact import component_sha256, read_json
from ldae.errors import CheckpointError
from ldae.pipeline import assemble
from ldae.pipeline.assemble import assemble_pipeline
from ldae.pipeline.pipeline import LDAEPipeline


@pytest.fixture
def own_run(run_dir: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed; the cohort stays where it is."""
    for kind in ("autoencoder", "denoiser", "representation", "pipeline"):
        shutil.copytree(run_dir / kind, tmp_path / kind)
    return tmp_path


def assemble_own(own_run: Path, run_dir: Path) -> Path:
    return assemble_pipeline(own_run, cohort=run_dir / "cohort" / "cohort.csv", device="cpu")


def test_statistics_are_those_of_the_training_codes(pipe: LDAEPipeline, embeddings: pd.DataFrame) -> None:
    train = embeddings[embeddings["split"] == "train"].filter(regex="^y_").to_numpy(dtype=float)
    assert pipe.statistics.scans == len(train)
    # the cache holds float16
    np.testing.assert_allclose(pipe.statistics.mean, train.mean(axis=0), atol=2e-2)
    np.testing.assert_allclose(pipe.statistics.std, train.std(axis=0, ddof=1), rtol=0.02)
    assert set(pipe.statistics.ranges) == {
        "code distance",
        "reconstruction error",
        "latent RMS",
        "mean intensity",
    }


def test_the_parts_are_the_stages(run_dir: Path) -> None:
    for kind in ("autoencoder", "denoiser", "representation"):
        assert component_sha256(run_dir / "pipeline" / kind) == component_sha256(run_dir / kind)
    parents = read_json(run_dir / "pipeline" / "statistics" / "config.json")["parents"]
    assert parents["representation"] == component_sha256(run_dir / "representation")


def test_a_second_time_does_nothing(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "pipeline").rglob("*")}

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("networks were loaded")

    monkeypatch.setattr(assemble, "load_networks", fail)
    assert assemble_pipeline(run_dir, device="cpu") == run_dir / "pipeline"
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "pipeline").rglob("*")} == before


def test_damage_is_repaired(own_run: Path, run_dir: Path) -> None:
    assemble_own(own_run, run_dir)
    weights = own_run / "pipeline" / "autoencoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assemble_own(own_run, run_dir)
    assert weights.read_bytes() == (own_run / "autoencoder" / "model.safetensors").read_bytes()
    LDAEPipeline.from_pretrained(own_run / "pipeline", device="cpu")


def test_a_missing_stage_says_what_makes_it(own_run: Path, run_dir: Path) -> None:
    shutil.rmtree(own_run / "denoiser")
    with pytest.raises(FileNotFoundError, match=r"the denoiser must be made first.*ldae_pretrain\.yaml"):
        assemble_own(own_run, run_dir)


def test_stages_of_two_trainings_are_refused(own_run: Path, run_dir: Path, cohort: pd.DataFrame) -> None:
    from tiny_pipeline import save_stages

    other = own_run / "other"
    save_stages(other, split=read_json(run_dir / "autoencoder" / "config.json")["split"], seed=5)
    shutil.copytree(other / "autoencoder", own_run / "autoencoder", dirs_exist_ok=True)
    old = component_sha256(run_dir / "autoencoder")
    new = component_sha256(own_run / "autoencoder")
    with pytest.raises(CheckpointError, match=rf"made from autoencoder {old[:12]}.*{new[:12]}"):
        assemble_own(own_run, run_dir)


def test_another_split_is_refused(own_run: Path, run_dir: Path, cohort: pd.DataFrame) -> None:
    moved = cohort.assign(split=cohort["split"].where(cohort["subject"] != "sub-00", "cal"))
    if moved["split"].equals(cohort["split"]):
        moved = cohort.assign(split=cohort["split"].where(cohort["subject"] != "sub-00", "test"))
    moved.to_csv(own_run / "cohort.csv", index=False)
    with pytest.raises(CheckpointError, match=r"was trained on split .* has split"):
        assemble_pipeline(own_run, cohort=own_run / "cohort.csv", device="cpu")
