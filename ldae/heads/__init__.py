# SPDX-License-Identifier: Apache-2.0
"""Heads: scikit-learn estimators on semantic codes, arrays in, arrays out, and directions in code space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldae.heads.augmented import AugmentedProbe
    from ldae.heads.density import DensityDirichletClassifier
    from ldae.heads.diffusion_classifier import DiffusionClassifier
    from ldae.heads.directions import Direction, find_step, head_output
    from ldae.heads.ensembles import DepthEnsembleClassifier, DropoutClassifier, MLPClassifier
    from ldae.heads.evidential import EvidentialClassifier
    from ldae.heads.ladine import LaDiNEClassifier
    from ldae.heads.laplace import LaplaceClassifier
    from ldae.heads.linear import LinearProbe, RidgeProbe
    from ldae.heads.neighbours import NeighbourClassifier
    from ldae.heads.noise_aware import NoiseAwareClassifier
    from ldae.heads.purify import PurifyClassifier
    from ldae.heads.tempered import TemperedProbe

__all__ = [
    "AugmentedProbe",
    "DensityDirichletClassifier",
    "DepthEnsembleClassifier",
    "DiffusionClassifier",
    "Direction",
    "DropoutClassifier",
    "EvidentialClassifier",
    "LaDiNEClassifier",
    "LaplaceClassifier",
    "LinearProbe",
    "MLPClassifier",
    "NeighbourClassifier",
    "NoiseAwareClassifier",
    "PurifyClassifier",
    "RidgeProbe",
    "TemperedProbe",
    "find_step",
    "head_output",
]
_ROOMS = {
    "AugmentedProbe": "ldae.heads.augmented",
    "DensityDirichletClassifier": "ldae.heads.density",
    "DepthEnsembleClassifier": "ldae.heads.ensembles",
    "DiffusionClassifier": "ldae.heads.diffusion_classifier",
    "Direction": "ldae.heads.directions",
    "DropoutClassifier": "ldae.heads.ensembles",
    "EvidentialClassifier": "ldae.heads.evidential",
    "LaDiNEClassifier": "ldae.heads.ladine",
    "LaplaceClassifier": "ldae.heads.laplace",
    "LinearProbe": "ldae.heads.linear",
    "MLPClassifier": "ldae.heads.ensembles",
    "NeighbourClassifier": "ldae.heads.neighbours",
    "NoiseAwareClassifier": "ldae.heads.noise_aware",
    "PurifyClassifier": "ldae.heads.purify",
    "RidgeProbe": "ldae.heads.linear",
    "TemperedProbe": "ldae.heads.tempered",
    "find_step": "ldae.heads.directions",
    "head_output": "ldae.heads.directions",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'ldae.heads' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_ROOMS[name]), name)
