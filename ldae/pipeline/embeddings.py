# SPDX-License-Identifier: Apache-2.0
"""Semantic codes as a table, one row a scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ldae import __version__
from ldae.data.ahead import read_ahead
from ldae.data.cache import VolumeCache
from ldae.data.cohort import read_cohort
from ldae.data.embeddings import (
    code_array,
    code_columns,
    depth_array,
    is_code,
    read_embeddings,
    write_embeddings,
)
from ldae.data.nifti import SUFFIXES
from ldae.data.spec import PreprocessingSpec
from ldae.pipeline.derivatives import ScanName
from ldae.pipeline.networks import MOST_AT_ONCE
from ldae.pipeline.run_cohort import read_volumes

if TYPE_CHECKING:
    from ldae.pipeline.pipeline import LDAEPipeline

__all__ = [
    "as_cohort",
    "code_array",
    "code_columns",
    "depth_array",
    "embed_frame",
    "embed_scans",
    "first_columns",
    "is_code",
    "notes_of",
    "read_embeddings",
    "write_embeddings",
]

FIRST_COLUMNS = ("subject", "session", "split", "path", "diagnosis", "age")
ONLY_SESSION = "1"


def as_cohort(scans: pd.DataFrame | str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """A cohort as it is, or read from its table's path, or made up from the names of scans."""
    if isinstance(scans, pd.DataFrame):
        return scans
    if isinstance(scans, str | Path):
        return _of_paths([scans]) if str(scans).lower().endswith(SUFFIXES) else read_cohort(scans)
    return _of_paths(scans)


def _of_paths(paths: Sequence[str | Path]) -> pd.DataFrame:
    names = [ScanName.of(path) for path in paths]
    frame = pd.DataFrame(
        {
            "subject": [f"sub-{name.subject}" for name in names],
            "session": [f"ses-{name.session}" if name.session else ONLY_SESSION for name in names],
            "path": [str(Path(path).absolute()) for path in paths],
        },
        dtype="str",
    )
    return frame.assign(diagnosis=pd.Series([None] * len(frame), dtype="str"), age=np.nan)


def embed_frame(
    pipeline: LDAEPipeline,
    frame: pd.DataFrame,
    *,
    batch_size: int | None = None,
    cache: VolumeCache | None = None,
    progress: bool = False,
    depths: bool = False,
) -> pd.DataFrame:
    """The cohort's table with the semantic codes y_000 and on; arguments as for `LDAEPipeline.embed`."""
    parts = list(
        embed_scans(
            pipeline,
            list(frame["path"]),
            batch_size=batch_size,
            cache=cache,
            progress=progress,
            depths=depths,
        )
    )
    parts = parts or [_named([torch.empty(0, len(pipeline.statistics.mean))])]
    table = pd.concat([first_columns(frame), pd.concat(parts).set_axis(frame.index)], axis=1)
    table.attrs = notes_of(pipeline)
    return table


def embed_scans(
    pipeline: LDAEPipeline,
    paths: Sequence[str],
    *,
    batch_size: int | None = None,
    cache: VolumeCache | None = None,
    progress: bool = False,
    depths: bool = False,
) -> Iterator[pd.DataFrame]:
    """The columns of codes alone, some scans at a time; arguments as for `LDAEPipeline.embed`."""
    batches = [paths[start : start + MOST_AT_ONCE] for start in range(0, len(paths), MOST_AT_ONCE)]
    loaded = read_ahead(lambda batch: _volumes(pipeline.spec, batch, cache), batches)
    with tqdm(total=len(paths), desc="embed", disable=not progress) as bar:
        for volumes in loaded:
            if depths:
                parts = pipeline.networks.describe_depths(volumes, batch_size=batch_size)
            else:
                parts = [pipeline.networks.describe(volumes, batch_size=batch_size)]
            bar.update(len(volumes))  # before they are handed over: nobody may ask for more
            yield _named(parts)


def _named(parts: Sequence[Tensor]) -> pd.DataFrame:
    """The semantic code, and the encoder's depths after it, as columns y_000, e1_000 and so on."""
    prefixes = ["y", *(f"e{place}" for place in range(1, len(parts)))]
    names = [
        f"{prefix}_{place:03d}"
        for prefix, part in zip(prefixes, parts, strict=True)
        for place in range(part.shape[1])
    ]
    return pd.DataFrame(torch.cat(list(parts), dim=1).numpy(), columns=names)


def notes_of(pipeline: LDAEPipeline) -> dict[str, Any]:
    """What a table of codes tells of its pipeline."""
    return {
        "ldae_version": __version__,
        "pipeline": pipeline.sha256,
        "code_std": pipeline.statistics.std.tolist(),
    }


def first_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of every embeddings table first, then whatever else the cohort carries but codes."""
    if "split" not in frame.columns:
        frame = frame.assign(split=pd.Series([None] * len(frame), dtype="str", index=frame.index))
    rest = [name for name in frame.columns if name not in FIRST_COLUMNS and not is_code(name)]
    return frame[[*FIRST_COLUMNS, *rest]]


def _volumes(spec: PreprocessingSpec, paths: Sequence[str], cache: VolumeCache | None) -> Tensor:
    if cache is not None:
        return read_volumes(cache, paths)
    return torch.stack([spec.apply(path).data for path in paths])
