# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ldae.data import LabelledDataModule, VolumeDataModule
from ldae.data.augmentation import Augmentation, AugmentationConfig, Drawn
from ldae.errors import InputError

SPACING = (2.0, 2.0, 2.0)
GRID = {"spacing": (10.0, 10.0, 10.0), "size": (16, 24, 16)}


def changed(volume: Tensor, place: int = 0, *, epoch: int = 0, **amounts: float) -> Tensor:
    return Augmentation(AugmentationConfig(**amounts), spacing=SPACING, seed=3)(volume, Drawn(epoch, place))


def centre(volume: Tensor) -> Tensor:
    places = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in volume.shape[1:]), indexing="ij"))
    return (places * volume).flatten(1).sum(1) / volume.sum()


def test_left_and_right_are_exchanged() -> None:
    volume = torch.rand(1, 6, 8, 4)
    assert torch.equal(changed(volume, flip=1.0), volume.flip(1))
    assert torch.equal(changed(volume), volume)


def test_a_rotation_is_in_degrees_and_a_shift_in_mm() -> None:
    rod = torch.zeros(1, 33, 33, 33)
    rod[0, 15:18, 4:29, 15:18] = 1
    angles, shifts = [], []
    for place in range(20):
        turned = changed(rod, place, rotation=10.0)
        points = torch.nonzero(turned[0] > 0.5).double()
        axis = torch.linalg.svd(points - points.mean(0))[2][0]
        angles.append(math.degrees(math.acos(min(1.0, abs(float(axis[1]))))))
        shifts.append((centre(changed(rod, place, shift=6.0)) - 16).abs())
    # about the two axes across the rod: up to 10 degrees each, which add up to 14.1
    assert 5 < max(angles) < 14.5
    assert 2 < float(torch.stack(shifts).max()) <= 3 + 1e-3


def test_intensities_keep_their_range() -> None:
    volume = torch.linspace(0, 1, 64).reshape(1, 4, 4, 4)
    bent = changed(volume, contrast=0.5)
    gamma = math.log(float(bent.flatten()[32])) / math.log(float(volume.flatten()[32]))
    torch.testing.assert_close(bent, volume**gamma, rtol=0, atol=1e-5)
    assert 1 / 1.5 <= gamma <= 1.5
    noisy = changed(volume, noise=0.5)
    assert (float(noisy.min()), float(noisy.max())) == (0, 1)
    assert not torch.equal(noisy, volume)


def test_what_is_drawn_depends_on_epoch_and_scan_alone() -> None:
    volume = torch.rand(1, 8, 8, 8)
    kept = volume.clone()
    first = changed(volume, 4, epoch=2, rotation=20.0, noise=0.1)
    assert torch.equal(first, changed(volume, 4, epoch=2, rotation=20.0, noise=0.1))
    assert not torch.equal(first, changed(volume, 4, epoch=3, rotation=20.0, noise=0.1))
    assert not torch.equal(first, changed(volume, 5, epoch=2, rotation=20.0, noise=0.1))
    assert torch.equal(volume, kept)


@pytest.mark.parametrize(
    "amounts", [{"flip": 1.1}, {"rotation": -1.0}, {"scaling": 1.0}, {"noise": math.nan}]
)
def test_what_cannot_be_drawn_is_refused(amounts: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"augmentation.{next(iter(amounts))} must be from 0 to"):
        AugmentationConfig(**amounts)


def test_cached_training_scans_are_changed_and_no_others(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(tiny_run / "cache")
    config = AugmentationConfig(rotation=10.0, noise=0.05)

    def epoch(number: int, *, workers: int = 0, config: AugmentationConfig | None = config) -> list[Tensor]:
        data = VolumeDataModule(
            run_dir=str(tmp_path),
            cohort=str(tiny_run / "cohort" / "cohort.csv"),
            batch_size=4,
            num_workers=workers,
            augmentation=config,
            **GRID,
        )
        data.setup()
        for split in (data.val_dataloader, data.test_dataloader):
            for batch in split():
                for volume, place in zip(batch["volume"], batch["index"].tolist(), strict=True):
                    name = "val" if split == data.val_dataloader else "test"
                    assert torch.equal(volume, data.datasets[name][place]["volume"])
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        return [volume for batch in loader for volume in batch["volume"]]

    first, plain = epoch(0), epoch(0, config=None)
    assert all(np.array_equal(a, b) for a, b in zip(first, epoch(0, workers=2), strict=True))
    # the same scans in the same order, each changed
    for one, other in zip(first, plain, strict=True):
        assert not torch.equal(one, other)
        assert np.corrcoef(one.flatten(), other.flatten())[0, 1] > 0.7
    assert not torch.equal(first[0], epoch(1)[0])


def test_labels_stay(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").symlink_to(tiny_run / "cache")
    data = LabelledDataModule(
        target="diagnosis",
        run_dir=str(tmp_path),
        cohort=str(tiny_run / "cohort" / "cohort.csv"),
        batch_size=4,
        num_workers=0,
        augmentation=AugmentationConfig(flip=1.0),
        **GRID,
    )
    data.setup()
    known = {
        int(item["index"]): (item["volume"], item["label"])
        for item in map(data.datasets["train"].__getitem__, range(len(data.labels("train"))))
    }
    for batch in data.train_dataloader():
        for volume, label, place in zip(
            batch["volume"], batch["label"], batch["index"].tolist(), strict=True
        ):
            assert torch.equal(volume, known[place][0].flip(1))
            assert label == known[place][1]
