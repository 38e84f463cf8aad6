# SPDX-License-Identifier: Apache-2.0
"""The latent store: posterior mean and sigma of every scan, and the statistics of the training latents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ldae.data.artefact import atomic_path, read_json, whole, write_json
from ldae.errors import CheckpointError, InputError

if TYPE_CHECKING:
    import pandas as pd

METADATA_KEY = "made_with"
INDEX_COLUMNS = ("subject", "session", "path", "split", "key")


@dataclass(frozen=True)
class LatentStats:
    """Mean and standard deviation of the training scans' posterior means, float32.

    Attributes:
        mean: Per-voxel mean over scans, [C, h, w, d].
        channel_mean: Mean of each channel over scans and voxels, [C].
        place_std: Standard deviation at each voxel over scans, [C, h, w, d].
        std: Standard deviation of each channel after the per-voxel mean is removed, [C].
        channel_std: Standard deviation of each channel after the channel mean is removed (the published
            form), [C].
    """

    mean: Tensor
    channel_mean: Tensor
    place_std: Tensor
    std: Tensor
    channel_std: Tensor


class LatentStore:
    """Latents of one autoencoder and one preprocessing spec, a file a scan.

    Holds <key>.safetensors (mean and sigma, float32 [C, h, w, d]), index.csv (subject, session, path, split,
    key), stats.safetensors and store.json (hashes of spec, autoencoder and split). Every file names the
    autoencoder and the spec that it was made with; files of others, and torn ones, count as missing and are
    replaced.

    Args:
        folder: Where the store lies.
        autoencoder: sha256 of the autoencoder.
        spec: sha256 of the preprocessing spec.
    """

    def __init__(self, folder: str | Path, *, autoencoder: str, spec: str) -> None:
        self.folder, self.autoencoder, self.spec = Path(folder), autoencoder, spec

    @classmethod
    def of(cls, folder: str | Path) -> LatentStore:
        """The store in a folder, of whatever autoencoder and spec its index was written for.

        Raises:
            FileNotFoundError: There is none yet.
        """
        document = cls(folder, autoencoder="", spec="").document()
        return cls(folder, autoencoder=document["autoencoder"], spec=document["spec"])

    def missing(self, keys: Sequence[str]) -> list[str]:
        """The keys whose latents are absent, torn, or made with another autoencoder or spec."""
        return [key for key in dict.fromkeys(keys) if not self._is_current(self._file(key))]

    def write(self, key: str, mean: Tensor, sigma: Tensor) -> None:
        """Store the posterior of one scan, both [C, h, w, d].

        Raises:
            InputError: The two do not have the same four axes, or are not finite.
        """
        if mean.dim() != 4 or mean.shape != sigma.shape:
            raise InputError(
                f"mean and sigma must both be [C, h, w, d], got {tuple(mean.shape)} and {tuple(sigma.shape)} "
                f"for {key}."
            )
        if not (torch.isfinite(mean).all() and torch.isfinite(sigma).all()):
            raise InputError(
                f"Latents must be finite, got NaN or infinite values for {key}. Check the autoencoder."
            )
        self._save(self._file(key), {"mean": mean, "sigma": sigma})

    def read(self, key: str) -> tuple[Tensor, Tensor]:
        """Posterior mean and sigma of one scan, float32 [C, h, w, d].

        Raises:
            FileNotFoundError: They are not in the store.
            CheckpointError: They are damaged, or belong to another autoencoder or spec.
        """
        tensors = self._load(self._file(key))
        return tensors["mean"], tensors["sigma"]

    def load(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Posterior means and sigmas of many scans, float32 [N, C, h, w, d], in memory.

        Raises:
            InputError: There are no keys.
            FileNotFoundError: Some are not in the store.
            CheckpointError: Some are damaged, belong to another autoencoder or spec, or have another shape.
        """
        if not keys:
            raise InputError(f"At least one scan's latents must be asked for, got none from {self.folder}.")
        shape = self.read(keys[0])[0].shape
        means, sigmas = (torch.empty(len(keys), *shape, dtype=torch.float32) for _ in range(2))
        for place, key in enumerate(keys):
            # one by one into their places: a list of them to be stacked would take the room twice
            mean, sigma = self.read(key)
            if not mean.shape == sigma.shape == shape:
                raise CheckpointError(
                    f"Latents of one autoencoder must all be {tuple(shape)}, got {tuple(mean.shape)} and "
                    f"{tuple(sigma.shape)} in {self._file(key)}. Run again: ldae latents --overwrite"
                )
            means[place], sigmas[place] = mean, sigma
        return means, sigmas

    def write_index(self, frame: pd.DataFrame, split: str) -> None:
        """Write index.csv and store.json.

        Args:
            frame: One row a scan with subject, session, path, split and key.
            split: Hash of the split.
        """
        with atomic_path(self.folder / "index.csv") as temporary:
            frame[list(INDEX_COLUMNS)].to_csv(temporary, index=False)
        write_json(self.folder / "store.json", {**self._parents, "split": split, "scans": len(frame)})

    def index(self) -> pd.DataFrame:
        """The index, all columns text.

        Raises:
            FileNotFoundError: There is none yet.
            CheckpointError: It is damaged.
        """
        import pandas as pd

        path = self.folder / "index.csv"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Run first: ldae latents")
        with whole(path):
            return pd.read_csv(path, dtype=str, keep_default_na=False)[list(INDEX_COLUMNS)]

    def document(self) -> dict[str, Any]:
        """store.json: the hashes of spec, autoencoder and split that the index was written for.

        Raises:
            FileNotFoundError: There is none yet.
            CheckpointError: It is damaged.
        """
        path = self.folder / "store.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Run first: ldae latents")
        with whole(path):
            document = read_json(path)
            return {**document, **{name: str(document[name]) for name in ("autoencoder", "spec", "split")}}

    def compute_stats(self, train_keys: Sequence[str]) -> LatentStats:
        """Measure mean and standard deviation over the training scans, in float64, and write them.

        Raises:
            InputError: Fewer than two scans, or a channel that never varies.
        """
        if len(train_keys) < 2:
            raise InputError(
                f"Latent statistics must come from at least 2 training scans, got {len(train_keys)}."
            )
        mean = sum(self._means(train_keys), start=torch.zeros(1, dtype=torch.float64)) / len(train_keys)
        channel_mean = mean.mean(dim=(1, 2, 3))
        place_variance, channel_variance = torch.zeros_like(mean), torch.zeros_like(channel_mean)
        for value in self._means(train_keys):
            place_variance += (value - mean).square() / len(train_keys)
            offset = value - channel_mean[:, None, None, None]
            channel_variance += offset.square().mean(dim=(1, 2, 3)) / len(train_keys)
        variance = place_variance.mean(dim=(1, 2, 3))
        if not bool((variance > 0).all()):
            raise InputError(
                f"Latents must vary from scan to scan, got a constant channel in {self.folder}. "
                "Train the autoencoder longer."
            )
        stats = LatentStats(
            mean=mean.float(),
            channel_mean=channel_mean.float(),
            place_std=place_variance.sqrt().float(),
            std=variance.sqrt().float(),
            channel_std=channel_variance.sqrt().float(),
        )
        self._save(self.folder / "stats.safetensors", asdict(stats))
        return stats

    def stats(self) -> LatentStats:
        """The statistics that `compute_stats` wrote.

        Raises:
            FileNotFoundError: There are none yet.
            CheckpointError: They are damaged, or belong to another autoencoder or spec.
        """
        return LatentStats(**self._load(self.folder / "stats.safetensors"))

    @property
    def _parents(self) -> dict[str, str]:
        return {"autoencoder": self.autoencoder, "spec": self.spec}

    @property
    def _metadata(self) -> dict[str, str]:
        """One entry, since several are written in an order of their own each time."""
        return {METADATA_KEY: json.dumps(self._parents, sort_keys=True)}

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _means(self, keys: Sequence[str]) -> Iterator[Tensor]:
        return (self.read(key)[0].double() for key in keys)

    def _save(self, path: Path, tensors: dict[str, Tensor]) -> None:
        content = {name: value.detach().cpu().float().contiguous().clone() for name, value in tensors.items()}
        with atomic_path(path) as temporary:
            save_file(content, temporary, metadata=self._metadata)

    def _is_current(self, path: Path) -> bool:
        try:
            with safe_open(path, framework="pt") as stream:
                return (stream.metadata() or {}) == self._metadata
        except (SafetensorError, OSError):
            return False

    def _load(self, path: Path) -> dict[str, Tensor]:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Run first: ldae latents")
        try:
            with safe_open(path, framework="pt") as stream:
                noted = stream.metadata() or {}
            tensors: dict[str, Tensor] = load_file(path)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} must be a safetensors file: {error}. Run again: ldae latents"
            ) from error
        with whole(path):
            found = dict(json.loads(noted.get(METADATA_KEY, "{}")))
        for parent, sha256 in self._parents.items():
            if found.get(parent) != sha256:
                other = str(found.get(parent, "unknown"))[:12]
                raise CheckpointError(
                    f"{path} was made with {parent} {other}, but this run has {parent} {sha256[:12]}. Run "
                    "again: ldae latents"
                )
        return tensors
