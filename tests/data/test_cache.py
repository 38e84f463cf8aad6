# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ldae.data.ahead import read_ahead
from ldae.data.cache import CachedVolumes, VolumeCache
from ldae.data.spec import PreprocessingSpec
from ldae.errors import InputError

SPEC = PreprocessingSpec(spacing=(5, 5, 5), size=(24, 28, 24))
Blob = Callable[..., Path]


def test_volume_and_scan_are_those_of_the_spec(blob: Blob, tmp_path: Path) -> None:
    path = blob(affine=np.diag([-4.0, 4.0, 4.0, 1.0]))
    cache = VolumeCache(tmp_path / "cache", SPEC)
    assert path not in cache
    cache.prepare([str(path)])
    assert path in cache
    assert str(path) in cache
    expected = SPEC.apply(path)
    volume = cache.volume(path)
    assert isinstance(volume, np.memmap)
    assert volume.dtype == np.float16
    np.testing.assert_array_equal(volume, expected.data[0].numpy().astype(np.float16))
    scan = cache.scan(path)
    np.testing.assert_allclose(scan.data.numpy(), expected.data.numpy(), atol=5e-4)
    np.testing.assert_array_equal(scan.affine, expected.affine)
    assert scan.intensity == expected.intensity
    assert scan.geometry is not None
    assert expected.geometry is not None
    assert scan.geometry.header == expected.geometry.header
    result = nib.load(scan.save(tmp_path / "out.nii.gz"))
    np.testing.assert_allclose(result.affine, nib.load(path).affine, atol=1e-4)


def test_nothing_is_read_twice_and_changes_are_seen(blob: Blob, tmp_path: Path) -> None:
    path = blob()
    cache = VolumeCache(tmp_path / "cache", SPEC)
    cache.prepare([path, path])
    (entry,) = (tmp_path / "cache").glob("*.npy")
    before = entry.stat().st_mtime_ns
    cache.prepare([path])
    assert entry.stat().st_mtime_ns == before
    key = cache.key(path)
    os.utime(path, ns=(1, 1))
    assert path not in cache
    assert cache.key(path) != key
    other = VolumeCache(tmp_path / "cache", PreprocessingSpec(spacing=(6, 6, 6), size=(24, 28, 24)))
    assert other.key(path) != cache.key(path)


def test_relative_and_absolute_names_are_one_scan(
    blob: Blob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = blob()
    cache = VolumeCache(tmp_path / "cache", SPEC)
    monkeypatch.chdir(tmp_path)
    assert cache.key("scan.nii.gz") == cache.key(path)


def test_all_faulty_scans_are_named_and_the_others_kept(blob: Blob, tmp_path: Path) -> None:
    good, bad = blob("good.nii.gz"), blob("bad.nii.gz")
    bad.write_bytes(bad.read_bytes()[:100])
    cache = VolumeCache(tmp_path / "cache", SPEC)
    with pytest.raises(InputError, match=r"2 of 3 scans cannot be preprocessed") as caught:
        cache.prepare([str(bad), str(good), str(tmp_path / "none.nii")], jobs=2)
    assert "bad.nii.gz" in str(caught.value)
    assert "none.nii" in str(caught.value)
    assert good in cache
    assert bad not in cache


def test_scans_that_are_not_there(blob: Blob, tmp_path: Path) -> None:
    cache = VolumeCache(tmp_path / "cache", SPEC)
    assert tmp_path / "none.nii" not in cache
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        cache.volume(tmp_path / "none.nii")
    with pytest.raises(FileNotFoundError, match="is not in the cache"):
        cache.volume(blob())


def test_a_torn_run_leaves_nothing_that_counts(
    blob: Blob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The voxels come last: an entry whose writing was interrupted is not there."""
    path = blob()
    cache = VolumeCache(tmp_path / "cache", SPEC)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cache.prepare([path])
    assert path not in cache
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".json"]
    cache.prepare([path])
    assert path in cache


@pytest.mark.slow
def test_a_full_cache_is_checked_at_once(blob: Blob, tmp_path: Path) -> None:
    """1,400 scans: the second time costs less than a tenth of the first."""
    content = blob().read_bytes()
    paths = []
    for number in range(1400):
        path = tmp_path / f"{number}.nii.gz"
        path.write_bytes(content)
        paths.append(str(path))
    cache = VolumeCache(tmp_path / "cache", SPEC)
    seconds = []
    for _ in range(2):
        started = time.process_time()
        cache.prepare(paths)
        seconds.append(time.process_time() - started)
    assert seconds[1] < 0.1 * seconds[0]


def test_volumes_are_open_only_while_they_are_looked_at(blob: Blob, tmp_path: Path) -> None:
    paths = [str(blob(f"{number}.nii.gz")) for number in range(20)]
    cache = VolumeCache(tmp_path / "cache", SPEC)
    cache.prepare(paths)
    volumes = CachedVolumes(cache, paths)
    before = len(os.listdir("/proc/self/fd"))
    most = 0
    for place, volume in enumerate(volumes):
        np.testing.assert_array_equal(volume, cache.volume(paths[place]))
        most = max(most, len(os.listdir("/proc/self/fd")))
    assert len(volumes) == 20
    assert most - before <= 4


def test_reading_ahead_is_bounded_and_in_order() -> None:
    begun: list[int] = []
    found = read_ahead(lambda item: begun.append(item) or item * item, range(50), jobs=3, ahead=5)
    for place, square in enumerate(found):
        assert square == place * place
        assert len(begun) <= place + 1 + 5
    assert sorted(begun) == list(range(50))
    assert list(read_ahead(str, [], jobs=2)) == []
