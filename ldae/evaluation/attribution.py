# SPDX-License-Identifier: Apache-2.0
"""Which voxels, slices and numbers of the code make a head say what it says.

Integrated gradients (arXiv 1703.01365), occlusion and Shapley values of slices are captum's, those of
the code's numbers (arXiv 1705.07874) shap's. Voxels and slices are compared with a baseline scan; all but
occlusion add up to the difference in score.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldae.errors import InputError
from ldae.heads.directions import Head, class_label
from ldae.heads.linear import LinearProbe, RidgeProbe
from ldae.heads.score import head_score, score_slope
from ldae.nets.semantic import SemanticEncoder

GRADIENT_STEPS = 64
WINDOWS = 8
"""Occluded boxes along each side of a scan."""
AT_ONCE = 16
SHAPLEY_ORDERS = 20
BACKGROUND = 16
"""Codes that a head which is not linear is compared with."""


class ScanScore(nn.Module):
    """The score of scans: through the encoder, then the head; any head, with gradients.

    Args:
        encoder: The semantic encoder, in eval mode.
        head: A fitted head on its codes.
        target_class: Class that the score speaks of; may be left out for two classes and regression.
    """

    def __init__(self, encoder: SemanticEncoder, head: Head, *, target_class: Any = None) -> None:
        super().__init__()
        self.encoder, self.head, self.target_class = encoder, head, target_class

    def forward(self, volumes: Tensor) -> Tensor:
        """Scans [B, 1, X, Y, Z] to scores [B], log odds or a number."""
        return self.of_tokens(self.encoder.tokens(volumes))

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens of slices [B, S, W] to scores [B]."""
        found: Tensor = _Said.apply(self.encoder.pool(tokens).code, self.head, self.target_class)
        return found


class _Said(torch.autograd.Function):
    """The head on codes [B, D] in float64, with the slopes that it has there."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, head: Head, target_class: Any) -> Tensor:
        ctx.places, ctx.head, ctx.target_class = codes.detach().double().cpu().numpy(), head, target_class
        ctx.save_for_backward(codes)
        return torch.from_numpy(head_score(head, ctx.places, target_class=target_class)).to(codes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (codes,) = ctx.saved_tensors
        slopes = [score_slope(ctx.head, place, target_class=ctx.target_class) for place in ctx.places]
        return torch.from_numpy(np.stack(slopes)).to(codes) * grads[0][:, None], None, None


def integrated_gradients(score: ScanScore, volume: Tensor, *, baseline: Tensor) -> Tensor:
    """The gradient along the straight line from the baseline, times the way.

    Args:
        score: The score.
        volume: A scan [1, X, Y, Z].
        baseline: What it is compared with [1, X, Y, Z].

    Returns:
        What each voxel adds to the score [1, X, Y, Z]; the sum is the score minus the baseline's.

    Raises:
        InputError: captum is not installed.
    """
    method = _need("captum").attr.IntegratedGradients(score)
    found: Tensor = method.attribute(
        volume[None], baseline[None], n_steps=GRADIENT_STEPS, internal_batch_size=AT_ONCE
    )
    return found[0].detach()


@torch.no_grad()
def occlusion(score: ScanScore, volume: Tensor, *, baseline: Tensor) -> Tensor:
    """How much the score falls when a box shows the baseline; 8 boxes along each side.

    Args:
        score: The score.
        volume: A scan [1, X, Y, Z].
        baseline: What the boxes show [1, X, Y, Z].

    Returns:
        Score minus the score with the box that a voxel lies in occluded, [1, X, Y, Z].

    Raises:
        InputError: captum is not installed.
    """
    box = tuple(-(-side // WINDOWS) for side in volume.shape[1:])
    found: Tensor = (
        _need("captum")
        .attr.Occlusion(score)
        .attribute(
            volume[None],
            sliding_window_shapes=(1, *box),
            strides=(1, *box),
            baselines=baseline[None],
            perturbations_per_eval=AT_ONCE,
        )
    )
    return found[0]


@torch.no_grad()
def slice_shapley(
    score: ScanScore, volume: Tensor, *, baseline: Tensor, seed: int = 0
) -> NDArray[np.float64]:
    """Shapley value of each slice: an absent slice's token is the baseline's.

    Args:
        score: The score.
        volume: A scan [1, X, Y, Z].
        baseline: What it is compared with [1, X, Y, Z].
        seed: Seed of the orders in which slices come in.

    Returns:
        What each slice adds to the score [S]; the sum is the score minus the baseline's.

    Raises:
        InputError: captum is not installed.
    """
    present, absent = score.encoder.tokens(torch.stack([volume, baseline]))

    def with_slices(shown: Tensor) -> Tensor:
        return score.of_tokens(torch.where(shown[:, :, None] > 0, present, absent))

    method = _need("captum").attr.ShapleyValueSampling(with_slices)
    everything = torch.ones(1, len(present), device=present.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = method.attribute(everything, n_samples=SHAPLEY_ORDERS, perturbations_per_eval=AT_ONCE)
    return np.asarray(found[0].double().cpu())


def code_shapley(
    head: Head,
    codes: NDArray[np.float64],
    *,
    background: NDArray[np.float64],
    target_class: Any = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Shapley values of the numbers of a code: exact for a linear score, else of a random order and back.

    Args:
        head: A fitted head.
        codes: Codes to explain [N, D].
        background: Training codes [M, D]: the mean of a linear score's, 16 of them for any other.
        target_class: Class that the score speaks of; may be left out for two classes and regression.
        seed: Seed of the order, and of the 16.

    Returns:
        [N, D]; a row adds up to the score minus the mean score of the background.

    Raises:
        InputError: shap is not installed.
    """
    shap = _need("shap")

    def says(rows: NDArray[np.floating]) -> NDArray[np.float64]:
        return head_score(head, rows, target_class=target_class)

    weights = linear_weights(head, target_class=target_class)
    if weights is not None:
        middle = background.mean(axis=0)
        offset = float(says(middle[None])[0] - weights @ middle)
        masker = shap.maskers.Independent(background, max_samples=len(background))
        return np.asarray(shap.LinearExplainer((weights, offset), masker).shap_values(codes))
    some = np.random.default_rng(seed).permutation(len(background))[:BACKGROUND]
    explainer = shap.PermutationExplainer(says, background[some], seed=seed)
    return np.asarray(explainer(codes, max_evals=2 * codes.shape[1] + 1, silent=True).values)


def linear_weights(head: Head, *, target_class: Any = None) -> NDArray[np.float64] | None:
    """Slope of a score that is linear in the code [D]; None where it is not."""
    if isinstance(head, RidgeProbe):
        return head.direction_
    if isinstance(head, LinearProbe) and len(head.classes_) == 2:
        same = class_label(head, target_class) == class_label(head, None)
        return head.direction_ if same else -head.direction_
    return None


def _need(module: str) -> ModuleType:
    try:
        found = import_module(module)
        import_module({"captum": "captum.attr", "shap": "shap.maskers"}[module])
    except ImportError as error:
        raise InputError(
            f"Explanations need {module}. Install it with: pip install 'ldae[explain]'"
        ) from error
    return found
