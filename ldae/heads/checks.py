# SPDX-License-Identifier: Apache-2.0
"""What every head checks before it trusts its arrays, each fault in one sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from ldae.errors import CheckpointError, InputError

Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]
_TOO_SMALL = "Leave the class out (--classes), add scans of it, or lower `folds`."


def _sentence(error: ValueError) -> str:
    """scikit-learn's message without the array it prints and the advice on other estimators."""
    lines = [line for line in str(error).split("\n") if line and not line.startswith("array=")]
    return " ".join(
        line.split(". ")[0].removesuffix(".") + ("" if line.endswith(":") else ".") for line in lines[:2]
    )


def check_training(
    head: BaseEstimator, features: ArrayLike, *, targets: ArrayLike, numeric: bool = False, missing: int = 0
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Finite float64 features [N, D] and targets [N]; the head learns how many features it takes.

    Args:
        head: The head.
        features: Its X.
        targets: Its y.
        numeric: Whether targets must be numbers.
        missing: Number of columns at the end that may hold NaN.

    Raises:
        InputError: Wrong shapes, missing or infinite values, too few samples.
    """
    rule = {"dtype": np.float64, "order": "C", "ensure_min_samples": 2, "y_numeric": numeric}
    _check_labels(targets, numeric=numeric)
    try:
        checked: tuple[NDArray[np.float64], NDArray[Any]] = validate_data(
            head, features, targets, ensure_all_finite="allow-nan" if missing else True, **rule
        )
    except ValueError as error:
        raise InputError(_sentence(error) + _place(features, missing)) from error
    _check_known(checked[0], missing)
    return checked


def check_features(head: BaseEstimator, features: ArrayLike, *, missing: int = 0) -> NDArray[np.float64]:
    """Finite float64 features [N, D] with as many columns as the head was fitted on.

    Args:
        head: The fitted head.
        features: Its X.
        missing: Number of columns at the end that may hold NaN.

    Raises:
        InputError: Wrong shape, other number of features, missing or infinite values.
    """
    finite = "allow-nan" if missing else True
    try:
        checked: NDArray[np.float64] = validate_data(
            head, features, dtype=np.float64, order="C", ensure_all_finite=finite, reset=False
        )
    except ValueError as error:
        raise InputError(_sentence(error) + _place(features, missing)) from error
    _check_known(checked, missing)
    return checked


def _place(features: ArrayLike, missing: int) -> str:
    """Where the first number that is not finite stands, as a sentence; nothing where there is none."""
    if np.iscomplexobj(features):
        return ""
    try:
        finite = np.isfinite(np.asarray(features, dtype=np.float64))
    except (TypeError, ValueError):
        return ""
    if finite.ndim != 2 or finite[:, : finite.shape[1] - missing].all():
        return ""
    row, column = np.argwhere(~finite[:, : finite.shape[1] - missing])[0]
    name = getattr(features, "columns", range(finite.shape[1]))[column]
    return f" It is in row {row}, column {name}."


def _check_labels(targets: ArrayLike, *, numeric: bool) -> None:
    """Stops on what scikit-learn would end in a TypeError for; that y is missing it tells itself."""
    labels = [] if targets is None else np.asarray(targets, dtype=object).ravel().tolist()
    if any(label is None for label in labels):
        what = "number" if numeric else "class"
        raise InputError(f"y must hold a {what} for every sample, got None. Leave these samples out.")
    if not numeric and len({isinstance(label, str) for label in labels}) > 1:
        raise InputError("y must hold classes of one kind, got words beside numbers. Write all as words.")


def _check_known(features: NDArray[np.float64], missing: int) -> None:
    if missing and np.isnan(features[:, : features.shape[1] - missing]).any():
        raise InputError(f"X must hold NaN in its last {missing} columns only, got NaN in a code.")


def check_regularisation(values: Sequence[float]) -> tuple[float, ...]:
    """The candidates as floats.

    Raises:
        InputError: There is none, or one is not a positive number.
    """
    candidates = tuple(float(value) for value in values)
    if not candidates or not all(np.isfinite(value) and value > 0 for value in candidates):
        raise InputError(f"regularisation must be one or more positive numbers, got {values!r}.")
    return candidates


def check_groups(groups: ArrayLike | None, targets: NDArray[Any]) -> NDArray[Any] | None:
    """One subject per sample, or None.

    Raises:
        InputError: Not one value per sample, or one that is missing.
    """
    if groups is None:
        return None
    try:
        column = column_or_1d(np.asarray(groups))
        check_consistent_length(column, targets)
    except ValueError as error:
        raise InputError(f"groups must be one subject per sample. {error}") from error
    if any(subject is None or subject != subject for subject in column.tolist()):
        raise InputError("groups must be one subject per sample, got None or NaN.")
    try:
        return np.asarray(np.unique(column, return_inverse=True)[1])
    except TypeError:  # names beside numbers have no order
        return np.asarray(np.unique(column.astype(str), return_inverse=True)[1])


def check_classes(targets: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Sorted classes and the class index of every sample.

    Raises:
        InputError: Only one class.
    """
    classes, encoded = np.unique(targets, return_inverse=True)
    if len(classes) < 2:
        raise InputError(
            f"y must hold at least two classes, got one class: {classes.tolist()[0]!r}. Add scans of another."
        )
    return classes, encoded


def check_known(targets: ArrayLike, classes: NDArray[Any]) -> None:
    """Stops where a head is asked how well it tells a class that it was not fitted on.

    Raises:
        InputError: There is a label that is none of the classes.
    """
    known = set(classes.tolist())
    strange = [label for label in np.unique(np.asarray(targets)).tolist() if label not in known]
    if strange:
        raise InputError(
            f"y must hold the classes of the head, {classes.tolist()}, got {strange[0]!r}. "
            "Leave its scans out."
        )


def stratified_folds(
    encoded: NDArray[np.intp],
    groups: NDArray[Any] | None,
    *,
    classes: NDArray[Any],
    folds: int,
    random_state: int | None,
) -> Folds:
    """Train and test rows of each fold, even in class, no subject on both sides.

    Raises:
        InputError: A class has fewer subjects than there are folds.
    """
    units = np.arange(len(encoded)) if groups is None else groups
    noun = "samples" if groups is None else "subjects"
    for index, name in enumerate(classes):
        count = len(np.unique(units[encoded == index]))
        if count < folds:
            raise InputError(
                f"Class {str(name)!r} must have at least {folds} {noun} for {folds} folds, got {count}. "
                f"{_TOO_SMALL}"
            )
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    chosen = splitter(folds, shuffle=True, random_state=random_state)
    return list(chosen.split(np.zeros((len(encoded), 1)), encoded, groups))


def check_training_folds(folds: Folds, encoded: NDArray[np.intp], *, classes: NDArray[Any]) -> None:
    """Every class must be left in every fold's training rows.

    Raises:
        InputError: One is not.
    """
    for train, _ in folds:
        absent = np.setdiff1d(np.arange(len(classes)), encoded[train])
        if len(absent):
            raise InputError(
                f"Class {str(classes[absent[0]])!r} must be in every training fold, got none in one. "
                f"{_TOO_SMALL}"
            )


def resolve_positive(positive_label: Any, classes: NDArray[Any]) -> Any:
    """The class that binary scores speak of: the named one, else the last of two, else None.

    Raises:
        InputError: It is not among the classes.
    """
    if positive_label is None:
        return classes[1] if len(classes) == 2 else None
    if positive_label not in classes.tolist():
        raise InputError(
            f"positive_label must be one of the classes {classes.tolist()}, got {positive_label!r}."
        )
    return positive_label


def check_option(name: str, value: Any, *, allowed: Sequence[str]) -> None:
    """A head's option must be one of these words.

    Raises:
        InputError: It is not.
    """
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")


def check_number(name: str, value: Any, *, least: float, most: float = np.inf) -> None:
    """A head's number must lie in a closed range.

    Raises:
        InputError: It does not, or is no number.
    """
    if not isinstance(value, Real) or not least <= float(value) <= most:
        limits = f"at least {least:g}" if most == np.inf else f"between {least:g} and {most:g}"
        raise InputError(f"{name} must be {limits}, got {value!r}.")


def check_count(name: str, value: Any, *, least: int, most: float = np.inf) -> None:
    """A head's whole number must lie in a closed range.

    Raises:
        InputError: It does not, or is no whole number.
    """
    if not isinstance(value, Integral):
        raise InputError(f"{name} must be a whole number, got {value!r}.")
    check_number(name, int(value), least=least, most=most)


def check_widths(name: str, value: Any) -> None:
    """A head's list of widths, which may be empty.

    Raises:
        InputError: It is no list of whole numbers of at least 1.
    """
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise InputError(f"{name} must be a list of whole numbers, got {value!r}.")
    for width in value:
        check_count(f"each of {name}", width, least=1)


def plain_folds(samples: int, groups: NDArray[Any] | None, *, folds: int, random_state: int | None) -> Folds:
    """Train and test rows of each fold, no subject on both sides.

    Raises:
        InputError: Fewer subjects than folds.
    """
    count = samples if groups is None else len(np.unique(groups))
    if count < folds:
        noun = "samples" if groups is None else "subjects"
        raise InputError(
            f"y must cover at least {folds} {noun} for {folds} folds, got {count} {noun}. "
            "Add some, or lower `folds`."
        )
    splitter = KFold if groups is None else GroupKFold
    chosen = splitter(folds, shuffle=True, random_state=random_state)
    return list(chosen.split(np.zeros((samples, 1)), groups=groups))


def check_arrays(
    arrays: dict[str, NDArray[Any]],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    head: str,
    positive: Collection[str] = (),
) -> dict[str, NDArray[np.float64]]:
    """The saved arrays of a head as float64, by name.

    Args:
        arrays: As saved.
        shapes: What they must be called, and of which shape.
        head: Class of the head, for messages.
        positive: Those whose numbers must all be above 0.

    Raises:
        CheckpointError: An array is missing, unexpected, of another shape, not finite, or not positive.
    """
    if arrays.keys() != shapes.keys():
        raise CheckpointError(f"{head} must be saved as arrays {sorted(shapes)}, got {sorted(arrays)}.")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise CheckpointError(
                f"Array {name!r} of {head} must have shape {shape}, got {arrays[name].shape}."
            )
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(f"Array {name!r} of {head} must be finite, got NaN or infinity.")
        if name in positive and (arrays[name] <= 0).any():
            raise CheckpointError(
                f"Array {name!r} of {head} must be above 0, got {float(arrays[name].min()):g}."
            )
    return {name: np.array(arrays[name], dtype=np.float64) for name in shapes}


def saved_classes(labels: Sequence[Any]) -> NDArray[Any]:
    """The classes of a saved head.

    Raises:
        CheckpointError: They are not two or more, each once and in their order.
    """
    classes = np.asarray(labels)
    if len(classes) < 2 or np.unique(classes).tolist() != list(labels):
        raise CheckpointError(f"Saved classes must be two or more, each once and sorted, got {labels!r}.")
    return classes


def saved_positive(name: str, values: ArrayLike, *, count: int) -> NDArray[np.float64]:
    """Saved numbers [count], such as temperatures.

    Raises:
        CheckpointError: There are more or fewer, or one is not finite and above 0.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (count,) or not (np.isfinite(found) & (found > 0)).all():
        raise CheckpointError(f"Saved {name} must be {count} finite number(s) above 0, got {values!r}.")
    return found


def saved_columns(columns: Sequence[Sequence[int]], *, width: int) -> list[NDArray[np.intp]]:
    """The columns of X that each member of a saved head sees.

    Raises:
        CheckpointError: A member sees none, one twice, or one that X does not have.
    """
    found = [np.asarray(own, dtype=np.intp) for own in columns]
    for own in found:
        if not len(own) or len(np.unique(own)) < len(own) or own.min() < 0 or own.max() >= width:
            raise CheckpointError(f"Saved columns must be some of 0 to {width - 1}, each once.")
    return found
