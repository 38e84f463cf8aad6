# SPDX-License-Identifier: Apache-2.0
"""Directions in code space, and how far to go along them until a head says what is wanted.

Codes are compared in whitened space, each feature divided by its standard deviation over the training
codes, so that a step of 1 is one standard deviation along a unit direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from ldae.errors import InputError

DEFAULT_REACH = 30.0  # standard deviations
SCAN_POINTS = 121
# A head may jump past the target (trees, neighbours) by this share of what it can say.
LARGEST_JUMP = 0.01


class Head(Protocol):
    """A fitted head: `classes_` and `predict_proba` beside this where it classifies."""

    @property
    def direction_(self) -> NDArray[np.float64]: ...

    def predict(self, X: ArrayLike) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Direction:
    """A unit direction in whitened code space.

    Attributes:
        unit: Direction of length 1 [D].
        std: Standard deviation of the training codes per feature [D].
    """

    unit: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def from_gradient(cls, gradient: ArrayLike, *, std: ArrayLike) -> Self:
        """The whitened direction along which a score with this raw-space gradient rises fastest.

        With y = mean + std u, the gradient by u is std times the gradient by y.

        Args:
            gradient: Derivative of the score by the code [D], such as a head's `direction_`.
            std: Standard deviation of the training codes per feature [D].

        Raises:
            InputError: Shapes differ, or the gradient vanishes on every feature that varies.
        """
        slope, spread = np.asarray(gradient, dtype=np.float64), np.asarray(std, dtype=np.float64)
        if slope.ndim != 1 or slope.shape != spread.shape:
            raise InputError(
                f"gradient and std must be of one length [D], got {slope.shape}, {spread.shape}."
            )
        whitened = slope * spread
        length = float(np.linalg.norm(whitened))
        if not np.isfinite(length) or length == 0:
            raise InputError(
                f"Direction must have a finite length above 0, got {length}. Fit the head again."
            )
        return cls(unit=whitened / length, std=spread)

    @classmethod
    def from_head(cls, head: Head, *, std: ArrayLike, target_class: Any = None) -> Self:
        """The whitened direction towards a class, or towards a higher prediction of a regression head.

        Args:
            head: Fitted head.
            std: Standard deviation of the training codes per feature [D].
            target_class: Class to go to; may be left out for two classes (the positive one) and regression.

        Raises:
            InputError: Unknown class, or none given past two classes.
        """
        index = class_index(head, target_class)
        gradient = head.direction_
        if gradient.ndim == 2:
            gradient = gradient[index]
        elif index is not None and index != class_index(head, None):
            gradient = -gradient
        return cls.from_gradient(gradient, std=std)

    def move(self, code: ArrayLike, step: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """The code moved by `step` standard deviations: [D], or [S, D] for several steps [S]."""
        start = np.asarray(code, dtype=np.float64)
        return np.asarray(start + np.multiply.outer(step, self.unit * self.std))


def class_index(head: Head, target_class: Any) -> int | None:
    """Column of `predict_proba` that a target speaks of; None for a regression head.

    Raises:
        InputError: Unknown class, none given past two classes, or one given for a regression head.
    """
    classes = getattr(head, "classes_", None)
    if classes is None:
        if target_class is not None:
            raise InputError(
                f"target_class must be left out for {type(head).__name__}, which has no classes, "
                f"got {target_class!r}."
            )
        return None
    labels = classes.tolist()
    if target_class is None:
        if len(labels) > 2:
            raise InputError(f"target_class must be one of {labels}, got none. Name the class to go to.")
        target_class = getattr(head, "positive_label_", labels[-1])
    if target_class not in labels:
        raise InputError(f"target_class must be one of {labels}, got {target_class!r}.")
    return int(labels.index(target_class))


def class_label(head: Head, target_class: Any) -> Any:
    """The class that a target speaks of, also where it was left out; None for a regression head.

    Raises:
        InputError: As `class_index`.
    """
    index = class_index(head, target_class)
    # `class_index` has a number for classifiers only
    return None if index is None else head.classes_.tolist()[index]  # type: ignore[attr-defined]


def head_output(head: Head, codes: ArrayLike, *, target_class: Any = None) -> NDArray[np.float64]:
    """What the head says of each code [N]: probability of the target class, or the predicted number."""
    index = class_index(head, target_class)
    if index is None:
        return np.asarray(head.predict(codes), dtype=np.float64)
    # `class_index` has a number for classifiers only
    return np.asarray(head.predict_proba(codes)[:, index], dtype=np.float64)  # type: ignore[attr-defined]


def find_step(
    head: Head,
    code: ArrayLike,
    *,
    direction: Direction,
    target: float,
    target_class: Any = None,
    reach: float = DEFAULT_REACH,
) -> float:
    """The smallest step along a direction after which the head says `target`.

    The head may be any function of the code: its output is scanned on both sides of the code, and the root is
    found by Brent's method within the nearest stretches at whose ends it lies on either side of the target.

    Args:
        head: Fitted head, linear or not.
        code: Semantic code to start from [D].
        direction: Where to go.
        target: Wanted probability in (0, 1) of the target class, or wanted prediction of a regression head.
        target_class: Class that the probability speaks of; may be left out for two classes and regression.
        reach: Longest step to consider, either way, in standard deviations.

    Returns:
        Signed step in standard deviations, for `Direction.move`.

    Raises:
        InputError: The target is no probability, out of reach (the message names the reachable range), or
            jumped over.
    """
    start = _check_code(code, direction)
    check_target(head, target, target_class=target_class)
    steps = np.linspace(-reach, reach, SCAN_POINTS)
    excess = head_output(head, direction.move(start, steps), target_class=target_class) - target
    # Alone a code may be rounded otherwise than among others: the ends of a stretch keep their signs.
    known: dict[float, float] = dict(zip(steps.tolist(), excess.tolist(), strict=True))

    def beyond(step: float) -> float:
        if step in known:
            return known[step]
        moved = direction.move(start, step)[None]
        return float(head_output(head, moved, target_class=target_class)[0]) - target

    low, high = target + excess.min(), target + excess.max()
    crossings = _nearest_crossings(steps, excess)
    if not len(crossings):
        raise InputError(
            f"Target must lie between {low:.4g} and {high:.4g}, what the head says of this code within "
            f"{reach:g} standard deviations either way, got {target:g}."
        )
    step: float = min((brentq(beyond, *steps[place : place + 2], xtol=1e-10) for place in crossings), key=abs)
    if abs(beyond(step)) > LARGEST_JUMP * (high - low):
        raise InputError(
            f"Target must be what the head can say, got {target:g}: on its way the head jumps over it, "
            f"to {beyond(step) + target:.4g}. Choose that, or a head that changes smoothly."
        )
    return step


def _nearest_crossings(steps: NDArray[np.float64], excess: NDArray[np.float64]) -> NDArray[np.intp]:
    """Where the nearest stretches begin in which the excess changes its sign: none, one, or one a side."""
    crossings: NDArray[np.intp] = np.flatnonzero((excess[:-1] <= 0) != (excess[1:] <= 0))
    away = np.abs(steps[crossings] + steps[crossings + 1])
    return np.asarray(crossings[away <= away.min(initial=np.inf) + 1e-9])


def _check_code(code: ArrayLike, direction: Direction) -> NDArray[np.float64]:
    start = np.asarray(code, dtype=np.float64)
    if start.shape != direction.unit.shape or not np.isfinite(start).all():
        raise InputError(f"Code must be {len(direction.unit)} finite numbers, got shape {start.shape}.")
    return start


def check_target(head: Head, target: float, *, target_class: Any = None) -> None:
    """Stop where a head cannot say a target of any code.

    Raises:
        InputError: Unknown class, none given past two, no probability within 0..1, or no finite number.
    """
    if class_index(head, target_class) is not None and not 0 < target < 1:
        raise InputError(f"Target must be a probability above 0 and below 1, got {target:g}.")
    if not np.isfinite(target):
        raise InputError(f"Target must be a finite number, got {target:g}.")
