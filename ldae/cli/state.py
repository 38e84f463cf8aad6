# SPDX-License-Identifier: Apache-2.0
"""What a stage remembers of its training, so that `fit` knows whether to begin, go on, stop or do nothing."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ldae.cli.configs import differences
from ldae.data.artefact import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    atomic_path,
    read_json,
    sha256_file,
    sha256_json,
    to_json,
    whole,
)
from ldae.errors import CheckpointError

COHORT_COLUMNS = ("subject", "session", "path", "diagnosis", "age", "split")
PARENTS = {
    "denoiser": ("autoencoder/config.json",),
    "representation": ("autoencoder/config.json", "denoiser/config.json"),
    "code_sampler": ("representation/config.json", "embeddings.parquet"),
}
TARGET = "data.init_args.target"
WAY_OUT = "Train it anew with --overwrite true, or keep both with another --run_dir."


@dataclass
class StageState:
    """The record beside a stage's checkpoint.

    Attributes:
        config: Dotted keys that decide what is learned.
        inputs: Hashes of what it learns from: the cohort's table and the components before it.
        request: Hash of the words that asked for it, so that the same words are answered at once.
        outputs: Files written at the end, relative to the run folder, and their hashes; empty until then.
        seconds: Time spent on it so far, over all interruptions.
    """

    config: dict[str, Any]
    inputs: dict[str, str]
    request: str
    outputs: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class StageFolder:
    """Where a stage of a run keeps its checkpoint, its resolved configuration and its record."""

    run_dir: Path
    kind: str

    @property
    def folder(self) -> Path:
        return self.run_dir / "checkpoints" / self.kind

    @property
    def checkpoint(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def record(self) -> Path:
        return self.folder / "stage.json"

    @property
    def artefact(self) -> Path:
        """The component that the stage writes when it is done."""
        return self.run_dir / self.kind / "config.json"

    def read(self) -> StageState | None:
        """The record, or None before the first training."""
        if not self.record.is_file():
            return None
        try:
            document = read_json(self.record)
            with whole(self.record):
                if set(document) != {item.name for item in fields(StageState)}:
                    raise ValueError("it has other keys")
                return StageState(
                    config=dict(document["config"]),
                    inputs=dict(document["inputs"]),
                    request=str(document["request"]),
                    outputs=dict(document["outputs"]),
                    seconds=float(document["seconds"]),
                )
        except CheckpointError as error:
            raise CheckpointError(f"{self.record} must be a whole record of fit. {WAY_OUT}") from error

    def write(self, state: StageState, *, alone: bool = False) -> None:
        """Put the record in the place of the one before.

        Args:
            state: The record.
            alone: Take away the checkpoint, which is another training's, before it would speak for that.
        """
        with atomic_path(self.record) as temporary:
            temporary.write_text(to_json(asdict(state)), encoding="utf-8")
            if alone:
                self.checkpoint.unlink(missing_ok=True)


def cohort_hash(path: Path, *, target: str | None = None) -> str | None:
    """Hash of who is in the cohort, as CSV or as the tables of a BIDS folder; None where there is none.

    Only the columns that training reads count, the target's among them, so that a column added later changes
    nothing. A table that cannot be read counts as a whole: training says what is wrong with it.
    """
    if path.is_dir():
        tables = sorted([*path.glob("participants.tsv"), *path.glob("sub-*/*sessions.tsv")])
        return sha256_json([[table.name, sha256_file(table)] for table in tables])
    if not path.is_file():
        return None
    columns = COHORT_COLUMNS if target in (None, *COHORT_COLUMNS) else (*COHORT_COLUMNS, target)
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return sha256_json([[row.get(column) for column in columns] for row in csv.DictReader(stream)])
    except (UnicodeDecodeError, csv.Error):
        return sha256_file(path)


def parents(run_dir: Path, *, kind: str) -> dict[str, Path]:
    """What earlier steps write and a stage of this kind learns from, by who writes it."""
    return {Path(name).parts[0]: run_dir / name for name in PARENTS.get(kind, ())}


def gather_inputs(run_dir: Path, *, cohort: Path, kind: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of what a stage of this kind learns from: the cohort's table and what earlier steps wrote."""
    found = parents(run_dir, kind=kind)
    inputs = {parent: sha256_file(path) for parent, path in found.items() if path.is_file()}
    cohort_sha = cohort_hash(cohort, target=config.get(TARGET))
    return inputs if cohort_sha is None else {"cohort": cohort_sha, **inputs}


def output_hashes(run_dir: Path, files: Sequence[Path]) -> dict[str, str]:
    """Hashes of written files by their place in the run folder."""
    return {path.relative_to(run_dir).as_posix(): sha256_file(path) for path in files}


def is_complete(run_dir: Path, state: StageState) -> bool:
    """Whether everything that the stage wrote at its end is still there, unchanged.

    Weights are looked at from outside only: hashing them would take longer than any answer may.
    """
    return bool(state.outputs) and all(
        (run_dir / name).is_file()
        and sha256_file(run_dir / name) == digest
        and (Path(name).name != CONFIG_NAME or _has_weights((run_dir / name).parent))
        for name, digest in state.outputs.items()
    )


def _has_weights(component: Path) -> bool:
    """Whether a component's weights are a safetensors file of the length that its header tells."""
    try:
        with (component / WEIGHTS_NAME).open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            found = os.fstat(stream.fileno()).st_size
            if size > found:
                return False
            header = json.loads(stream.read(size))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return bool(found == 8 + size + max(ends, default=0))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return False


def find_complete(run_dir: Path, *, request: str, cohort: Path) -> StageFolder | None:
    """The stage that these very words have trained already, if all is as it was then.

    It reads a few small files only, so the answer comes before the training stack could be imported. A
    damaged record answers nothing: whose it is shows once the configuration is read.
    """
    checkpoints = run_dir / "checkpoints"
    for path in sorted(checkpoints.rglob("stage.json")):
        stage = StageFolder(run_dir=run_dir, kind=path.parent.relative_to(checkpoints).as_posix())
        try:
            state = stage.read()
        except CheckpointError:
            continue
        if state is None or state.request != request or not is_complete(run_dir, state):
            continue
        found = gather_inputs(run_dir, cohort=cohort, kind=stage.kind, config=state.config)
        if found == state.inputs:
            return stage
    return None


def mismatch(
    stage: StageFolder,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    free: tuple[str, ...] = (),
    way_out: str = WAY_OUT,
) -> str | None:
    """Why the training of this stage cannot go on as asked: a sentence with the way out, or None.

    It names the keys of the configuration and the inputs that are not those of the training, or a damaged
    record. Keys that begin with a word of `free` may differ.
    """
    try:
        state = stage.read()
    except CheckpointError as error:
        return str(error)
    if state is None:
        if stage.checkpoint.is_file():
            return f"{stage.checkpoint} must lie beside its record, but {stage.record} is missing. {WAY_OUT}"
        if not stage.artefact.is_file():
            return None
        return (
            f"{stage.artefact.parent} must be empty or come from fit in this run folder, "
            f"got a component without its record in {stage.folder}. {WAY_OUT}"
        )
    held = [
        {key: value for key, value in side.items() if not key.startswith(free)}
        for side in (state.config, config)
    ]
    if changed := differences(*held):
        return f"The configuration must be the one of {stage.folder}, got {'; '.join(changed)}. {way_out}"
    others = sorted(key for key in {*state.inputs, *inputs} if state.inputs.get(key) != inputs.get(key))
    if others:
        return f"The inputs must be those of {stage.folder}, but {', '.join(others)} changed since. {way_out}"
    return None
