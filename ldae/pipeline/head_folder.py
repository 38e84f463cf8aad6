# SPDX-License-Identifier: Apache-2.0
"""A fitted head as a folder, with its direction in code space and the pipeline behind its codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import ldae.heads
from ldae import __version__
from ldae.data.artefact import atomic_path, read_json, sha256_file, sha256_json, to_json, whole
from ldae.errors import CheckpointError, InputError
from ldae.heads.directions import Direction, Head, class_index
from ldae.heads.linear import LinearProbe, RidgeProbe

DOCUMENT_NAME = "head.json"
ARRAYS_NAME = "head.safetensors"
KIND = "head"
DIRECTIONS = "directions"
HEAD = "head."


@dataclass(frozen=True)
class FittedHead:
    """A head that knows where it leads and what it was fitted on.

    Attributes:
        head: The fitted estimator.
        directions: Unit directions in whitened code space: [1, D] towards the positive class or a higher
            prediction, or [C, D] towards each class past two.
        pipeline: sha256 of the pipeline that made the codes.
        provenance: What it predicts and was fitted on, JSON-able.
        folder: Where it was read from; None for a head in memory.
        sha256: Hash of the saved head; empty for a head in memory.
    """

    head: Head
    directions: NDArray[np.float64]
    pipeline: str
    provenance: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    sha256: str = ""

    @property
    def name(self) -> str:
        """What it is called: its folder, else what it predicts, else its class."""
        if self.folder is not None:
            return self.folder.absolute().name
        return str(self.provenance.get("target", type(self.head).__name__))

    def direction(self, *, std: ArrayLike, target_class: Any = None) -> Direction:
        """Where to go for a class, or for a higher prediction of a regression head.

        Args:
            std: Standard deviation of the training codes [D].
            target_class: May be left out for two classes (the positive one) and regression.

        Raises:
            InputError: Unknown class, or none given past two classes.
        """
        index = class_index(self.head, target_class)
        spread = np.asarray(std, dtype=np.float64)
        if len(self.directions) > 1:
            return Direction(unit=self.directions[index], std=spread)
        turned = index is not None and index != class_index(self.head, None)
        return Direction(unit=-self.directions[0] if turned else self.directions[0], std=spread)


def fitted_head(
    head: Head,
    *,
    std: ArrayLike,
    pipeline: str,
    direction: ArrayLike | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> FittedHead:
    """A fitted estimator with its direction.

    Args:
        head: The fitted estimator.
        std: Standard deviation of the training codes [D].
        pipeline: sha256 of the pipeline that made the codes.
        direction: Directions in whitened code space, [D] or [C, D], for a head without `direction_`: what
            `linear_direction` finds on the same data.
        provenance: What it predicts and was fitted on, JSON-able.

    Raises:
        InputError: The head has no direction of its own and none is given, or lengths differ.
    """
    if direction is None and not hasattr(head, "direction_"):
        raise InputError(
            f"{type(head).__name__} has no direction in code space of its own. Give `direction`, that of a "
            "LinearProbe fitted on the same data (linear_direction)."
        )
    rows = (
        _own_directions(head, std) if direction is None else np.atleast_2d(np.asarray(direction, dtype=float))
    )
    expected = _row_count(head), len(np.asarray(std))
    if rows.shape != expected:
        raise InputError(f"directions of {type(head).__name__} must have shape {expected}, got {rows.shape}.")
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return FittedHead(head=head, directions=units, pipeline=pipeline, provenance=dict(provenance or {}))


def linear_direction(
    head: Head,
    codes: ArrayLike,
    *,
    targets: ArrayLike,
    std: ArrayLike,
    groups: ArrayLike | None = None,
    random_state: int | None = 0,
) -> NDArray[np.float64]:
    """Directions for a head that has none of its own: those of a linear probe fitted on the same data.

    Args:
        head: The fitted head; one without `classes_` gets the direction of a ridge probe.
        codes: Codes that it was fitted on [N, D].
        targets: Class or number of each [N].
        std: Standard deviation of the training codes [D].
        groups: Subject of each code [N].
        random_state: Seed that deals subjects to folds.

    Returns:
        Unit directions in whitened code space: [1, D], or past two classes [C, D] in their order.

    Raises:
        InputError: The targets hold other classes than the head knows.
    """
    if not hasattr(head, "classes_"):
        ridge = RidgeProbe(random_state=random_state).fit(codes, targets, groups=groups)
        return _own_directions(ridge, std)
    positive = getattr(head, "positive_label_", None)
    probe = LinearProbe(positive_label=positive, random_state=random_state)
    probe.fit(codes, targets, groups=groups)
    if probe.classes_.tolist() != head.classes_.tolist():
        raise InputError(
            f"targets must hold the classes of the head, {head.classes_.tolist()}, got "
            f"{probe.classes_.tolist()}. Give what it was fitted on."
        )
    return _own_directions(probe, std)


def save_head(folder: str | Path, fitted: FittedHead) -> Path:
    """Write head.safetensors and, last, head.json; neither is put in place before both are written.

    Returns:
        The folder.
    """
    folder = Path(folder)
    config, arrays = fitted.head.state()  # type: ignore[attr-defined]
    tensors = {f"{HEAD}{name}": torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    tensors[DIRECTIONS] = torch.from_numpy(np.array(fitted.directions))
    with atomic_path(folder / DOCUMENT_NAME) as described, atomic_path(folder / ARRAYS_NAME) as temporary:
        save_file(tensors, temporary)
        document = {
            "kind": KIND,
            "ldae_version": __version__,
            "state": config,
            "pipeline": fitted.pipeline,
            "provenance": fitted.provenance,
            "arrays_sha256": sha256_file(temporary),
        }
        described.write_text(to_json(document), encoding="utf-8")
    return folder


def load_head(folder: str | Path) -> FittedHead:
    """Read a head folder.

    Raises:
        FileNotFoundError: The folder or one of its files is missing.
        CheckpointError: It is damaged, or holds something else.
    """
    folder = Path(folder)
    for name in (DOCUMENT_NAME, ARRAYS_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing: a head must be a folder that `ldae probe` wrote."
            )
    document = read_json(folder / DOCUMENT_NAME)
    found = document.get("kind") if isinstance(document, dict) else None
    if found != KIND:
        raise CheckpointError(f"{folder / DOCUMENT_NAME} must describe a head, got kind {found!r}.")
    arrays_sha256, expected = sha256_file(folder / ARRAYS_NAME), str(document.get("arrays_sha256"))
    if arrays_sha256 != expected:
        raise CheckpointError(
            f"{folder / ARRAYS_NAME} has sha256 {arrays_sha256[:12]}, but {DOCUMENT_NAME} beside it was "
            f"written for {expected[:12]}: the folder is damaged or mixed. Fit it again."
        )
    try:
        arrays = {name: tensor.numpy() for name, tensor in load_file(folder / ARRAYS_NAME).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{folder / ARRAYS_NAME} must be a safetensors file: {error}.") from error
    with whole(folder / DOCUMENT_NAME):
        directions = arrays.pop(DIRECTIONS)
        state = {name.removeprefix(HEAD): array for name, array in arrays.items()}
        try:
            head = _head_class(document["state"]["head"]).from_state(document["state"], state)
        except CheckpointError as error:
            raise CheckpointError(f"{folder} must be as `ldae probe` wrote it, but {error}") from error
        _check_directions(directions, head)
        return FittedHead(
            head=head,
            directions=directions,
            pipeline=_word(document["pipeline"]),
            provenance=dict(document["provenance"]),
            folder=folder,
            sha256=sha256_json(document),
        )


def _check_directions(directions: NDArray[np.float64], head: Head) -> None:
    rows = _row_count(head)
    if directions.ndim != 2 or len(directions) != rows or not np.isfinite(directions).all():
        raise InputError(f"directions must be {rows} rows of finite numbers, got {directions.shape}")


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"pipeline must be a hash, got {value!r}")
    return value


def _head_class(name: str) -> Any:
    found = getattr(ldae.heads, name, None) if name in ldae.heads.__all__ else None
    if not hasattr(found, "from_state"):
        raise CheckpointError(
            f"A saved head must be of a class that this version of ldae knows, got {name!r}."
        )
    return found


def _row_count(head: Head) -> int:
    classes = getattr(head, "classes_", ())
    return len(classes) if len(classes) > 2 else 1


def _own_directions(head: Head, std: ArrayLike) -> NDArray[np.float64]:
    targets = [None] if _row_count(head) == 1 else head.classes_.tolist()  # type: ignore[attr-defined]
    return np.stack([Direction.from_head(head, std=std, target_class=target).unit for target in targets])
