# SPDX-License-Identifier: Apache-2.0
"""Classes by import path, as configurations name them."""

from __future__ import annotations

import importlib
from typing import TypeVar

from ldae.errors import InputError

ClassT = TypeVar("ClassT")


def class_by_path(path: str, base: type[ClassT], *, what: str) -> type[ClassT]:
    """The class that an import path leads to.

    Args:
        path: Such as "ldae.nets.backbones.ConvBackbone".
        base: What it must be derived from.
        what: What it is for, in the words of an error.

    Raises:
        InputError: The path does not lead to a class derived from `base`.
    """
    module_name, _, class_name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{what} path must name a class, got {path!r}: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{what} path must name a {base.__module__}.{base.__qualname__}, got {path}.")
    return found
