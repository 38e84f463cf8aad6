# SPDX-License-Identifier: Apache-2.0
"""What samples of labels say: class probabilities, and how far the samples lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

ProbabilityName = Literal["expectation", "map", "map_of_mean"]
PROBABILITIES: tuple[ProbabilityName, ...] = ("expectation", "map", "map_of_mean")
IOTAS = np.geomspace(0.01, 10.0, 121)
INTERVAL = (2.5, 97.5)  # percent
LARGEST_VARIANCE = 0.25  # on [0, 1]


def probability_map(
    labels: NDArray[np.float64], *, iota: float, mean_first: bool = False
) -> NDArray[np.float64]:
    """Class probabilities [N, C] from sampled labels [N, K, M, C]: softmax(-(y - 1)^2 / iota).

    Each sample is mapped and the maps averaged, as LaDiNE's released code does; or, `mean_first`, their mean
    is mapped, as its paper says (equation 18), which sharpens.
    """
    if mean_first:
        return np.asarray(softmax(-((labels.mean(axis=(1, 2)) - 1) ** 2) / iota, axis=-1))
    return np.asarray(softmax(-((labels - 1) ** 2) / iota, axis=-1).mean(axis=(1, 2)))


def on_simplex(labels: Tensor) -> Tensor:
    """The probabilities closest to each vector [..., C] (Duchi et al. 2008, figure 1)."""
    ordered = labels.sort(-1, descending=True).values
    counts = torch.arange(1, labels.shape[-1] + 1, dtype=labels.dtype)
    excess = (ordered.cumsum(-1) - 1) / counts
    kept = (ordered > excess).sum(-1, keepdim=True)
    return (labels - excess.gather(-1, kept - 1)).clamp_min(0)


def scan_iota(labels: NDArray[np.float64], encoded: NDArray[np.intp], *, mean_first: bool = False) -> float:
    """The iota with the lowest negative log-likelihood of class indices [N], samples drawn once."""
    rows = np.arange(len(encoded))
    losses = []
    for iota in IOTAS:
        own = probability_map(labels, iota=iota, mean_first=mean_first)[rows, encoded]
        losses.append(-np.log(np.maximum(own, 1e-12)).mean())
    return float(IOTAS[int(np.argmin(losses))])


def label_spread(
    labels: NDArray[np.float64], *, predicted: NDArray[np.intp], classes: Sequence[Any]
) -> pd.DataFrame:
    """Spread of sampled labels [N, K, M, C], clipped to [0, 1] but for the interval.

    Returns:
        Of the predicted class: cpiw, the width of the 95 % interval of the samples; cnpv, 4 times their
        variance; within and between, the parts of that variance inside members and among their means, which
        add up to it. Of each class: cpiw_<class> and cnpv_<class>.
    """
    scans, members, samples, count = labels.shape
    low, high = np.percentile(labels.reshape(scans, members * samples, count), INTERVAL, axis=1)
    clipped = labels.clip(0, 1)
    within = clipped.var(axis=2).mean(axis=1)
    between = clipped.mean(axis=2).var(axis=1)
    cpiw, cnpv = high - low, (within + between) / LARGEST_VARIANCE
    rows = np.arange(scans)
    parts = {"cpiw": cpiw, "cnpv": cnpv, "within": within, "between": between}
    own = {name: values[rows, predicted] for name, values in parts.items()}
    each = {f"cpiw_{name}": cpiw[:, i] for i, name in enumerate(classes)}
    each |= {f"cnpv_{name}": cnpv[:, i] for i, name in enumerate(classes)}
    return pd.DataFrame(own | each)
