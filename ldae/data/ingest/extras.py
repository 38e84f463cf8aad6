# SPDX-License-Identifier: Apache-2.0
"""Optional libraries, asked for with the command that installs them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from ldae.errors import InputError


def need(module: str, *, package: str, extra: str, verb: str) -> ModuleType:
    """An optional module.

    Args:
        module: Its name in Python.
        package: Its name in the registry.
        extra: The extra of ldae that brings it.
        verb: What it is needed for.

    Raises:
        InputError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{verb} needs {package}. Install it with: pip install 'ldae[{extra}]'") from error


@contextmanager
def silent_readers() -> Iterator[None]:
    """No words from pydicom: what it complains of, it quotes, and that may be a name."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
