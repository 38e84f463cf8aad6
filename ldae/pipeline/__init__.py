# SPDX-License-Identifier: Apache-2.0
"""The trained pipeline as one object and one folder, and everything that is made with it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldae.pipeline.code import Code
    from ldae.pipeline.manipulation import Manipulation
    from ldae.pipeline.novelty import Novelty
    from ldae.pipeline.pipeline import LDAEPipeline
    from ldae.pipeline.variation import VariationMaps, variation_maps

__all__ = ["Code", "LDAEPipeline", "Manipulation", "Novelty", "VariationMaps", "variation_maps"]
_ROOMS = {
    "Code": "ldae.pipeline.code",
    "LDAEPipeline": "ldae.pipeline.pipeline",
    "Manipulation": "ldae.pipeline.manipulation",
    "Novelty": "ldae.pipeline.novelty",
    "VariationMaps": "ldae.pipeline.variation",
    "variation_maps": "ldae.pipeline.variation",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'ldae.pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS[name]), name)
