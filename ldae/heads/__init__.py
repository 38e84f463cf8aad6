# SPDX-License-Identifier: Apache-2.0
"""Heads: scikit-learn estimators on semantic codes, arrays in, arrays out, and directions in code space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldae.heads.density import DensityDirichletClassifier
    from ldae.heads.directions import Direction, find_step, head_output
    from ldae.heads.evidential import EvidentialClassifier
    from ldae.heads.ladine import LaDiNEClassifier
    from ldae.heads.linear import LinearProbe, RidgeProbe

__all__ = [
    "DensityDirichletClassifier",
    "Direction",
    "EvidentialClassifier",
    "LaDiNEClassifier",
    "LinearProbe",
    "RidgeProbe",
    "find_step",
    "head_output",
]
_ROOMS = {
    "DensityDirichletClassifier": "ldae.heads.density",
    "Direction": "ldae.heads.directions",
    "EvidentialClassifier": "ldae.heads.evidential",
    "LaDiNEClassifier": "ldae.heads.ladine",
    "LinearProbe": "ldae.heads.linear",
    "RidgeProbe": "ldae.heads.linear",
    "find_step": "ldae.heads.directions",
    "head_output": "ldae.heads.directions",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'ldae.heads' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
