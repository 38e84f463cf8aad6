# SPDX-License-Identifier: Apache-2.0
"""The semantic codes of a cohort as a file, written some scans at a time, by several jobs if need be."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ldae import __version__
from ldae.data.artefact import clear_partials
from ldae.data.cache import VolumeCache
from ldae.data.embeddings import (
    ROWS_AT_ONCE,
    code_columns,
    is_code,
    read_embeddings,
    read_notes,
    write_blocks,
)
from ldae.data.shard import Shard
from ldae.data.spec import PreprocessingSpec
from ldae.data.split import SPLITS, check_split, split_hash
from ldae.errors import CheckpointError, InputError
from ldae.pipeline.embeddings import as_cohort, embed_scans, first_columns, notes_of
from ldae.pipeline.folder import read_index

logger = logging.getLogger(__name__)


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
    if frame.empty:
        raise InputError("cohort must hold scans, got none.")
    if shard is not None:
        clear_partials(out.parent)  # parts have no lock
        some = frame.iloc[shard.places]
        if some.empty:
            raise InputError(
                f"shard {shard} must hold scans, got {len(frame)} scans in all. Ask for fewer parts."
            )
        frame, out = some, part_path(out, shard)
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
    parts = {} if overwrite or shard else _parts(out, frame, spec=spec, metadata=metadata)
    known, notes = _joined(parts, scans=len(frame), depths=depths)
    rest = np.setdiff1d(np.arange(len(frame)), known.index)
    computed: Iterator[pd.DataFrame] = iter(())
    if len(rest):
        from ldae.pipeline.pipeline import LDAEPipeline

        paths = list(frame["path"].iloc[rest])
        volumes = VolumeCache(cache, spec) if cache else None
        if volumes is not None:
            volumes.prepare(paths, progress=progress)
        loaded = LDAEPipeline.from_pretrained(pipeline, device=device)
        computed = embed_scans(
            loaded, paths, batch_size=batch_size, cache=volumes, progress=progress, depths=depths
        )
        notes = notes_of(loaded)
    blocks = _blocks(frame, known=known, computed=computed)
    write_blocks(blocks, out, columns=first_columns(frame), notes=notes | request)
    return out


def _joined(parts: Mapping[Shard, Path], *, scans: int, depths: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Codes that parts hold, by the scans' places in the cohort, and what they tell of the pipeline."""
    if not parts:
        return pd.DataFrame(), {}
    logger.info("%d parts are merged", len(parts))
    tables = []
    for part, path in parts.items():  # one at a time: a hundred open files take more than their codes
        table = read_embeddings(path)
        names = [name for name in table.columns if is_code(name)] if depths else code_columns(table)
        tables.append(table[names].set_axis(np.arange(scans)[part.places]))
    return pd.concat(tables).sort_index(), {"code_std": table.attrs["code_std"]}


def _blocks(
    frame: pd.DataFrame, *, known: pd.DataFrame, computed: Iterator[pd.DataFrame]
) -> Iterator[pd.DataFrame]:
    """Tables of some scans at a time, in the order of the cohort; what is not known is computed."""
    left = known.iloc[:0]
    for start in range(0, len(frame), ROWS_AT_ONCE):
        rows = frame.iloc[start : start + ROWS_AT_ONCE]
        places = pd.RangeIndex(start, start + len(rows))
        told = known.loc[known.index.intersection(places)]
        wanted = len(rows) - len(told)
        made = [left]
        while sum(map(len, made)) < wanted:
            made.append(next(computed))
        fresh = pd.concat(made)
        left, fresh = fresh.iloc[wanted:], fresh.iloc[:wanted]
        codes = pd.concat([told, fresh.set_axis(places.difference(told.index))]).sort_index()
        yield pd.concat([first_columns(rows), codes.set_axis(rows.index)], axis=1)


def part_path(out: Path, shard: Shard) -> Path:
    """Where a part of a table lies until all are merged."""
    return out.with_name(f"{out.stem}.part-{shard.number}-of-{shard.count}{out.suffix}")


def _parts(
    out: Path, frame: pd.DataFrame, *, spec: PreprocessingSpec, metadata: Mapping[str, Any]
) -> dict[Shard, Path]:
    """The parts of these rows that lie beside the table and were made for the same, of the best division."""
    best: dict[Shard, Path] = {}
    pattern = re.compile(rf"{re.escape(out.stem)}\.part-\d+-of-(\d+){re.escape(out.suffix)}")
    for count in sorted(
        {int(told[1]) for path in out.parent.glob("*") if (told := pattern.fullmatch(path.name))}
    ):
        parts = {}
        for shard in (Shard(number, count) for number in range(1, count + 1)):
            path, rows = part_path(out, shard), frame.iloc[shard.places]
            if len(rows) and _holds(path, {**metadata, "request": _request(rows, spec)}):
                parts[shard] = path
        best = max(best, parts, key=lambda some: sum(len(frame.iloc[shard.places]) for shard in some))
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
    """Hash of the rows and of the files as they lie on disk: of JSON ["the rows as CSV", ["key", ...]]."""
    named, digest = VolumeCache("", spec), hashlib.sha256(b'["')
    for start in range(0, max(len(frame), 1), ROWS_AT_ONCE):
        rows = frame.iloc[start : start + ROWS_AT_ONCE]
        digest.update(json.dumps(rows.to_csv(index=False, header=start == 0))[1:-1].encode())
    digest.update(b'",[')
    for place, path in enumerate(frame["path"]):
        digest.update(("," * bool(place) + json.dumps(named.key(path))).encode())
    digest.update(b"]]")
    return digest.hexdigest()


def _holds(path: Path, metadata: dict[str, Any]) -> bool:
    """Whether the file was written for the same pipeline, rows and scans."""
    try:
        found = read_notes(path)
    except (FileNotFoundError, CheckpointError):
        return False
    return all(found.get(name) == value for name, value in metadata.items())
