# SPDX-License-Identifier: Apache-2.0
"""Moving a semantic code until a fitted head says what is wanted, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldae.data.scan import DifferenceMap, Scan
from ldae.errors import CheckpointError, InputError
from ldae.heads.directions import Direction, Head, class_label, find_step, head_output
from ldae.heads.typical import typical_direction
from ldae.pipeline.code import Code
from ldae.pipeline.head_folder import FittedHead, fitted_head, load_head
from ldae.pipeline.held import HeldOutput, held_output, is_column, read_columns
from ldae.pipeline.novelty import Measure, Novelty, judge_scans
from ldae.pipeline.statistics import CODE_DISTANCE, TrainingStatistics

AnyHead = Head | FittedHead | str | Path
"""A fitted head as an estimator, as read from its folder, or as the folder's path."""

Held = AnyHead
"""What a move leaves alone: a head, or a column of numbers of the embeddings table by its name."""

POSITION = "position along the direction"
NORMAL_RANGE = 2.576  # 99 % of a normal distribution, in standard deviations

# Held directions whose part of their own, beside the others, is below this are the others again.
INDEPENDENT = 1e-6
PARALLEL = 1 - 1e-6


@dataclass(frozen=True)
class Move:
    """A semantic code after a step along a direction.

    Attributes:
        semantic: The moved code, float32 [D].
        step: Signed step, in standard deviations of the training codes along the unit direction.
        target: What the head was to say.
        target_class: Class that a probability speaks of; None for a regression head.
        start: What the head said before.
        achieved: What it says now.
        novelty: Distance of the moved code from the training codes, and its position along the direction in
            standard deviations of the training codes, against the training scans' own.
        held: What held heads say before and after.
        kept: Cosine between the direction without anything held and the one taken.
    """

    semantic: Tensor
    step: float
    target: float
    target_class: Any
    start: float
    achieved: float
    novelty: Novelty
    held: tuple[HeldOutput, ...] = ()
    kept: float = 1.0

    @property
    def distance(self) -> float:
        """Distance of the moved code from the training codes."""
        return self.novelty.measures[0].value

    @property
    def training_range(self) -> tuple[float, float]:
        """Distances of 99 % of the training scans."""
        return self.novelty.measures[0].low, self.novelty.measures[0].high

    @property
    def position(self) -> float:
        """Position of the moved code along the direction, in standard deviations of the training codes."""
        return self.novelty.measures[1].value

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
            POSITION.replace(" ", "_"): self.position,
            "supported": self.novelty.inside,
            "held": [held.to_dict() for held in self.held],
            "direction_kept": self.kept,
            "verdict": self.novelty.verdict,
        }


@dataclass(frozen=True)
class Manipulation:
    """A counterfactual: the scan, the code behind it, and the move that led there.

    Attributes:
        scan: The counterfactual.
        code: Its code.
        move: The move that led to it.
        reconstruction: The scan of the code before the move, by the same solver and steps.
    """

    scan: Scan
    code: Code
    move: Move
    reconstruction: Scan

    @property
    def difference(self) -> DifferenceMap:
        """Counterfactual minus reconstruction: what the move changed, not what the model misses."""
        return DifferenceMap.between(self.scan, self.reconstruction)

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
        InputError: It was fitted on something else than codes.
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
    width = getattr(head.head, "n_features_in_", len(std)) - getattr(head.head, "context", 0)
    if width != len(std):
        raise InputError(
            f"A head to move along must take a semantic code of {len(std)} numbers, got {head.name}, which "
            f"takes {width}: it was fitted on latents or depths. Fit it on codes: ldae probe"
        )
    return head


def resolve_held(
    held: Sequence[Held],
    *,
    head: FittedHead,
    std: NDArray[np.float64],
    embeddings: pd.DataFrame | str | Path | None = None,
) -> list[FittedHead]:
    """What is held, as heads with directions; a column becomes a ridge probe fitted on it.

    Args:
        held: Heads, their folders, or names of columns.
        head: The head that is moved along.
        std: Standard deviation of the training codes [D].
        embeddings: Table of the columns; None takes the one that the head was fitted on.

    Raises:
        FileNotFoundError: No such head folder, or no table to look for columns in.
        CheckpointError: A head or the table is another pipeline's.
        InputError: No such column, or one without numbers.
    """
    names = [one for one in held if isinstance(one, str) and is_column(one)]
    columns = dict(zip(names, read_columns(names, head=head, embeddings=embeddings), strict=True))
    return [
        columns[one] if isinstance(one, str) and one in columns else _held_head(one, head=head, std=std)
        for one in held
    ]


def _held_head(one: Held, *, head: FittedHead, std: NDArray[np.float64]) -> FittedHead:
    return resolve_head(one, std=std, pipeline=head.pipeline)


def make_direction(
    fitted: FittedHead,
    *,
    statistics: TrainingStatistics,
    target_class: Any = None,
    hold: Sequence[FittedHead] = (),
) -> Direction:
    """Where to go for a target while what other linear heads say stays: the typical direction of the head.

    Raises:
        InputError: Unknown class, or nothing is left beside the held heads.
    """
    own = fitted.direction(std=statistics.std, target_class=target_class)
    for other in hold:
        cosine = float(np.abs(other.directions @ own.unit).max())
        if cosine > PARALLEL:
            raise InputError(
                f"What is held must leave a direction to move along, got {other.name}, whose direction is "
                f"parallel to that of {fitted.name} (cosine {cosine:.6f}): one cannot change while the other "
                "stays. Leave it out of what is held."
            )
    held = [Direction(unit=row, std=own.std) for row in _independent(hold)]
    return typical_direction(own, whitening=statistics.whitening, held=held)


def _independent(hold: Sequence[FittedHead]) -> NDArray[np.float64]:
    """Directions [K, D] that span those of the held heads.

    Rows of one head add up to zero, and two heads may agree: only an independent set may be taken off.
    """
    if not hold:
        return np.zeros((0, 0))
    _, sizes, basis = np.linalg.svd(np.concatenate([one.directions for one in hold]), full_matrices=False)
    return np.asarray(basis[sizes > INDEPENDENT * sizes[0]])


def move_code(
    semantic: Tensor,
    fitted: FittedHead,
    *,
    direction: Direction,
    target: float,
    statistics: TrainingStatistics,
    target_class: Any = None,
    hold: Sequence[FittedHead] = (),
) -> Move:
    """Move a semantic code [D] along a direction until the head says `target`.

    What is in `hold` is asked before and after; that the direction spares it is up to `make_direction`.

    Raises:
        InputError: The target is out of reach; the message names what can be reached.
    """
    start = semantic.double().numpy()
    step = find_step(fitted.head, start, direction=direction, target=target, target_class=target_class)
    moved = torch.from_numpy(direction.move(start, step)).float()
    end = moved.double().numpy()
    said = head_output(fitted.head, np.stack([start, end]), target_class=target_class)
    free = make_direction(fitted, statistics=statistics, target_class=target_class)
    return Move(
        semantic=moved,
        step=step,
        target=float(target),
        target_class=class_label(fitted.head, target_class),
        start=float(said[0]),
        achieved=float(said[1]),
        novelty=judge_move(statistics, moved, direction=direction),
        held=tuple(held_output(held, before=start, after=end) for held in hold),
        kept=float(free.unit @ direction.unit),
    )


def plan_moves(
    semantic: Tensor,
    fitted: FittedHead,
    *,
    targets: Sequence[float],
    statistics: TrainingStatistics,
    target_class: Any = None,
    hold: Sequence[FittedHead] = (),
) -> list[Move]:
    """A semantic code [D] moved to each target while what is held stays.

    Raises:
        InputError: A target is out of reach, the class is unknown, or nothing is left beside what is held.
    """
    direction = make_direction(fitted, statistics=statistics, target_class=target_class, hold=hold)
    return [
        move_code(
            semantic,
            fitted,
            direction=direction,
            target=target,
            statistics=statistics,
            target_class=target_class,
            hold=hold,
        )
        for target in targets
    ]


def judge_move(statistics: TrainingStatistics, moved: Tensor, *, direction: Direction) -> Novelty:
    """How far a moved code [D] lies outside of the training codes, as a whole and along the direction.

    In many dimensions a long way in one of them hardly changes the distance. The position along the direction
    is compared with 99 % of a normal distribution of the training codes' standard deviation.
    """
    code = moved.double().numpy()
    position = float(statistics.whiten(code) @ direction.unit) / statistics.spread(direction.unit)
    along = Measure(POSITION, position, -NORMAL_RANGE, NORMAL_RANGE)
    return Novelty((*judge_scans(statistics, moved[None])[0].measures, along))
