# SPDX-License-Identifier: Apache-2.0
"""What the code sampler's stage reads: the semantic codes of a run's embeddings table, with their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ldae.data.artefact import (
    CONFIG_NAME,
    NETWORKS,
    component_sha256,
    pipeline_sha256,
    read_json,
    sha256_file,
)
from ldae.data.datamodule import SHARED_BATCH, Batch
from ldae.data.embeddings import check_embeddings, code_columns, read_embeddings
from ldae.data.samplers import EpochSampler, TurnSampler
from ldae.data.spec import PreprocessingSpec
from ldae.data.split import check_split
from ldae.errors import InputError

EMBEDDINGS = "embeddings.parquet"
TRAINED, VALIDATED, TESTED = "train", "val", "test"


class CodeDataset(Dataset[Batch]):
    """Codes {"code": [D] float32, "label": 0 for unknown, else 1 and on} from memory."""

    def __init__(self, codes: Tensor, labels: Tensor) -> None:
        self.codes, self.labels = codes, labels

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> Batch:
        return {"code": self.codes[index], "label": self.labels[index]}


class CodeDataModule(LightningDataModule):
    """Semantic codes of the training and validation scans.

    Attributes:
        classes: Classes of the training scans by name; the label of the first is 1.
        spec: Preprocessing of the scans.
        split_hash: Hash of their split.
        embeddings_sha256: Hash of the embeddings file.

    Args:
        run_dir: Folder of the run, with its embeddings.parquet.
        condition: Column whose classes can be asked for, or None; scans without a value take part.
        batch_size: Codes in a batch, over all processes.
        seed: Seed of the order.
    """

    classes: tuple[str, ...]
    spec: PreprocessingSpec
    split_hash: str
    embeddings_sha256: str

    def __init__(
        self,
        *,
        run_dir: str = "outputs/run",
        condition: str | None = "diagnosis",
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.run_dir = Path(run_dir)
        self.condition, self.batch_size, self.seed = condition, batch_size, seed
        self.datasets: dict[str, CodeDataset] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read the embeddings, which `ldae embed` has made, and check that they are of this run."""
        splits = (TRAINED, VALIDATED, *((TESTED,) if stage == TESTED else ()))
        if self.datasets.keys() >= set(splits):
            return
        path = self.run_dir / EMBEDDINGS
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: the code sampler learns from embeddings. Run first: "
                f"ldae embed --pipeline {self.run_dir / 'pipeline'} --cohort CSV --out {self.run_dir}"
            )
        frame = read_embeddings(path)
        self._check(frame)
        self.embeddings_sha256 = sha256_file(path)
        self.split_hash = frame.attrs["split"]
        self.spec = PreprocessingSpec.from_dict(
            read_json(self.run_dir / "representation" / CONFIG_NAME)["spec"]
        )
        self.classes = self._classes(frame, path)
        for split in splits:
            self.datasets[split] = self._dataset(frame[frame["split"] == split], split=split, path=path)

    def _check(self, frame: pd.DataFrame) -> None:
        check_split(frame)
        own = pipeline_sha256({kind: component_sha256(self.run_dir / kind) for kind in NETWORKS})
        check_embeddings(frame, pipeline=own, folder=self.run_dir)

    def _classes(self, frame: pd.DataFrame, path: Path) -> tuple[str, ...]:
        if self.condition is None:
            return ()
        if self.condition not in frame.columns:
            raise InputError(f"condition must be a column of {path}, got {self.condition!r}. Or set: null.")
        known = frame.loc[frame["split"] == TRAINED, self.condition].dropna()
        return tuple(sorted({str(value) for value in known}))

    def _dataset(self, rows: pd.DataFrame, *, split: str, path: Path) -> CodeDataset:
        if rows.empty:
            raise InputError(f"{path} must hold scans of split {split}, got none. Embed the whole cohort.")
        number = {name: place for place, name in enumerate(self.classes, start=1)}
        values = [None] * len(rows) if self.condition is None else rows[self.condition].tolist()
        labels = [number.get(str(value), 0) for value in values]
        codes = rows[code_columns(rows)].to_numpy(dtype=np.float32)
        return CodeDataset(torch.tensor(codes), torch.tensor(labels, dtype=torch.long))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches; a smaller last one is left out."""
        dataset = self.datasets[TRAINED]
        trainer = self.trainer
        rank, ranks = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        if self.batch_size % ranks:
            raise InputError(SHARED_BATCH.format(ranks=ranks, size=self.batch_size))
        sampler = EpochSampler(len(dataset), seed=self.seed, rank=rank, ranks=ranks)
        if trainer is not None:
            progress: Any = trainer.fit_loop.epoch_progress.current
            sampler.epoch = progress.processed
        size = min(self.batch_size // ranks, len(sampler))
        return DataLoader(dataset, batch_size=size, sampler=sampler, drop_last=True, generator=self._quiet())

    def val_dataloader(self) -> DataLoader[Batch]:
        """All validation codes."""
        return self._whole(VALIDATED)

    def test_dataloader(self) -> DataLoader[Batch]:
        """All test codes."""
        return self._whole(TESTED)

    def _whole(self, split: str) -> DataLoader[Batch]:
        dataset = self.datasets[split]
        # each of several processes judges all: they are few, and the best weights must be the same to all
        sampler = TurnSampler(len(dataset), rank=0, ranks=1)
        return DataLoader(dataset, batch_size=len(dataset), sampler=sampler, generator=self._quiet())

    def _quiet(self) -> torch.Generator:
        """Seeds for workers, drawn from elsewhere than the stream of the training noise."""
        return torch.Generator().manual_seed(self.seed)
