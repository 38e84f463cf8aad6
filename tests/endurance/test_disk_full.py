# SPDX-License-Identifier: Apache-2.0
"""A full disk: one sentence that names the file, exit code 2, and what lay there before is intact."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldae.data.artefact import atomic_path, load_component, save_component, write_json
from ldae.errors import StorageError

TENSORS = {"weight": torch.zeros(100_000)}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes: what the system says of a full disk, really."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "logs" not in path.parts
    }


def write_array(path: Path) -> None:
    np.save(path, np.zeros(100_000))


def write_weights(path: Path) -> None:
    from safetensors.torch import save_file

    save_file(TENSORS, path)


def write_torch(path: Path) -> None:
    torch.save(TENSORS, path)


def write_table(path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"a": np.arange(100_000)}).to_csv(path)


def write_parquet(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"a": np.random.default_rng(0).random(100_000)}), path)


def write_scan(path: Path) -> None:
    import nibabel as nib

    nib.save(
        nib.Nifti1Image(np.random.default_rng(0).random((50, 50, 50), dtype=np.float32), np.eye(4)), path
    )


def write_picture(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().imshow(np.random.default_rng(0).random((400, 400)))
    figure.savefig(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npy", write_array),
        ("a.safetensors", write_weights),
        ("a.ckpt", write_torch),
        ("a.csv", write_table),
        ("a.parquet", write_parquet),
        ("a.nii.gz", write_scan),
        ("a.nii", write_scan),
        ("a.png", write_picture),
    ],
)
def test_every_writer_is_put_into_words_and_the_old_file_stays(tmp_path: Path, name: str, write: Any) -> None:
    path = tmp_path / name
    path.write_text("old")

    def overwrite() -> None:
        with largest_file(10_000), atomic_path(path) as temporary:
            write(temporary)

    with pytest.raises(StorageError, match=rf"{name} cannot be written: .* unchanged: make room") as told:
        overwrite()
    assert "\n" not in str(told.value)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota")])
def test_the_reason_is_told(tmp_path: Path, monkeypatch, number: int, told: str) -> None:
    def full(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=told):
        write_json(tmp_path / "x.json", 1)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_another_kind_passes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "x"):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "missing").read_text()


@pytest.mark.parametrize("size", [10_000, 400_200])
def test_a_component_is_replaced_whole_or_not_at_all(tmp_path: Path, size: int) -> None:
    """The weights do not fit; or they do, and the configuration, which is larger, does not."""
    common: dict[str, Any] = {"kind": "autoencoder", "config": {"text": "x" * 500_000}}
    first = save_component(tmp_path, **common, tensors=TENSORS)
    with largest_file(size), pytest.raises(StorageError):
        save_component(tmp_path, **common, tensors={"weight": torch.ones(100_000)})
    assert load_component(tmp_path, "autoencoder").sha256 == first


COHORT = "--cohort {run}/cohort/cohort.csv"
# A command, and the size that a file may have at most: too little for what it writes first or last.
VERBS = {
    "phantom": ("phantom --out {run}/cohort --subjects 6", 3_000),
    "split": (f"split {COHORT} --overwrite --seed 5", 1_000),
    "latents": ("latents --run-dir {run} --overwrite", 1_000),
    "assemble": ("assemble --run-dir {run}", 100_000),
    "embed": (
        "embed --pipeline {run}/pipeline --out {run} --overwrite --cache {run}/cache " + COHORT,
        10_000,
    ),
    "probe": ("probe --run-dir {run} --target age --seed 3", 1_000),
    "evaluate": ("evaluate code --run-dir {run} --limit 4", 900),
    "reconstruct": (
        f"reconstruct --pipeline {{run}}/pipeline {COHORT} --split test --steps 2 --out {{run}}/scans",
        3_000,
    ),
    "report": ("report --run-dir {run}", 30_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_leaves_what_was_there(verb: str, tiny_run: Path, tmp_path: Path, ldae) -> None:
    words, size = VERBS[verb]
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    if verb == "phantom":
        run = tmp_path / "new"
        run.mkdir()
    if verb not in ("phantom", "split"):
        # an entry of the cache is named by its scan's path
        shutil.rmtree(run / "cohort")
        (run / "cohort").symlink_to(tiny_run / "cohort")
    if verb == "assemble":
        for kind in ("autoencoder", "representation"):
            (run / "pipeline" / kind / "model.safetensors").write_bytes(b"damaged")
    before = tree(run)
    with largest_file(size):
        said = ldae(*words.format(run=run).split())
    assert said.code == 2, said.err
    told = said.err.splitlines()[-1]
    assert "cannot be written" in told
    assert "make room" in told
    assert "Traceback" not in said.err
    after = tree(run)
    assert {name: digest for name, digest in after.items() if name in before} == before
    assert not list(run.rglob(".partial*"))
    assert not list(run.rglob(".lock"))


def test_a_training_keeps_its_last_checkpoint(stage, ldae) -> None:
    run, words = stage("ldae_pretrain", "--trainer.max_epochs=3")
    from ldae.cli.checkpoint import EpochCheckpoint

    saves: list[int] = []
    save = EpochCheckpoint._save

    def second_fails(self: EpochCheckpoint, trainer: Any) -> None:
        saves.append(trainer.current_epoch)
        with largest_file(10_000 if len(saves) == 2 else resource.RLIM_INFINITY):
            save(self, trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EpochCheckpoint, "_save", second_fails)
        said = ldae(*words)
    assert said.code == 2
    assert "checkpoints/denoiser/last.ckpt cannot be written" in said.err
    folder = run / "checkpoints" / "denoiser"
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 0
    assert not list(folder.glob(".partial*"))
    said = ldae(*words)
    assert said.code == 0, said.err
    assert "Going on from" in said.out
