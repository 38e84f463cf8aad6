# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open

from ldae.data.latents import LatentStore
from ldae.errors import CheckpointError, InputError

SHAPE = (3, 4, 5, 6)


def draw(count: int) -> torch.Tensor:
    """Latents with a brain in common, channels of unlike size, and unlike means."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(SHAPE, generator=generator)
    scale = torch.tensor([0.5, 1.0, 3.0])[:, None, None, None]
    noise = torch.randn((count, *SHAPE), generator=generator)
    return (common + 0.5 * noise) * scale + torch.tensor([-2.0, 0.0, 5.0])[:, None, None, None]


@pytest.fixture
def store(tmp_path: Path) -> LatentStore:
    return LatentStore(tmp_path / "latents", autoencoder="a" * 64, spec="b" * 64)


def fill(store: LatentStore, count: int = 6) -> tuple[list[str], torch.Tensor]:
    means = draw(count)
    keys = [f"k{number}" for number in range(count)]
    for key, mean in zip(keys, means, strict=True):
        store.write(key, mean, mean.abs())
    return keys, means


def test_round_trip_in_float32(store: LatentStore) -> None:
    mean = torch.randn(SHAPE)
    store.write("x", mean.half(), mean.double().exp())
    found = store.read("x")
    assert [value.dtype for value in found] == [torch.float32, torch.float32]
    assert torch.equal(found[0], mean.half().float())
    assert torch.equal(found[1], mean.double().exp().float())
    keys, means = fill(store)
    loaded, sigma = store.load(keys[::-1])
    assert torch.equal(loaded, means.flip(0))
    assert torch.equal(sigma, means.flip(0).abs())


def test_missing_torn_and_stale_entries(store: LatentStore) -> None:
    keys, _ = fill(store)
    assert store.missing([*keys, "new", "new"]) == ["new"]
    torn = store.folder / "k1.safetensors"
    torn.write_bytes(torn.read_bytes()[:-7])
    (store.folder / "k2.safetensors").write_bytes(b"")
    assert store.missing(keys) == ["k1", "k2"]
    with pytest.raises(CheckpointError, match=r"k1\.safetensors must be a safetensors file"):
        store.read("k1")
    other = LatentStore(store.folder, autoencoder="c" * 64, spec=store.spec)
    assert other.missing(keys) == keys
    with pytest.raises(CheckpointError, match=r"made with autoencoder aaaaaaaaaaaa, but this run has .*cccc"):
        other.read("k0")
    assert LatentStore(store.folder, autoencoder=store.autoencoder, spec="d" * 64).missing(keys) == keys
    other.write("k0", torch.zeros(SHAPE), torch.ones(SHAPE))
    assert store.missing(["k0"]) == ["k0"]
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors is missing\. Run first: ldae latents"):
        store.read("nothing")


def test_statistics_against_the_closed_form(store: LatentStore) -> None:
    keys, means = fill(store, 9)
    train = means[:7].double()
    stats = store.compute_stats(keys[:7])
    mean = train.mean(0)
    channel_mean = train.mean((0, 2, 3, 4))
    expected = {
        "mean": mean,
        "channel_mean": channel_mean,
        "std": (train - mean).square().mean((0, 2, 3, 4)).sqrt(),
        "place_std": (train - mean).square().mean(0).sqrt(),
        "channel_std": (train - channel_mean[:, None, None, None]).square().mean((0, 2, 3, 4)).sqrt(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(stats, name), value.float(), msg=name)
    assert bool((stats.channel_std > 1.5 * stats.std).all())
    again = store.stats()
    for name in expected:
        assert torch.equal(getattr(again, name), getattr(stats, name))


def test_statistics_of_another_autoencoder_are_refused(store: LatentStore) -> None:
    with pytest.raises(FileNotFoundError, match=r"stats\.safetensors is missing"):
        store.stats()
    keys, _ = fill(store)
    store.compute_stats(keys)
    with safe_open(store.folder / "stats.safetensors", framework="pt") as stream:
        assert json.loads(stream.metadata()["made_with"]) == {"autoencoder": "a" * 64, "spec": "b" * 64}
    with pytest.raises(CheckpointError, match="made with spec bbbbbbbbbbbb"):
        LatentStore(store.folder, autoencoder="a" * 64, spec="e" * 64).stats()


def test_the_same_latents_are_the_same_bytes(store: LatentStore) -> None:
    """Later stages keep the hash of the statistics; several entries of metadata come in any order."""
    keys, _ = fill(store)
    written = set()
    for _ in range(8):
        store.compute_stats(keys)
        written.add((store.folder / "stats.safetensors").read_bytes())
    assert len(written) == 1


def test_impossible_statistics_and_latents(store: LatentStore) -> None:
    keys, means = fill(store)
    with pytest.raises(InputError, match="at least 2 training scans, got 1"):
        store.compute_stats(keys[:1])
    for key in keys:
        store.write(key, torch.ones(SHAPE), torch.ones(SHAPE))
    with pytest.raises(InputError, match="must vary from scan to scan"):
        store.compute_stats(keys)
    with pytest.raises(InputError, match=r"must both be \[C, h, w, d\]"):
        store.write("x", means[0], means)
    with pytest.raises(InputError, match="must be finite"):
        store.write("x", means[0] * torch.nan, means[0])
    with pytest.raises(InputError, match="got none"):
        store.load([])


def test_index_and_document(store: LatentStore) -> None:
    keys, _ = fill(store, 2)
    with pytest.raises(FileNotFoundError, match=r"index\.csv is missing"):
        store.index()
    frame = pd.DataFrame(
        {"subject": ["007", "8"], "session": ["1", "1"], "path": ["/a", "/b"], "split": ["train", "val"]}
    )
    store.write_index(frame.assign(key=keys, age=70.0), "h" * 64)
    index = store.index()
    assert list(index.columns) == ["subject", "session", "path", "split", "key"]
    assert index["subject"].tolist() == ["007", "8"]
    assert index["key"].tolist() == keys
    assert store.document() == {"autoencoder": "a" * 64, "spec": "b" * 64, "split": "h" * 64, "scans": 2}


def test_latents_of_unlike_shapes_are_refused(store: LatentStore) -> None:
    keys, _ = fill(store)
    store.write("other", torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1))
    with pytest.raises(CheckpointError, match=r"must all be \(3, 4, 5, 6\), got \(3, 1, 1, 1\).*other"):
        store.load([*keys, "other"])
