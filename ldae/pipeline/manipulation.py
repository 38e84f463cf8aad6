# SPDX-License-Identifier: Apache-2.0
"""Moving a semantic code until a fitted head says what is wanted, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.scan import Scan
from ldae.errors import CheckpointError
from ldae.heads.directions import Direction, Head, find_step, head_output
from ldae.pipeline.code import Code
from ldae.pipeline.head_folder import FittedHead, fitted_head, load_head
from ldae.pipeline.novelty import Novelty, judge_scans
from ldae.pipeline.statistics import CODE_DISTANCE, TrainingStatistics

AnyHead = Head | FittedHead | str | Path
"""A fitted head as an estimator, as read from its folder, or as the folder's path."""

# Held directions whose part of their own, beside the others, is below this are the others again.
INDEPENDENT = 1e-6


@dataclass(frozen=True)
class Move:
    """A semantic code after a step along a direction.

    Attributes:
        semantic: The moved code, float32 [D].
        step: Signed step, in standard deviations of the training codes along the unit direction.
        target: What the head was to say.
        target_class: Class that a probability speaks of; None for the positive class or a regression head.
        start: What the head said before.
        achieved: What it says now.
        novelty: Distance of the moved code from the training codes, against the training scans' own.
    """

    semantic: Tensor
    step: float
    target: float
    target_class: Any
    start: float
    achieved: float
    novelty: Novelty

    @property
    def distance(self) -> float:
        """Distance of the moved code from the training codes."""
        return self.novelty.measures[0].value

    @property
    def training_range(self) -> tuple[float, float]:
        """Distances of 99 % of the training scans."""
        return self.novelty.measures[0].low, self.novelty.measures[0].high

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, without the code."""
        return {
            "target": self.target,
            "target_class": None if self.target_class is None else str(self.target_class),
            "step": self.step,
            "start": self.start,
            "achieved": self.achieved,
            CODE_DISTANCE.replace(" ", "_"): self.distance,
            "training_range": list(self.training_range),
            "verdict": self.novelty.verdict,
        }


@dataclass(frozen=True)
class Manipulation:
    """A counterfactual: the scan, the code behind it, and the move that led there."""

    scan: Scan
    code: Code
    move: Move

    @property
    def step(self) -> float:
        """Signed step, in standard deviations along the unit direction."""
        return self.move.step

    @property
    def target(self) -> float:
        """What the head was to say."""
        return self.move.target

    @property
    def achieved(self) -> float:
        """What the head says of the moved code."""
        return self.move.achieved

    @property
    def distance(self) -> float:
        """Distance of the moved code from the training codes."""
        return self.move.distance

    @property
    def training_range(self) -> tuple[float, float]:
        """Distances of 99 % of the training scans."""
        return self.move.training_range


def resolve_head(head: AnyHead, *, std: NDArray[np.float64], pipeline: str) -> FittedHead:
    """A head with its direction, checked to speak of this pipeline's codes; an estimator is trusted to.

    Args:
        head: Fitted head, or its folder.
        std: Standard deviation of the training codes [D].
        pipeline: sha256 of the pipeline.

    Raises:
        CheckpointError: It was fitted on another pipeline's codes; the message names both hashes.
    """
    if isinstance(head, str | Path):
        head = load_head(head)
    elif not isinstance(head, FittedHead):
        return fitted_head(head, std=std, pipeline=pipeline)
    if head.pipeline != pipeline:
        raise CheckpointError(
            f"The head {head.folder or type(head.head).__name__} was fitted on embeddings of pipeline "
            f"{head.pipeline[:12]}, but this is pipeline {pipeline[:12]}. Fit it on this pipeline's: "
            "ldae embed, then ldae probe"
        )
    return head


def make_direction(
    fitted: FittedHead, *, std: NDArray[np.float64], target_class: Any = None, hold: Sequence[FittedHead] = ()
) -> Direction:
    """Where to go for a target while what other linear heads say stays.

    Raises:
        InputError: Unknown class, or nothing is left beside the held heads.
    """
    direction = fitted.direction(std=std, target_class=target_class)
    if not hold:
        return direction
    # Rows of one head add up to zero, and two heads may agree: only an independent set may be taken off.
    stacked = np.concatenate([other.directions for other in hold])
    _, sizes, basis = np.linalg.svd(stacked, full_matrices=False)
    kept = basis[sizes > INDEPENDENT * sizes[0]]
    return direction.holding([Direction(unit=row, std=direction.std) for row in kept])


def move_code(
    semantic: Tensor,
    fitted: FittedHead,
    *,
    direction: Direction,
    target: float,
    statistics: TrainingStatistics,
    target_class: Any = None,
) -> Move:
    """Move a semantic code [D] along a direction until the head says `target`.

    Raises:
        InputError: The target is out of reach; the message names what can be reached.
    """
    start = semantic.double().numpy()
    step = find_step(fitted.head, start, direction=direction, target=target, target_class=target_class)
    moved = torch.from_numpy(direction.move(start, step)).float()
    said = head_output(fitted.head, np.stack([start, moved.double().numpy()]), target_class=target_class)
    return Move(
        semantic=moved,
        step=step,
        target=float(target),
        target_class=target_class,
        start=float(said[0]),
        achieved=float(said[1]),
        novelty=judge_scans(statistics, moved[None])[0],
    )
