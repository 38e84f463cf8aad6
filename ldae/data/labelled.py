# SPDX-License-Identifier: Apache-2.0
"""Preprocessed volumes with the class or number that a network learns to predict from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ldae.data.artefact import read_json, whole
from ldae.data.augmentation import AugmentationConfig
from ldae.data.datamodule import Batch, VolumeDataModule, VolumeDataset
from ldae.data.spec import PreprocessingSpec
from ldae.data.target import is_number, labelled_rows
from ldae.errors import CheckpointError, InputError

USED = ("train", "val", "test")


class LabelledDataset(Dataset[Batch]):
    """Scans {"volume": [1, X, Y, Z], "label", "index"}: a label is the number of a class, or a number."""

    def __init__(self, volumes: VolumeDataset, labels: Tensor) -> None:
        self.volumes, self.labels = volumes, labels

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> Batch:
        return {**self.volumes[index], "label": self.labels[index]}


class LabelledDataModule(VolumeDataModule):
    """Supervised training: preprocessed volumes of the scans whose target is known.

    Cache and split are those of the run; where it holds an autoencoder, so must the preprocessing be.

    Args:
        target: Column to predict: classes, or numbers.
        classes: Classes to tell apart, scans of others are left out. None takes CN and AD of a diagnosis, and
            every class of another column.
        run_dir: Folder of the run.
        cohort: Cohort CSV or BIDS folder; None takes cohort/cohort.csv of the run.
        spacing: Voxel size of the preprocessing spec, mm.
        size: Volume size of the preprocessing spec, voxels.
        batch_size: Scans in a batch.
        num_workers: Loader processes; 0 loads in the training process.
        seed: Seed of the order, and of what is changed.
        augmentation: How training scans are changed at random; None leaves them as they are.
    """

    classes: list[Any]

    def __init__(
        self,
        *,
        target: str,
        classes: Sequence[str] | None = None,
        run_dir: str = "outputs/run",
        cohort: str | None = None,
        spacing: tuple[float, float, float] = (1.5, 1.5, 1.5),
        size: tuple[int, int, int] = (128, 160, 128),
        batch_size: int = 8,
        num_workers: int = 4,
        seed: int = 0,
        augmentation: AugmentationConfig | None = None,
    ) -> None:
        super().__init__(
            run_dir=run_dir,
            cohort=cohort,
            spacing=spacing,
            size=size,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            augmentation=augmentation,
        )
        self.target, self.wanted = target, classes

    def setup(self, stage: str | None = None) -> None:
        """Read the cohort, choose the scans and fill the cache with them.

        Raises:
            InputError: The target is no column, a class has no scan in a split, or the run's autoencoder has
                another preprocessing spec.
            CheckpointError: It was trained on another split.
        """
        if self.datasets:
            return
        self._read()
        self._check_autoencoder()
        rows = labelled_rows(self.frame, target=self.target, classes=self.wanted, splits=USED)
        self.frame = rows.reset_index(drop=True)
        self.classes = [] if self.numeric else sorted(set(rows[self.target].tolist()))
        self._prepare()
        for split in USED:
            part = self.rows(split)
            volumes = VolumeDataset(self.cache, list(part["path"]))
            self.datasets[split] = LabelledDataset(volumes, self._labels(part[self.target]))

    @property
    def numeric(self) -> bool:
        """Whether the target is a column of numbers."""
        return is_number(self.frame[self.target])

    def labels(self, split: str) -> Tensor:
        """Labels of a split's scans [N]."""
        dataset = self.datasets[split]
        assert isinstance(dataset, LabelledDataset)
        return dataset.labels

    def _labels(self, values: pd.Series[Any]) -> Tensor:
        if self.numeric:
            return torch.tensor(values.to_numpy(dtype="float32"))
        return torch.tensor([self.classes.index(value) for value in values.tolist()])

    def _check_autoencoder(self) -> None:
        """Networks of one run are compared with each other, so they must see the same scans."""
        path = self.run_dir / "autoencoder" / "config.json"
        if not path.is_file():
            return
        with whole(path):
            document = read_json(path)
            spec, split = PreprocessingSpec.from_dict(document["spec"]), str(document["split"])
        if spec.sha256 != self.spec.sha256:
            raise InputError(
                f"spacing and size must be those of {path.parent}, {list(spec.spacing)} and "
                f"{list(spec.size)}, got {list(self.spec.spacing)} and {list(self.spec.size)}. Set "
                "data.init_args.spacing and size, or use another run_dir."
            )
        if split != self.split_hash:
            raise CheckpointError(
                f"{path.parent} was trained on split {split[:12]}, but {self.cohort} has "
                f"split {self.split_hash[:12]}. Use one split for a whole run, or another run_dir."
            )
