# SPDX-License-Identifier: Apache-2.0
"""Heads by name, each made for a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ldae.data.target import as_word, is_number
from ldae.errors import InputError
from ldae.evaluation.predictions import POSITIVE
from ldae.heads import (
    AugmentedProbe,
    DensityDirichletClassifier,
    DepthEnsembleClassifier,
    DiffusionClassifier,
    DropoutClassifier,
    EvidentialClassifier,
    LaDiNEClassifier,
    LaplaceClassifier,
    LinearProbe,
    MLPClassifier,
    NeighbourClassifier,
    NoiseAwareClassifier,
    PurifyClassifier,
    RidgeProbe,
    TemperedProbe,
)

LINEAR = "linear"
LADINE, DEPTH_ENSEMBLE = "ladine", "depths"
DEPTH_HEADS = (LADINE, DEPTH_ENSEMBLE)
MODULATED = "hac"
ENSEMBLE_SIZE = 5
HAC_RATE = 5e-4
# What each head on latents is fitted with: a step costs a hundred times one on codes.
LATENT_SETTINGS: dict[str, dict[str, Any]] = {
    "noise-aware": {},
    "purify": {"diffusion_steps": 300, "batch_size": 32, "steps": 5, "draws": 4},
    "diffusion": {"diffusion_steps": 300, "batch_size": 32, "levels": 8},
}


class Classifier(Protocol):
    """A head that tells classes apart."""

    classes_: NDArray[Any]
    positive_label_: Any

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Any: ...

    def predict(self, X: ArrayLike) -> NDArray[Any]: ...

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]: ...

    def uncertainty(self, X: ArrayLike) -> pd.DataFrame: ...


def _card(**settings: Any) -> LaDiNEClassifier:
    """LaDiNE's setting with one member (arXiv 2206.07275)."""
    return LaDiNEClassifier(members=1, **settings)


def _hac(**settings: Any) -> EvidentialClassifier:
    """At the rate of a linear layer the modulation has learned the training scans by heart in two epochs."""
    return EvidentialClassifier(modulation=True, **({"learning_rate": HAC_RATE} | settings))


def _ensemble(**settings: Any) -> MLPClassifier:
    """A deep ensemble (arXiv 1612.01474)."""
    return MLPClassifier(members=ENSEMBLE_SIZE, **settings)


HEADS: dict[str, Callable[..., Classifier]] = {
    LINEAR: LinearProbe,
    "tempered": TemperedProbe,
    "mlp": MLPClassifier,
    "ensemble": _ensemble,
    "dropout": DropoutClassifier,
    "laplace": LaplaceClassifier,
    "neighbours": NeighbourClassifier,
    DEPTH_ENSEMBLE: DepthEnsembleClassifier,
    LADINE: LaDiNEClassifier,
    "card": _card,
    "evidential": EvidentialClassifier,
    MODULATED: _hac,
    "density": DensityDirichletClassifier,
    "noise-aware": NoiseAwareClassifier,
    "purify": PurifyClassifier,
    "diffusion": DiffusionClassifier,
    "augmented": AugmentedProbe,
}


def check_head(
    name: str, target: pd.Series[Any], *, depths: bool = False, latents: bool = False, context: bool = False
) -> None:
    """Stops where a head does not suit what it is to predict, or from what.

    Args:
        name: One of `HEADS`.
        target: The column to predict.
        depths: Whether it is to be fitted on the encoder's depths.
        latents: On spatial latents.
        context: On codes with context beside them.

    Raises:
        InputError: No such head, or one that does not suit.
    """
    if name not in HEADS:
        raise InputError(f"head must be one of {', '.join(HEADS)}, got {name!r}.")
    if depths and name not in DEPTH_HEADS:
        raise InputError(f"depths must be left out for head {name}; {', '.join(DEPTH_HEADS)} takes them.")
    if latents and name not in LATENT_SETTINGS:
        raise InputError(f"latents must be left out for head {name}; {', '.join(LATENT_SETTINGS)} take them.")
    if context and name != MODULATED:
        raise InputError(f"context must be left out for head {name}; {MODULATED} takes it.")
    if is_number(target) and name != LINEAR:
        raise InputError(
            f"head must be {LINEAR} for the numbers of {target.name!r}, got {name!r}. To tell them apart as "
            "classes name them (--classes 0 1), or write words."
        )


def make_head(
    name: str,
    target: pd.Series[Any],
    *,
    positive: str | None = None,
    seed: int = 0,
    depths: Sequence[int] | None = None,
    latents: bool = False,
    context: int = 0,
) -> Classifier | RidgeProbe:
    """The head of that name for a target: a ridge probe for numbers, and AD positive where it is a class.

    Args:
        name: One of `HEADS`.
        target: The column to predict.
        positive: The positive class of two.
        seed: Seed of all that is random.
        depths: Widths of the encoder's depths, for a head that takes them.
        latents: Whether it is to be fitted on spatial latents.
        context: Number of columns at the end of X that are context.

    Raises:
        InputError: No such head, or one that does not suit the target, depths, latents or context.
    """
    check_head(name, target, depths=depths is not None, latents=latents, context=context > 0)
    if is_number(target):
        return RidgeProbe(random_state=seed)
    # a word of a command line, which may mean a label that is none
    wanted = POSITIVE if positive is None else positive
    label = next((one for one in set(target) if as_word(one) == as_word(wanted)), positive)
    settings: dict[str, Any] = {} if depths is None else {"depths": tuple(depths)}
    if latents:
        settings |= LATENT_SETTINGS[name]
    if context:
        settings["context"] = context
    return HEADS[name](positive_label=label, random_state=seed, **settings)
