# SPDX-License-Identifier: Apache-2.0
"""Training stages, one LightningModule each."""

from __future__ import annotations

import importlib
from typing import Any

_ROOMS = {
    "AutoencoderStage": "ldae.stages.autoencoder",
    "ClassificationStage": "ldae.stages.supervised",
    "CodeSamplerStage": "ldae.stages.code_sampler",
    "DenoiserStage": "ldae.stages.denoiser",
    "RegressionStage": "ldae.stages.supervised",
    "RepresentationStage": "ldae.stages.representation",
}

__all__ = sorted(_ROOMS)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    raise AttributeError(f"module 'ldae.stages' has no attribute {name!r}")
