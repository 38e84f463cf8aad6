# SPDX-License-Identifier: Apache-2.0
"""Scans, cohort tables, splits, preprocessing, caches and the latent store: the rooms that know files.

Names are loaded on first use, so that `import ldae.data` needs neither torch nor Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldae.data.cache import VolumeCache
    from ldae.data.code_data import CodeDataModule
    from ldae.data.cohort import CohortError, Fault, read_cohort, write_cohort
    from ldae.data.datamodule import LatentDataModule, VolumeDataModule
    from ldae.data.differences import Difference
    from ldae.data.labelled import LabelledDataModule
    from ldae.data.latents import LatentStats, LatentStore
    from ldae.data.nifti import Geometry
    from ldae.data.phantom import make_phantom
    from ldae.data.scan import DifferenceMap, Scan
    from ldae.data.spec import Intensity, PreprocessingSpec
    from ldae.data.split import check_split, freeze_split, split_hash, split_subjects

__all__ = [
    "CodeDataModule",
    "CohortError",
    "Difference",
    "DifferenceMap",
    "Fault",
    "Geometry",
    "Intensity",
    "LabelledDataModule",
    "LatentDataModule",
    "LatentStats",
    "LatentStore",
    "PreprocessingSpec",
    "Scan",
    "VolumeCache",
    "VolumeDataModule",
    "check_split",
    "freeze_split",
    "make_phantom",
    "read_cohort",
    "split_hash",
    "split_subjects",
    "write_cohort",
]

_MODULES = {
    "cache": ("VolumeCache",),
    "code_data": ("CodeDataModule",),
    "cohort": ("CohortError", "Fault", "read_cohort", "write_cohort"),
    "datamodule": ("LatentDataModule", "VolumeDataModule"),
    "differences": ("Difference",),
    "labelled": ("LabelledDataModule",),
    "latents": ("LatentStats", "LatentStore"),
    "nifti": ("Geometry",),
    "phantom": ("make_phantom",),
    "scan": ("DifferenceMap", "Scan"),
    "spec": ("Intensity", "PreprocessingSpec"),
    "split": ("check_split", "freeze_split", "split_hash", "split_subjects"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"ldae.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'ldae.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
