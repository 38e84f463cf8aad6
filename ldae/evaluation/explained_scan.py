# SPDX-License-Identifier: Apache-2.0
"""Why a head says what it says of one scan: voxels, slices, numbers of the code, and its counterfactual."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ldae.data.scan import Scan
from ldae.diffusion.samplers import Solver
from ldae.errors import InputError
from ldae.evaluation.attribution import (
    ScanScore,
    code_shapley,
    integrated_gradients,
    occlusion,
    slice_shapley,
)
from ldae.evaluation.codes import batches
from ldae.evaluation.material import ScanSet, first_visits
from ldae.heads.directions import class_label, head_output
from ldae.heads.score import check_smooth, head_score
from ldae.pipeline.head_folder import FittedHead
from ldae.pipeline.manipulation import make_direction, resolve_head
from ldae.pipeline.manipulation_job import class_named

GRADIENTS, OCCLUSION, COUNTERFACTUAL = "integrated gradients", "occlusion", "counterfactual"
NO_MODEL = "scan minus baseline"
"""What needs no model to be seen: an explanation should find more."""
FAR = 2.0  # standard deviations of the training codes along the direction of the head


@dataclass(frozen=True)
class Explained:
    """What was found of one scan.

    Attributes:
        scan: The scan on the pipeline's grid.
        maps: By method, [1, X, Y, Z]; the counterfactual's is its difference from the reconstruction.
        slices: Columns slice, attention, shapley.
        code: Shapley value of each number of the code [D].
        numbers: The scores behind it.
    """

    scan: Scan
    maps: dict[str, Tensor]
    slices: pd.DataFrame
    code: NDArray[np.float64]
    numbers: dict[str, float]


@dataclass(frozen=True)
class Explainer:
    """A head on a pipeline, and the training scans that others are compared with.

    Attributes:
        scans: The opened material.
        fitted: The head.
        target_class: Class that the score speaks of; None for regression.
        baseline: The mean training scan [1, X, Y, Z].
        codes: Training codes [M, D].
    """

    scans: ScanSet
    fitted: FittedHead
    target_class: Any
    baseline: Tensor
    codes: NDArray[np.float64]

    @classmethod
    def open(cls, scans: ScanSet, *, head: Path, target_class: str | None) -> Explainer:
        """Load the head, and average the training scans, one a subject.

        Raises:
            FileNotFoundError: There is no such head.
            CheckpointError: The head was fitted on another pipeline's codes.
            InputError: The head has depths, changes in jumps, or the class is unknown.
        """
        statistics = scans.pipeline.statistics
        fitted = resolve_head(head, std=statistics.std, pipeline=scans.pipeline.sha256)
        width, known = len(statistics.mean), getattr(fitted.head, "n_features_in_", None)
        if known != width:
            raise InputError(
                f"An explained head must be fitted on the semantic code alone, {width} numbers, got {head}, "
                f"fitted on {known}. Fit it without --depths and --context."
            )
        check_smooth(fitted.head)
        chosen = class_label(fitted.head, class_named(fitted.head, target_class))
        baseline, codes = _training(scans)
        return cls(scans, fitted, chosen, baseline, codes)

    def score_of(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Scores of codes [N, D]."""
        return head_score(self.fitted.head, codes, target_class=self.target_class)

    def explain(
        self, path: str | Path, *, steps: int, decode_steps: int, solver: Solver, seed: int
    ) -> Explained:
        """Explain what the head says of a scan.

        Args:
            path: The scan's file.
            steps: Network calls from latent to noise, for the counterfactual.
            decode_steps: Network calls from noise to latent.
            solver: How the encoding steps are taken.
            seed: Seed of the orders of Shapley values.
        """
        networks, head = self.scans.pipeline.networks, self.fitted.head
        scan = self.scans.pipeline.read(path)
        volume, baseline = scan.data.to(networks.device), self.baseline.to(networks.device)
        score = ScanScore(networks.encoder, head, target_class=self.target_class)
        found = networks.encoder.describe(torch.stack([volume, baseline]))
        codes = found.code.double().cpu().numpy()
        gradients = integrated_gradients(score, volume, baseline=baseline)
        slices = slice_shapley(score, volume, baseline=baseline, seed=seed)
        shapley = code_shapley(
            head, codes[:1], background=self.codes, target_class=self.target_class, seed=seed
        )
        difference, moved = self._counterfactual(scan, steps=steps, decode_steps=decode_steps, solver=solver)
        maps = {
            GRADIENTS: gradients,
            OCCLUSION: occlusion(score, volume, baseline=baseline),
            COUNTERFACTUAL: difference,
            NO_MODEL: volume - baseline,
        }
        own, standard = self.score_of(codes)
        attention = found.attention[0].cpu().numpy()
        return Explained(
            scan,
            {name: one.float().cpu() for name, one in maps.items()},
            pd.DataFrame({"slice": range(len(slices)), "attention": attention, "shapley": slices}),
            shapley[0],
            {
                "score": float(own),
                "score_baseline": float(standard),
                "score_training": float(self.score_of(self.codes).mean()),
                "sum_gradients": float(gradients.double().sum()),
                "sum_slices": float(slices.sum()),
                "sum_code": float(shapley.sum()),
                "score_counterfactual": moved,
            },
        )

    def _counterfactual(
        self, scan: Scan, *, steps: int, decode_steps: int, solver: Solver
    ) -> tuple[Tensor, float]:
        """Counterfactual minus reconstruction, and the score of its code."""
        pipeline, head = self.scans.pipeline, self.fitted.head
        direction = make_direction(
            self.fitted, statistics=pipeline.statistics, target_class=self.target_class
        )
        code = pipeline.encode(scan, steps=steps, solver=solver)
        own, typical = self.score_of([code.semantic.double().numpy(), pipeline.statistics.mean])
        end = direction.move(code.semantic.double().numpy(), -FAR if own > typical else FAR)
        target = float(head_output(head, end[None], target_class=self.target_class)[0])
        moves = pipeline.move(code, self.fitted, targets=[target], target_class=self.target_class)
        (made,) = pipeline.render_moves(code, moves, steps=decode_steps)
        moved = self.score_of(made.code.semantic.double().numpy()[None])
        return made.difference.data, float(moved[0])


def _training(scans: ScanSet) -> tuple[Tensor, NDArray[np.float64]]:
    """The mean scan [1, X, Y, Z] and the codes [M, D] of the training subjects, one scan each."""
    networks, rows = scans.pipeline.networks, first_visits(scans.part("train"))
    total: Tensor | float = 0.0
    codes = []
    for some in batches(rows, size=networks.volume_batch):
        volumes = scans.volumes(some)
        total = total + volumes.double().sum(0)
        codes.append(networks.describe(volumes).double().numpy())
    return torch.as_tensor(total / len(rows)).float(), np.concatenate(codes)
