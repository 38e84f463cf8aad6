# SPDX-License-Identifier: Apache-2.0
"""What a stage needs of the ones before it, damaged; and numbers that nothing can be trained with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.mark.parametrize("text", ["null", "[1]", "{}", '{"spec": null}', "{"])
def test_a_damaged_component_before_it_is_told(stage, ldae, tiny_run: Path, text: str) -> None:
    run, words = stage("ldae_pretrain")
    (run / "autoencoder").unlink()
    shutil.copytree(tiny_run / "autoencoder", run / "autoencoder")
    path = run / "autoencoder" / "config.json"
    path.write_text(text)
    said = ldae(*words)
    assert said.code == 2
    assert said.err.startswith(f"ldae: {path} must be")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("config", "word", "told"),
    [
        (
            "ldae_pretrain",
            "data.init_args.batch_size=0",
            "data.init_args.batch_size must be 1 or more, got 0",
        ),
        ("aekl", "data.init_args.num_workers=-1", "data.init_args.num_workers must be 0 or more, got -1"),
        ("aekl", "model.init_args.accumulate=0", "accumulate must be 1 batch or more, got 0"),
        ("aekl", "model.init_args.accumulate=-2", "accumulate must be 1 batch or more, got -2"),
    ],
)
def test_a_number_that_nothing_can_be_trained_with(stage, ldae, config: str, word: str, told: str) -> None:
    _, words = stage(config, f"--{word}")
    said = ldae(*words)
    assert said.code == 2
    assert told in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["representation", "pipeline/denoiser", "pipeline/statistics"])
def test_damaged_weights_of_the_last_stage_are_written_again(
    tiny_run: Path, tmp_path: Path, ldae, kind: str
) -> None:
    root = Path(__file__).resolve().parents[2]
    run = shutil.copytree(tiny_run, tmp_path / "run")
    path = run / kind / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    # an entry of the cache is named by its scan's path
    shutil.rmtree(run / "cohort")
    (run / "cohort").symlink_to(tiny_run / "cohort")
    words = ["--config", "demo/ldae_repr_learn.yaml", "--config", root / "tests/tiny/ldae_repr_learn.yaml"]
    said = ldae("fit", *words, "--run_dir", run)
    assert said.code == 0, said.err
    assert path.read_bytes() == whole
    assert "is up to date" in ldae("fit", *words, "--run_dir", run).out
