# SPDX-License-Identifier: Apache-2.0
"""What every saved head says of itself; a head adds what it learned."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator

from ldae.errors import CheckpointError, InputError


class SavedHead(BaseEstimator):
    """A scikit-learn estimator that tells its class, parameters and features as a JSON-able dictionary."""

    n_features_in_: int

    def _config(self) -> dict[str, Any]:
        names = getattr(self, "feature_names_in_", None)
        return {
            "head": type(self).__name__,
            "parameters": {name: _kept(name, value) for name, value in self.get_params(deep=False).items()},
            "features": int(self.n_features_in_),
            "feature_names": None if names is None else [str(name) for name in names],
        }

    def _check_options(self) -> None:
        """Stops on an option that is not allowed."""

    @classmethod
    def _restored(cls, config: dict[str, Any]) -> Self:
        """An estimator with all that `_config` told."""
        if config["head"] != cls.__name__:
            raise CheckpointError(f"Head must be a {cls.__name__}, got {config['head']}.")
        head = cls(**config["parameters"])
        head._check_options()
        head.n_features_in_ = int(config["features"])
        if config["feature_names"] is not None:
            head.feature_names_in_ = np.asarray(config["feature_names"], dtype=object)
        return head


def _kept(name: str, value: Any) -> Any:
    """A parameter as plain Python.

    Raises:
        InputError: It cannot be written, such as a random generator.
    """
    plain = jsonable(value)
    if not all(isinstance(part, str | int | float | None) for part in _flat(plain)):
        raise InputError(
            f"{name} must be a number, a word, a list of them or None for a head to be saved, got {value!r}."
        )
    return plain


def _flat(value: Any) -> list[Any]:
    return [one for part in value for one in _flat(part)] if isinstance(value, list) else [value]


def jsonable(value: Any) -> Any:
    """A parameter or label as plain Python: lists for sequences, numbers for NumPy's."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return [jsonable(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value
