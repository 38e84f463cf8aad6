# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from ldae.data.artefact import component_sha256
from ldae.data.cache import VolumeCache
from ldae.data.latents import LatentStore
from ldae.data.shard import Shard
from ldae.errors import CheckpointError
from ldae.pipeline.compress import compress_cohort
from ldae.pipeline.pipeline import LDAEPipeline


@pytest.fixture
def own_run(run_dir: Path, tmp_path: Path) -> Path:
    """A run with the autoencoder and a cohort of its own."""
    shutil.copytree(run_dir / "autoencoder", tmp_path / "autoencoder")
    shutil.copytree(run_dir / "cohort", tmp_path / "cohort")
    return tmp_path


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def open_store(run: Path, pipe: LDAEPipeline) -> LatentStore:
    return LatentStore(
        run / "latents", autoencoder=component_sha256(run / "autoencoder"), spec=pipe.spec.sha256
    )


def test_store_holds_the_posterior(own_run: Path, pipe: LDAEPipeline) -> None:
    folder = compress_cohort(own_run, device="cpu", batch_size=5)
    store = open_store(own_run, pipe)
    index = store.index()
    assert folder == own_run / "latents"
    assert len(index) == 21
    row = index.iloc[3]
    volume = pipe.read(row["path"]).data[None]
    mean, sigma = store.read(row["key"])
    wanted_mean, wanted_sigma = pipe.networks.autoencoder.encode(volume)
    # the cache holds float16
    torch.testing.assert_close(mean, wanted_mean[0], rtol=1e-2, atol=5e-3)
    torch.testing.assert_close(sigma, wanted_sigma[0], rtol=1e-2, atol=5e-3)
    train = list(index.loc[index["split"] == "train", "key"])
    means, _ = store.load(train)
    torch.testing.assert_close(store.stats().mean, means.mean(0), rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_goes_on(own_run: Path, pipe: LDAEPipeline) -> None:
    folder = compress_cohort(own_run, device="cpu")
    keys = list(open_store(own_run, pipe).index()["key"])
    before = times(folder)
    (folder / f"{keys[2]}.safetensors").unlink()
    (folder / f"{keys[4]}.safetensors").write_bytes(b"torn")
    compress_cohort(own_run, device="cpu")
    after = times(folder)
    again = {name for name in after if after[name] != before[name]}
    assert {f"{keys[2]}.safetensors", f"{keys[4]}.safetensors"} <= again
    assert f"{keys[0]}.safetensors" not in again
    assert "stats.safetensors" in again


def test_a_second_time_writes_nothing_and_overwrite_all(own_run: Path) -> None:
    folder = compress_cohort(own_run, device="cpu")
    before = times(folder)
    compress_cohort(own_run, device="cpu")
    assert times(folder) == before
    compress_cohort(own_run, device="cpu", overwrite=True)
    assert all(times(folder)[name] != changed for name, changed in before.items())


def test_a_scan_that_changed_is_compressed_again(own_run: Path, pipe: LDAEPipeline) -> None:
    from tiny_pipeline import write_scan

    compress_cohort(own_run, device="cpu")
    row = open_store(own_run, pipe).index().iloc[0]
    write_scan(Path(row["path"]), seed=999)
    compress_cohort(own_run, device="cpu")
    changed = open_store(own_run, pipe).index().iloc[0]
    assert changed["key"] != row["key"]
    assert changed["key"] == VolumeCache(own_run / "cache", pipe.spec).key(row["path"])


def test_the_autoencoder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"autoencoder must be made first.*aekl\.yaml"):
        compress_cohort(tmp_path)


def test_another_split_is_refused(own_run: Path) -> None:
    path = own_run / "cohort" / "cohort.csv"
    table = pd.read_csv(path)
    first = table["subject"] == table["subject"][0]
    table.loc[first, "split"] = "cal" if table["split"][0] != "cal" else "test"
    table.to_csv(path, index=False)
    with pytest.raises(CheckpointError, match="was trained on split"):
        compress_cohort(own_run, device="cpu")


def test_parts_merge_to_the_store_of_one_run(own_run: Path, tmp_path: Path, pipe: LDAEPipeline) -> None:
    whole = tmp_path / "whole"
    for name in ("autoencoder", "cohort"):
        shutil.copytree(own_run / name, whole / name)
    compress_cohort(whole, device="cpu")
    for number in (3, 1, 2):
        compress_cohort(own_run, device="cpu", shard=Shard(number, 3))
    assert not (own_run / "latents" / "index.csv").exists()
    before = times(own_run / "latents")
    compress_cohort(own_run, device="cpu")
    after = times(own_run / "latents")
    assert {name: after[name] for name in before} == before
    (one, two) = (open_store(run, pipe) for run in (own_run, whole))
    torch.testing.assert_close(one.stats().mean, two.stats().mean, atol=1e-5, rtol=1e-4)
    rows = [store.index().drop(columns=["path", "key"]) for store in (one, two)]
    pd.testing.assert_frame_equal(rows[0], rows[1])


@pytest.mark.parametrize("text", ["null", "[1]", "{}", ""])
def test_a_damaged_parent_is_named(own_run: Path, text: str) -> None:
    (own_run / "autoencoder" / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"autoencoder/config\.json must be"):
        compress_cohort(own_run, device="cpu")


@pytest.mark.parametrize("name", ["index.csv", "store.json"])
@pytest.mark.parametrize("content", [b"", b"null", b"{}", b"\xff\xfe\x00", b"a,b\n1,2\n"])
def test_a_damaged_index_is_made_anew(own_run: Path, name: str, content: bytes) -> None:
    compress_cohort(own_run, device="cpu")
    path = own_run / "latents" / name
    before = path.read_bytes()
    path.write_bytes(content)
    compress_cohort(own_run, device="cpu")
    assert path.read_bytes() == before
