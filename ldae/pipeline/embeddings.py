# SPDX-License-Identifier: Apache-2.0
"""Semantic codes as a table, one row a scan, and the file that holds it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from ldae import __version__
from ldae.data.ahead import read_ahead
from ldae.data.artefact import clear_partials, sha256_json
from ldae.data.cache import VolumeCache
from ldae.data.cohort import read_cohort
from ldae.data.embeddings import (
    code_array,
    code_columns,
    depth_array,
    is_code,
    read_embeddings,
    read_notes,
    write_embeddings,
)
from ldae.data.nifti import SUFFIXES
from ldae.data.shard import Shard
from ldae.data.spec import PreprocessingSpec
from ldae.data.split import SPLITS, check_split, split_hash
from ldae.errors import CheckpointError, InputError
from ldae.pipeline.derivatives import ScanName
from ldae.pipeline.folder import read_index
from ldae.pipeline.networks import MOST_AT_ONCE
from ldae.pipeline.run_cohort import read_volumes

if TYPE_CHECKING:
    from ldae.pipeline.pipeline import LDAEPipeline

logger = logging.getLogger(__name__)

__all__ = [
    "as_cohort",
    "code_array",
    "code_columns",
    "depth_array",
    "embed_cohort",
    "embed_frame",
    "is_code",
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
    codes: list[list[Tensor]] = []
    paths = list(frame["path"])
    with tqdm(total=len(paths), desc="embed", disable=not progress) as bar:
        batches = [paths[start : start + MOST_AT_ONCE] for start in range(0, len(paths), MOST_AT_ONCE)]
        loaded = read_ahead(lambda batch: _volumes(pipeline.spec, batch, cache), batches)
        for batch, volumes in zip(batches, loaded, strict=True):
            if depths:
                codes.append(pipeline.networks.describe_depths(volumes, batch_size=batch_size))
            else:
                codes.append([pipeline.networks.describe(volumes, batch_size=batch_size)])
            bar.update(len(batch))
    parts = [torch.cat(part) for part in zip(*codes, strict=True)]
    parts = parts or [torch.empty(0, len(pipeline.statistics.mean))]
    prefixes = ["y", *(f"e{place}" for place in range(1, len(parts)))]
    blocks = [
        pd.DataFrame(part.numpy(), index=frame.index).rename(columns=f"{prefix}_{{:03d}}".format)
        for prefix, part in zip(prefixes, parts, strict=True)
    ]
    table = pd.concat([_first_columns(frame), *blocks], axis=1)
    table.attrs = {
        "ldae_version": __version__,
        "pipeline": pipeline.sha256,
        "code_std": pipeline.statistics.std.tolist(),
    }
    return table


def _first_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of every embeddings table first, then whatever else the cohort carries."""
    if "split" not in frame.columns:
        frame = frame.assign(split=pd.Series([None] * len(frame), dtype="str", index=frame.index))
    rest = [name for name in frame.columns if name not in FIRST_COLUMNS and not is_code(name)]
    return frame[[*FIRST_COLUMNS, *rest]]


def _volumes(spec: PreprocessingSpec, paths: Sequence[str], cache: VolumeCache | None) -> Tensor:
    if cache is not None:
        return read_volumes(cache, paths)
    return torch.stack([spec.apply(path).data for path in paths])


def embed_cohort(
    pipeline: str | Path,
    cohort: pd.DataFrame | str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    splits: Sequence[str] | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    cache: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = False,
    depths: bool = False,
    shard: Shard | None = None,
) -> Path:
    """Write the semantic codes of a cohort as a Parquet file, unless the same lies there already.

    Args:
        pipeline: Folder of the pipeline.
        cohort: Cohort, its table's path, or scans.
        out: The file.
        splits: Embed only the scans of these splits.
        batch_size: Scans at a time; None takes a number that fits.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        cache: Folder of preprocessed volumes, which is filled; None preprocesses on the way.
        overwrite: Compute them even if the same lie there.
        progress: Show a bar.
        depths: Add the encoder's earlier depths, e1_000 and on; a table that has them also serves without.
        shard: Embed only this part of the scans, into a file beside `out`; a run without it merges the parts
            that are there, and computes what is missing.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: Pipeline, cohort or a scan is missing.
        InputError: The cohort has faults, or no scan in these splits.
    """
    out, index = Path(out), read_index(pipeline)
    spec = PreprocessingSpec.from_dict(index.spec)
    whole = as_cohort(cohort)
    frame = _rows(whole, splits=splits, trained=index.split)
    if shard is not None:
        clear_partials(out.parent)  # parts have no lock
        frame, out = frame.iloc[shard.places], part_path(out, shard)
    metadata: dict[str, Any] = {
        "ldae_version": __version__,
        "pipeline": index.sha256,
        "statistics": index.components["statistics"],
        "split": split_hash(whole) if "split" in whole.columns else None,
    }
    if depths:
        metadata["depths"] = True
    request = {**metadata, "request": _request(frame, spec)}
    if not overwrite and _holds(out, request):
        logger.info("%s is up to date", out)
        return out
    parts = [] if overwrite or shard else _parts(out, frame, spec=spec, metadata=metadata)
    rest = frame.drop(pd.Index([row for part in parts for row in part.index]))
    if len(rest):
        volumes = VolumeCache(cache, spec) if cache else None
        if volumes is not None:
            volumes.prepare(list(rest["path"]), progress=progress)
        from ldae.pipeline.pipeline import LDAEPipeline

        loaded = LDAEPipeline.from_pretrained(pipeline, device=device)
        made = loaded.embed(rest, batch_size=batch_size, cache=volumes, progress=progress, depths=depths)
        parts.append(made.set_axis(rest.index))
    table = pd.concat(parts).loc[frame.index].reset_index(drop=True)
    table.attrs = {name: value for name, value in parts[-1].attrs.items() if name != "path"} | request
    write_embeddings(table, out)
    return out


def part_path(out: Path, shard: Shard) -> Path:
    """Where a part of a table lies until all are merged."""
    return out.with_name(f"{out.stem}.part-{shard.number}-of-{shard.count}{out.suffix}")


def _parts(
    out: Path, frame: pd.DataFrame, *, spec: PreprocessingSpec, metadata: Mapping[str, Any]
) -> list[pd.DataFrame]:
    """The parts of these rows that lie beside the table and were made for the same, of the best division."""
    best: list[pd.DataFrame] = []
    pattern = re.compile(rf"{re.escape(out.stem)}\.part-\d+-of-(\d+){re.escape(out.suffix)}")
    for count in sorted(
        {int(told[1]) for path in out.parent.glob("*") if (told := pattern.fullmatch(path.name))}
    ):
        parts = []
        for shard in (Shard(number, count) for number in range(1, count + 1)):
            path, rows = part_path(out, shard), frame.iloc[shard.places]
            if _holds(path, {**metadata, "request": _request(rows, spec)}):
                parts.append(read_embeddings(path).set_axis(rows.index))
        best = max(best, parts, key=lambda some: sum(map(len, some)))
    if best:
        logger.info("%d parts go into %s", len(best), out)
    return best


def _rows(frame: pd.DataFrame, *, splits: Sequence[str] | None, trained: str) -> pd.DataFrame:
    if "split" in frame.columns:
        check_split(frame)
        if split_hash(frame) != trained:
            logger.warning(
                "The cohort's split is not the one that the pipeline was trained on (%s): none of its scans "
                "may count as held out if they are of the training cohort.",
                trained[:12],
            )
    if splits is None:
        return frame
    unknown = [word for word in splits if word not in SPLITS]
    if unknown or "split" not in frame.columns:
        raise InputError(
            f"splits must be among {', '.join(SPLITS)} in a cohort with a split column, got {list(splits)}."
        )
    rows = frame[frame["split"].isin(splits)]
    if rows.empty:
        raise InputError(f"The cohort must hold scans in split {', '.join(splits)}, got none.")
    return rows


def _request(frame: pd.DataFrame, spec: PreprocessingSpec) -> str:
    """Hash of the rows and of the files as they lie on disk."""
    named = VolumeCache("", spec)
    return sha256_json([frame.to_csv(index=False), [named.key(path) for path in frame["path"]]])


def _holds(path: Path, metadata: dict[str, Any]) -> bool:
    """Whether the file was written for the same pipeline, rows and scans."""
    try:
        found = read_notes(path)
    except (FileNotFoundError, CheckpointError):
        return False
    return all(found.get(name) == value for name, value in metadata.items())
