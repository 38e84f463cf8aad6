# SPDX-License-Identifier: Apache-2.0
"""The table of semantic codes as a file, one row a scan."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldae.data.artefact import atomic_path
from ldae.errors import CheckpointError, InputError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow
    from numpy.typing import NDArray

CODE_COLUMN = re.compile(r"y_\d{3,}")
DEPTH_COLUMN = re.compile(r"e(\d+)_\d{3,}")
METADATA_KEY = b"ldae"
ROWS_AT_ONCE = 1024
"""Rows that are written and read at a time."""


def code_columns(frame: pd.DataFrame) -> list[str]:
    """The columns that hold the semantic code, in order."""
    return [name for name in frame.columns if CODE_COLUMN.fullmatch(str(name))]


def code_array(frame: pd.DataFrame) -> NDArray[np.float64]:
    """The semantic codes of an embeddings table, [N, D]."""
    return np.asarray(frame[code_columns(frame)].to_numpy(dtype=np.float64))


def is_code(name: object) -> bool:
    """Whether a column holds a number of a code or of a depth."""
    return any(pattern.fullmatch(str(name)) for pattern in (CODE_COLUMN, DEPTH_COLUMN))


def depth_array(frame: pd.DataFrame) -> tuple[NDArray[np.float64], list[int]]:
    """The encoder's depths e1, e2, ... and last the semantic code, side by side [N, F], and their widths.

    Raises:
        InputError: The table has none.
    """
    depths: dict[int, list[str]] = {}
    for name in map(str, frame.columns):
        found = DEPTH_COLUMN.fullmatch(name)
        if found:
            depths.setdefault(int(found[1]), []).append(name)
    if not depths:
        raise InputError(
            "Embeddings must hold the encoder's depths, e1_000 and on, got none in "
            f"{frame.attrs.get('path', 'the table')}. Run: ldae embed --depths"
        )
    columns = [*(depths[place] for place in sorted(depths)), code_columns(frame)]
    values = frame[[name for names in columns for name in names]].to_numpy(dtype=np.float64)
    return np.asarray(values), [len(names) for names in columns]


def read_embeddings(path: str | Path) -> pd.DataFrame:
    """An embeddings table; `attrs` holds "pipeline" (sha256), "code_std" and, of a cohort, "split" (hash).

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is no embeddings table.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
    # all groups at once, or in threads, would take the room of what is read twice more and keep it
    with _readable(path), parquet.ParquetFile(path) as stream:
        groups = (stream.read_row_group(group, use_threads=False) for group in range(stream.num_row_groups))
        table = pyarrow.concat_tables([stream.schema_arrow.empty_table(), *groups])
    frame: pd.DataFrame = table.to_pandas()
    frame.attrs = {**_notes(table.schema, path), "path": str(path)}
    del table
    pyarrow.default_memory_pool().release_unused()
    return frame


def read_notes(path: str | Path) -> dict[str, Any]:
    """What `read_embeddings` tells as `attrs` of a table that can be read, which is gone through in parts.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is no embeddings table.
    """
    from pyarrow import parquet

    path = Path(path)
    with _readable(path), parquet.ParquetFile(path) as stream:
        for group in range(stream.num_row_groups):
            stream.read_row_group(group)
        return _notes(stream.schema_arrow, path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: embeddings must be a file that `ldae embed` wrote.")
    try:
        yield
    except PermissionError:
        raise
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise CheckpointError(f"{path} must be a Parquet file, but reading it failed: {error}.") from error


def _notes(schema: pyarrow.Schema, path: Path) -> dict[str, Any]:
    metadata = (schema.metadata or {}).get(METADATA_KEY)
    if metadata is None:
        raise CheckpointError(f"{path} must be a table that `ldae embed` wrote, got one without its hashes.")
    return dict(json.loads(metadata))


def check_embeddings(frame: pd.DataFrame, *, pipeline: str, folder: str | Path) -> None:
    """Stop when an embeddings table was made by another pipeline than the one with this sha256.

    Raises:
        CheckpointError: With both hashes.
    """
    found = frame.attrs["pipeline"]
    if found != pipeline:
        raise CheckpointError(
            f"{frame.attrs['path']} was made by pipeline {found[:12]}, but {folder} holds pipeline "
            f"{pipeline[:12]}. Run again: ldae embed"
        )


def write_embeddings(frame: pd.DataFrame, path: str | Path) -> None:
    """Write what `embed_frame` made as Parquet, its `attrs` (JSON-able) in the file's metadata."""
    columns = frame.loc[:, [not is_code(name) for name in frame.columns]]
    blocks = (
        frame.iloc[start : start + ROWS_AT_ONCE] for start in range(0, max(len(frame), 1), ROWS_AT_ONCE)
    )
    write_blocks(blocks, path, columns=columns, notes=frame.attrs)


def write_blocks(
    blocks: Iterable[pd.DataFrame], path: str | Path, *, columns: pd.DataFrame, notes: Mapping[str, Any]
) -> None:
    """Write an embeddings table of which only some rows are at hand at a time.

    Args:
        blocks: Its rows, at least one block of columns alike.
        path: The file.
        columns: All rows without the codes: a column that is empty in one block may hold words in another.
        notes: What `read_embeddings` shall tell as `attrs`, JSON-able.

    Raises:
        InputError: A column holds values of several types.
        StorageError: There is no room for it, or it may not be written.
    """
    import pyarrow
    from pyarrow import parquet

    remaining = iter(blocks)
    first = _plain(next(remaining))
    try:
        types = iter(pyarrow.Table.from_pandas(_plain(columns), preserve_index=False).schema)
        schema = pyarrow.Schema.from_pandas(first, preserve_index=False)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError) as error:
        raise InputError(f"Columns of a cohort must each hold values of one type: {error}.") from error
    noted = {**(schema.metadata or {}), METADATA_KEY: json.dumps(dict(notes), allow_nan=False).encode()}
    fields = [field if is_code(field.name) else next(types) for field in schema]
    schema = pyarrow.schema(fields, metadata=noted)
    fault = None
    try:
        with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            for block in chain([first], _made(remaining)):
                table = pyarrow.Table.from_pandas(_plain(block), schema=schema, preserve_index=False)
                writer.write_table(table)
    except _UnmadeError as error:
        fault = error.fault
    if fault is not None:
        raise fault


class _UnmadeError(Exception):
    """What went wrong where rows are made, such as in reading a scan: `atomic_path` would blame the table."""

    def __init__(self, fault: Exception) -> None:
        super().__init__()
        self.fault = fault


def _made(blocks: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    try:
        yield from blocks
    except Exception as error:
        raise _UnmadeError(error) from error


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    plain = frame.copy(deep=False)
    plain.attrs = {}
    plain.columns = [str(name) for name in frame.columns]
    return plain
