# SPDX-License-Identifier: Apache-2.0
"""What each slice of a scan has to say: how far the code moves when a slice tells nothing of its scan."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from ldae.evaluation.codes import batches
from ldae.evaluation.material import ScanSet
from ldae.nets.estimator import GradientEstimator
from ldae.nets.semantic import SemanticEncoder


@torch.inference_mode()
def measure_slices(scans: ScanSet, rows: pd.DataFrame) -> pd.DataFrame:
    """`slice_importance` over some scans of the set."""
    networks = scans.pipeline.networks
    tokens = [
        networks.encoder.tokens(scans.volumes(some).to(networks.device)).float()
        for some in batches(rows, size=networks.volume_batch)
    ]
    return slice_importance(networks.encoder, networks.diffusion.estimator, torch.cat(tokens))


@torch.inference_mode()
def slice_importance(encoder: SemanticEncoder, estimator: GradientEstimator, tokens: Tensor) -> pd.DataFrame:
    """How much each slice counts, a row a slice.

    A slice's token is replaced by its mean over the scans: what it says of its own scan goes, what it says
    of all scans stays. The squared change, summed and averaged over scans, is divided by the variance over
    scans. Slices that say the same thing, or weigh on each other, add up to more or less than 1.

    Args:
        encoder: The semantic encoder, in eval mode.
        estimator: Lays codes out as latents, where it can.
        tokens: A token a slice of several scans [N, S, W].

    Returns:
        Columns slice, attention (mean weight, all slices sum to 1), code, and, where the estimator lays codes
        out, prediction: the same of the latent that the code predicts. Zero where codes do not vary at all.
    """
    code, attention = encoder.pool(tokens)
    latent = estimator.latent(code)
    mean = tokens.mean(0)
    found = []
    for place, weight in enumerate(attention.mean(0).tolist()):
        without = tokens.clone()
        without[:, place] = mean[place]
        changed = encoder.pool(without).code
        row = {"slice": place, "attention": weight, "code": _share(changed, code)}
        if latent is not None:
            laid = estimator.latent(changed)
            assert laid is not None
            row["prediction"] = _share(laid, latent)
        found.append(row)
    return pd.DataFrame(found)


def _share(changed: Tensor, values: Tensor) -> float:
    """Mean squared change of values [N, ...] over their variance."""
    variance = float((values - values.mean(0)).double().square().sum())
    change = float((changed - values).double().square().sum())
    return change / variance if variance > 0 else 0.0
