# SPDX-License-Identifier: Apache-2.0
"""What the stages read: cached volumes for stage 1, latents in memory (and volumes) for stages 2 and 3."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ldae.data.artefact import component_sha256, read_json, whole
from ldae.data.augmentation import Augmentation, AugmentationConfig, AugmentedDataset
from ldae.data.cache import VolumeCache
from ldae.data.cohort import read_cohort
from ldae.data.latents import LatentStore
from ldae.data.samplers import DrawSampler, EpochSampler, TurnSampler
from ldae.data.spec import PreprocessingSpec
from ldae.data.split import check_split, split_hash
from ldae.errors import InputError

Batch = dict[str, Tensor]
SHARED_BATCH = (
    "batch_size must be a multiple of the {ranks} processes that share it, got {size}. Give "
    "--data.init_args.batch_size another number."
)


class VolumeDataset(Dataset[Batch]):
    """Preprocessed scans {"volume": [1, X, Y, Z] float32 in [0, 1], "index"}, read from the cache."""

    def __init__(self, cache: VolumeCache, paths: Sequence[str]) -> None:
        self.cache, self.paths = cache, list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Batch:
        # torch widens float16 several times faster than numpy
        volume = torch.from_numpy(np.array(self.cache.volume(self.paths[index])))
        return {"volume": volume[None].float(), "index": torch.tensor(index)}


class LatentDataset(Dataset[Batch]):
    """Latents {"mean", "sigma": [C, h, w, d]} from memory, with the volume where `volumes` is given."""

    def __init__(self, mean: Tensor, sigma: Tensor, volumes: VolumeDataset | None = None) -> None:
        self.mean, self.sigma, self.volumes = mean, sigma, volumes

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, index: int) -> Batch:
        item = {"index": torch.tensor(index)} if self.volumes is None else self.volumes[index]
        return {"mean": self.mean[index], "sigma": self.sigma[index], **item}


class _CohortDataModule(LightningDataModule):
    """A cohort with a frozen split, its cache, and loaders over train, val and test.

    Where several processes train together, a batch is the one that they work on together: each takes an equal
    share of its scans, so that the same configuration learns the same on one device as on many.
    """

    spec: PreprocessingSpec
    split_hash: str
    frame: pd.DataFrame
    cache: VolumeCache
    augmentation: AugmentationConfig | None = None

    def __init__(
        self, *, run_dir: str, cohort: str | None, batch_size: int, num_workers: int, seed: int
    ) -> None:
        super().__init__()
        # all nodes share the run folder
        self.prepare_data_per_node = False
        self.run_dir = Path(run_dir)
        self.cohort = Path(cohort) if cohort else self.run_dir / "cohort" / "cohort.csv"
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.datasets: dict[str, Dataset[Batch]] = {}
        self._resumed = (0, 0)

    def state_dict(self) -> dict[str, int]:
        """The epoch that a training goes on with, and how many of its scans have been seen."""
        trainer: Any = self.trainer
        loop = trainer.fit_loop
        epoch = loop.epoch_progress.current
        batches = loop.epoch_loop.batch_progress.current.completed if epoch.started > epoch.processed else 0
        return {"epoch": epoch.processed, "seen": batches * self.batch_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self._resumed = state_dict["epoch"], state_dict["seen"]

    def prepare_data(self) -> None:
        """Fill the cache in the first of several processes, before the others look; faults are said once."""
        if self._place[1] > 1:
            self.setup("fit")

    @property
    def _place(self) -> tuple[int, int]:
        """This process's rank and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _read(self) -> None:
        ranks = self._place[1]
        if self.batch_size % ranks:
            raise InputError(SHARED_BATCH.format(ranks=ranks, size=self.batch_size))
        self.cache = VolumeCache(self.run_dir / "cache", self.spec)
        self.frame = read_cohort(self.cohort, check="voxels", trusted=lambda path: str(path) in self.cache)
        check_split(self.frame)
        self.split_hash = split_hash(self.frame)

    def _prepare(self) -> None:
        self.cache.prepare(list(self.frame["path"]))

    def rows(self, split: str) -> pd.DataFrame:
        """Rows of one split; the index is the place in the cohort.

        Raises:
            InputError: The split has no scan.
        """
        rows = self.frame[self.frame["split"] == split]
        if rows.empty:
            raise InputError(
                f"split {split!r} of {self.cohort} must hold scans, got none. Check its split column."
            )
        if len(rows) < self._place[1]:
            raise InputError(
                f"split {split!r} of {self.cohort} must hold a scan for each of {self._place[1]} processes, "
                f"got {len(rows)}. Use fewer devices."
            )
        return rows

    def _loader(self, split: str, *, shuffle: bool) -> DataLoader[Batch]:
        dataset = self.datasets[split]
        size = len(dataset)  # type: ignore[arg-type]
        if shuffle and size < self.batch_size:
            raise InputError(
                f"batch_size must be at most the {size} {split} scans of {self.cohort}, "
                f"got {self.batch_size}."
            )
        rank, ranks = self._place
        sampler: EpochSampler | TurnSampler | None
        if shuffle:
            kind = EpochSampler
            if self.augmentation is not None:
                changed = Augmentation(self.augmentation, spacing=self.spec.spacing, seed=self.seed)
                dataset, kind = AugmentedDataset(dataset, changed), DrawSampler
            sampler = kind(size, seed=self.seed, rank=rank, ranks=ranks)
            # workers are made before Lightning tells the sampler the epoch that a resumed run begins with
            sampler.go_on(*self._resumed)
        else:
            sampler = TurnSampler(size, rank=rank, ranks=ranks) if ranks > 1 else None
        return DataLoader(
            dataset,
            batch_size=self.batch_size // ranks,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_leave_interrupts if self.num_workers else None,
            pin_memory=torch.cuda.is_available(),
            drop_last=shuffle,
            # every new iterator draws a seed for workers: not from the stream of the training noise, since a
            # resumed run makes its first iterator earlier than one that goes on
            generator=torch.Generator().manual_seed(self.seed),
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches; the last, smaller one is left out."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation batches in the order of the cohort."""
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test batches in the order of the cohort."""
        return self._loader("test", shuffle=False)


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C reaches loader processes too, but the training needs them until it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class VolumeDataModule(_CohortDataModule):
    """Stage 1: preprocessed volumes.

    Args:
        run_dir: Folder of the run.
        cohort: Cohort CSV or BIDS folder; None takes cohort/cohort.csv of the run.
        spacing: Voxel size of the preprocessing spec, mm.
        size: Volume size of the preprocessing spec, voxels.
        batch_size: Scans in a batch, over all processes.
        num_workers: Loader processes; 0 loads in the training process.
        seed: Seed of the order, and of what is changed.
        augmentation: How training scans are changed at random; None leaves them as they are.
    """

    def __init__(
        self,
        *,
        run_dir: str = "outputs/run",
        cohort: str | None = None,
        spacing: tuple[float, float, float] = (1.5, 1.5, 1.5),
        size: tuple[int, int, int] = (128, 160, 128),
        batch_size: int = 1,
        num_workers: int = 4,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
    ) -> None:
        super().__init__(
            run_dir=run_dir, cohort=cohort, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.spec = PreprocessingSpec(spacing=spacing, size=size)
        self.augmentation = augmentation

    def setup(self, stage: str | None = None) -> None:
        """Read the cohort and fill the cache."""
        if self.datasets:
            return
        self._read()
        self._prepare()
        for split in ("train", "val", "test"):
            self.datasets[split] = VolumeDataset(self.cache, list(self.rows(split)["path"]))


class LatentDataModule(_CohortDataModule):
    """Stages 2 and 3: latents of the trained autoencoder, and the volumes where they are wanted.

    The preprocessing spec is the autoencoder's.

    Args:
        run_dir: Folder of the run.
        cohort: Cohort CSV or BIDS folder; None takes cohort/cohort.csv of the run.
        volumes: Whether each batch also holds the volumes, which stage 3 reads.
        batch_size: Scans in a batch, over all processes.
        num_workers: Loader processes; 0 loads in the training process.
        seed: Seed of the order.
    """

    def __init__(
        self,
        *,
        run_dir: str = "outputs/run",
        cohort: str | None = None,
        volumes: bool = False,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            run_dir=run_dir, cohort=cohort, batch_size=batch_size, num_workers=num_workers, seed=seed
        )
        self.volumes = volumes

    def setup(self, stage: str | None = None) -> None:
        """Read the cohort and the latents, which `ldae latents` has made."""
        if self.datasets:
            return
        folder = self.run_dir / "autoencoder"
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"{folder} is missing: this stage works on the autoencoder's latents. Run first: "
                "ldae fit --config aekl.yaml"
            )
        with whole(folder / "config.json"):
            self.spec = PreprocessingSpec.from_dict(read_json(folder / "config.json")["spec"])
        self._read()
        self._prepare()
        self.store = LatentStore(
            self.run_dir / "latents", autoencoder=component_sha256(folder), spec=self.spec.sha256
        )
        for split in ("train", "val", "test"):
            self.datasets[split] = self._latents(list(self.rows(split)["path"]))

    def _latents(self, paths: list[str]) -> LatentDataset:
        keys = [self.cache.key(path) for path in paths]
        missing = self.store.missing(keys)
        if missing:
            raise InputError(
                f"latents of {len(missing)} of {len(keys)} scans are missing or stale in "
                f"{self.store.folder}. Run first: ldae latents --run-dir {self.run_dir} "
                f"--cohort {self.cohort}"
            )
        mean, sigma = self.store.load(keys)
        return LatentDataset(mean, sigma, VolumeDataset(self.cache, paths) if self.volumes else None)

    def statistics(self) -> Any:
        """Mean and standard deviation of the training latents, as the store measured them."""
        return self.store.stats()
