# SPDX-License-Identifier: Apache-2.0
"""Preprocessed volumes on disk: each scan is unzipped and resampled once, then memory-mapped."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ldae.data.ahead import read_ahead
from ldae.data.artefact import atomic_path, clear_partials, read_json, sha256_bytes, whole, write_json
from ldae.data.nifti import Geometry
from ldae.data.spec import Intensity, PreprocessingSpec
from ldae.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from ldae.data.scan import Scan

logger = logging.getLogger(__name__)


class VolumeCache:
    """Volumes of one preprocessing spec, float16 [X, Y, Z] in [0, 1].

    An entry is named by the scan's path without links, size, time of change (nanoseconds) and the spec's
    hash: a scan or spec that changes gets a new one. It is <key>.npy and, written before it, <key>.json with
    the source's geometry and intensity scale. Everything may be deleted at any time; `prepare` makes it anew.

    Args:
        folder: Where the entries lie; may be shared by several specs.
        spec: The preprocessing.
    """

    def __init__(self, folder: str | Path, spec: PreprocessingSpec) -> None:
        self.folder, self.spec = Path(folder), spec
        self._spec_sha256 = spec.sha256

    def key(self, path: str | Path) -> str:
        """Name of a scan's entry.

        Raises:
            FileNotFoundError: The scan does not exist.
        """
        name = os.path.realpath(path)
        try:
            state = os.stat(name)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"A scan must be a file, got {name}, which does not exist. Check the path."
            ) from error
        identity = f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0{self._spec_sha256}"
        return sha256_bytes(identity.encode("utf-8", "surrogateescape"))[:32]

    def __contains__(self, path: str | Path) -> bool:
        """Whether the scan, as it lies on disk now, has been preprocessed."""
        return os.path.exists(path) and self._array(self.key(path)).exists()

    def prepare(self, paths: Sequence[str | Path], *, progress: bool = False, jobs: int = 1) -> None:
        """Preprocess the scans that are not in the cache yet; an interrupted run goes on where it was.

        Args:
            paths: The scans.
            progress: Show a bar.
            jobs: Threads; unzipping and resampling run beside each other.

        Raises:
            InputError: Some scans cannot be read; all of them are named, and the others are in the cache.
        """
        present = {name.stem for name in self.folder.glob("*.npy")}
        missing = [path for path in dict.fromkeys(map(str, paths)) if not self._is_present(path, present)]
        if not missing:
            return
        clear_partials(self.folder)
        logger.info("Preprocessing %d of %d scans into %s", len(missing), len(paths), self.folder)
        # far ahead: no thread waits for a slow scan before it
        outcomes = read_ahead(self._attempt, missing, jobs=jobs, ahead=16 * jobs)
        faults = [
            fault
            for fault in tqdm(outcomes, total=len(missing), desc="preprocess", disable=not progress)
            if fault
        ]
        if faults:
            raise InputError(
                f"{len(faults)} of {len(paths)} scans cannot be preprocessed:\n" + "\n".join(faults)
            )

    def volume(self, path: str | Path) -> np.memmap[tuple[int, ...], np.dtype[np.float16]]:
        """The preprocessed voxels, memory-mapped read-only: float16 [X, Y, Z] in [0, 1].

        Raises:
            FileNotFoundError: The scan does not exist, or is not in the cache.
            CheckpointError: The entry is damaged.
        """
        entry = self._existing(path)
        try:
            array: np.memmap[tuple[int, ...], np.dtype[np.float16]] = np.load(
                entry, mmap_mode="r", allow_pickle=False
            )
        except (ValueError, EOFError, OSError) as error:
            raise _damaged(entry, str(error)) from error
        if array.dtype != np.float16 or array.shape != self.spec.size:
            raise _damaged(entry, f"it holds {array.dtype} {array.shape}")
        return array

    def source(self, path: str | Path) -> tuple[Geometry, Intensity]:
        """The grid of the scan's file, and how its intensities were scaled.

        Raises:
            FileNotFoundError: The scan does not exist, or is not in the cache.
        """
        note = self._existing(path).with_suffix(".json")
        with whole(note):
            document = read_json(note)
            return Geometry.from_dict(document["geometry"]), Intensity.from_dict(document["intensity"])

    def scan(self, path: str | Path) -> Scan:
        """The preprocessed scan with the way back to its source.

        Raises:
            FileNotFoundError: The scan does not exist, or is not in the cache.
        """
        import torch

        from ldae.data.scan import Scan

        geometry, intensity = self.source(path)
        note = self._existing(path).with_suffix(".json")
        with whole(note):
            affine = np.asarray(read_json(note)["affine"], dtype=np.float64)
        return Scan(
            data=torch.from_numpy(np.array(self.volume(path), dtype=np.float32))[None],
            affine=affine,
            spec=self.spec,
            geometry=geometry,
            intensity=intensity,
        )

    def _array(self, key: str) -> Path:
        return self.folder / f"{key}.npy"

    def _existing(self, path: str | Path) -> Path:
        array = self._array(self.key(path))
        if not array.exists():
            raise FileNotFoundError(
                f"{path} is not in the cache {self.folder}: preprocess it first, see `prepare`."
            )
        return array

    def _is_present(self, path: str, present: set[str]) -> bool:
        return os.path.exists(path) and self.key(path) in present

    def _attempt(self, path: str) -> str:
        """Preprocess one scan; the fault in words, or nothing."""
        try:
            self._write(path)
        except (InputError, FileNotFoundError) as error:
            return f"  {error}"
        return ""

    def _write(self, path: str) -> None:
        # The name is taken before reading: a file that changes meanwhile is found stale, not taken for new.
        array = self._array(self.key(path))
        found = self.spec.preprocess(path)
        write_json(
            array.with_suffix(".json"),
            {
                "affine": found.affine.tolist(),
                "geometry": found.geometry.to_dict(),
                "intensity": found.intensity.to_dict(),
                "spec": self.spec.to_dict(),
            },
        )
        with atomic_path(array) as temporary:
            np.save(temporary, found.voxels.astype(np.float16), allow_pickle=False)


@dataclass(frozen=True)
class CachedVolumes(Sequence[NDArray[np.float16]]):
    """Volumes of some scans [X, Y, Z], each mapped when it is asked for: a map keeps its file open.

    Attributes:
        cache: Where they lie.
        paths: The scans.
    """

    cache: VolumeCache
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: Any) -> Any:
        return self.cache.volume(self.paths[place])


def _damaged(entry: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{entry} must be a preprocessed volume, but reading it failed: {reason}. "
        "Delete the file and give the same command again."
    )
