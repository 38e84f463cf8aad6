# SPDX-License-Identifier: Apache-2.0
"""Counterfactuals beside the scans that would really have been: the same person with the other diagnosis.

The target is fair: the head's score (log odds, or its number) is to change by as much as it differs between
validation scans with and without the change. The true scans are only looked at to judge the result.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from ldae.data.phantom_truth import KnownCohort
from ldae.evaluation.bootstrap import Weights, with_intervals
from ldae.evaluation.change import Change
from ldae.evaluation.codes import EncodedScans
from ldae.evaluation.material import SCANS_AT_ONCE, ScanSet
from ldae.evaluation.truth import Regions, Truth, compare, render_truth
from ldae.evaluation.ventricles import VentricleEstimator
from ldae.evaluation.workers import side_by_side
from ldae.heads.directions import Direction, Head, class_index, head_output
from ldae.heads.score import CERTAIN, head_score
from ldae.heads.typical import typical_direction
from ldae.pipeline.head_folder import FittedHead
from ldae.pipeline.manipulation import move_code
from ldae.pipeline.statistics import TrainingStatistics

NAME = "true counterfactuals"
POPULATION = "val"  # the head has not seen it, and it is not judged on it
DECODED, ADDED = "decoded", "added to the scan"
METHODS = {
    "nothing": "no change",
    "linear": "mean difference image of the training scans",
    "linear_to_target": "the same, scaled until the head says the target of the image",
    "weights": "code moved along the head's own weights",
    "manipulated": "code moved as `ldae manipulate` does, along the head's typical direction",
    "manipulated_to_target": "the same, the step scaled until the head says the target of the image",
    "manipulated_held": "code moved along it with the outputs of the held heads kept",
    "true_code": "the true scan's own code with this scan's noise code: what the decoder allows",
    "autoencoder": "the true scan through the autoencoder: the ceiling of what is decoded",
}
OURS, OTHERS = ("weights", "manipulated"), ("nothing", "linear", "linear_to_target")
GAINS = (0.5, 2.0)
AT_ONCE = 8  # scans; each is decoded by every method


@dataclass(frozen=True)
class Judges:
    """What images are measured with.

    Attributes:
        head: The head whose output is to change.
        target_class: Class that its probability speaks of; None for regression.
        held: Heads whose outputs are to stay.
        estimator: Reads the ventricle volume off an image.
    """

    head: FittedHead
    target_class: Any
    held: Sequence[FittedHead]
    estimator: VentricleEstimator


@dataclass(frozen=True)
class Case:
    """Scans with their codes, and what they would have been."""

    change: Change
    volumes: Tensor
    codes: EncodedScans
    truth: Truth
    images: Tensor

    def take(self, places: list[int]) -> Case:
        """Some of the scans."""
        truth = Truth(self.truth.volumes[places], self.truth.ventricle_ml[places])
        codes = self.codes.take(places)
        return Case(self.change.take(places), self.volumes[places], codes, truth, self.images[places])


def compare_with_truth(
    scans: ScanSet,
    known: KnownCohort,
    *,
    rows: pd.DataFrame,
    codes: EncodedScans,
    judges: Judges,
    steps: int,
    thorough: bool,
    progress: bool = False,
) -> pd.DataFrame:
    """One row a subject, method and rendering.

    Args:
        scans: The opened material.
        known: The synthetic cohort behind it.
        rows: The scans to change.
        codes: Their codes.
        judges: Heads and volume estimator.
        steps: Network calls from noise to latent.
        thorough: Also hold the held heads, and decode the true scan's own code.
        progress: Show a bar.
    """
    column = str(judges.head.provenance.get("target", "diagnosis"))
    case = _case(scans, known, change=Change.of(column, rows), codes=codes)
    moved = _moved_codes(scans, case, judges=judges, thorough=thorough)
    places = np.array_split(np.arange(len(rows)), max(1, len(rows) // AT_ONCE))

    def judge(part_of: NDArray[np.intp]) -> pd.DataFrame:
        some = part_of.tolist()
        part = {name: semantic[some] for name, semantic in moved.items()}
        chosen = case.take(some)
        decoded = _decode(scans, chosen, moved=part, steps=steps)
        scale = functools.partial(_gains, scans, before=decoded["nothing"], moved=part, judges=judges)
        if thorough:
            step = scale(decoded["manipulated"])[:, None] * (part["manipulated"] - part["nothing"])
            again = {"manipulated_to_target": part["nothing"] + step}
            decoded |= _decode(scans, chosen, moved=again, steps=steps)
        linear = (decoded["nothing"] + chosen.images).clamp(0, 1)
        gains = scale(linear)[:, None, None, None, None]
        return _judge(scans, chosen, decoded=decoded, linear_gains=gains, judges=judges)

    found = side_by_side(judge, places, networks=scans.pipeline.networks, name=NAME, progress=progress)
    return pd.concat(found, ignore_index=True)


def _case(scans: ScanSet, known: KnownCohort, *, change: Change, codes: EncodedScans) -> Case:
    truth = render_truth(scans, known, rows=change.rows, factors=change.factors(known))
    train = scans.part("train")
    images = change.image(scans.maps(train), population=train)
    return Case(change, scans.volumes(change.rows), codes, truth, torch.from_numpy(images)[:, None])


def _moved_codes(scans: ScanSet, case: Case, *, judges: Judges, thorough: bool) -> dict[str, Tensor]:
    """Semantic codes [N, D] by method; those of the scans themselves come first."""
    statistics, networks = scans.pipeline.statistics, scans.pipeline.networks
    others = scans.part(POPULATION)
    said = score(judges, networks.describe(scans.volumes(others)).double().numpy())
    own = score(judges, case.codes.semantic.double().numpy())
    targets = own + case.change.shift(said, population=others)
    direction = judges.head.direction(std=statistics.std, target_class=judges.target_class)
    typical = typical_direction(direction, whitening=statistics.whitening)
    directions = {"weights": direction, "manipulated": typical}
    moved = {"nothing": case.codes.semantic}
    if thorough:
        held = [row for head in judges.held for row in _rows(head, statistics)]
        if held:
            directions["manipulated_held"] = typical_direction(
                direction, whitening=statistics.whitening, held=held
            )
        moved["true_code"] = networks.describe(case.truth.volumes)
    for name, taken in directions.items():
        moved[name] = _move(
            case.codes.semantic, judges, direction=taken, targets=targets, statistics=statistics
        )
    return moved


def _rows(head: FittedHead, statistics: TrainingStatistics) -> list[Direction]:
    return [Direction(unit=row, std=statistics.std) for row in head.directions]


def _move(
    codes: Tensor,
    judges: Judges,
    *,
    direction: Direction,
    targets: NDArray[np.float64],
    statistics: TrainingStatistics,
) -> Tensor:
    classifies = class_index(judges.head.head, judges.target_class) is not None
    wanted = np.clip(expit(targets), CERTAIN, 1 - CERTAIN) if classifies else targets
    moves = [
        move_code(
            code,
            judges.head,
            direction=direction,
            target=float(target),
            statistics=statistics,
            target_class=judges.target_class,
        )
        for code, target in zip(codes, wanted, strict=True)
    ]
    return torch.stack([move.semantic for move in moves])


def score(judges: Judges, codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds of the target class, or what a regression head predicts, of codes [N, D]."""
    return head_score(judges.head.head, codes, target_class=judges.target_class)


def _decode(scans: ScanSet, case: Case, *, moved: dict[str, Tensor], steps: int) -> dict[str, Tensor]:
    """Images of moved codes, with the scans' own noise codes."""
    return {
        name: scans.pipeline.decode_tensors(
            semantic, case.codes.stochastic, steps=steps, batch_size=SCANS_AT_ONCE
        )
        for name, semantic in moved.items()
    }


def _gains(
    scans: ScanSet, image: Tensor, *, before: Tensor, moved: dict[str, Tensor], judges: Judges
) -> Tensor:
    """By what a change must be scaled for the head to say the target of the image [N], to first order.

    What the head says of an image misses what it says of the code: the noise code keeps some anatomy.
    """
    describe = scans.pipeline.networks.describe
    start, end = (score(judges, moved[name].double().numpy()) for name in ("nothing", "manipulated"))
    was, found = (score(judges, describe(volumes).double().numpy()) for volumes in (before, image))
    reached = found - was
    gains = np.divide(end - start, reached, out=np.ones_like(reached), where=reached != 0)
    return torch.from_numpy(np.clip(gains, *GAINS)).float()


def _judge(
    scans: ScanSet, case: Case, *, decoded: dict[str, Tensor], linear_gains: Tensor, judges: Judges
) -> pd.DataFrame:
    """Every method in both renderings: as decoded, and as the decoded change added to the scan."""
    before = decoded["nothing"]
    added = {name: (case.volumes + image - before).clamp(0, 1) for name, image in decoded.items()}
    for images, start in ((decoded, before), (added, case.volumes)):
        images["linear"] = (start + case.images).clamp(0, 1)
        images["linear_to_target"] = (start + linear_gains * case.images).clamp(0, 1)
    networks = scans.pipeline.networks
    decoded["autoencoder"] = networks.expand(networks.compress(case.truth.volumes))
    regions = Regions.between(case.volumes, case.truth.volumes)
    parts = []
    for rendering, images in ((DECODED, decoded), (ADDED, added)):
        parts += [
            _measured(
                scans, case, image=images[name], before=images["nothing"], regions=regions, judges=judges
            ).assign(method=name, rendering=rendering)
            for name in METHODS
            if name in images
        ]
    return pd.concat(parts, ignore_index=True)


def _measured(
    scans: ScanSet, case: Case, *, image: Tensor, before: Tensor, regions: Regions, judges: Judges
) -> pd.DataFrame:
    rows, networks = case.change.rows, scans.pipeline.networks
    volume = judges.estimator.predict(image[:, 0].numpy())
    code, was = (networks.describe(volumes).double().numpy() for volumes in (image, before))
    columns = {
        "subject": list(rows["subject"]),
        "session": list(rows["session"]),
        "from": list(rows[case.change.column]),
        "to": list(case.change.wanted),
        **compare(image, case.truth.volumes, unchanged=before, regions=regions),
        "true_ml": case.truth.ventricle_ml,
        "ventricle_ml": volume,
        "ventricle_error_ml": np.abs(volume - case.truth.ventricle_ml),
        "ventricle_excess_ml": case.change.sign * (volume - case.truth.ventricle_ml),
        "score_change": case.change.sign * (score(judges, code) - score(judges, was)),
    }
    for head in judges.held:
        said = (_first_output(head.head, codes) for codes in (code, was))
        name = str(head.provenance.get("target", "held"))
        columns[f"{name}_change"] = np.abs(next(said) - next(said))
    return pd.DataFrame(columns)


def _first_output(head: Head, codes: NDArray[np.float64]) -> NDArray[np.float64]:
    classes = getattr(head, "classes_", None)
    return head_output(head, codes, target_class=None if classes is None else classes.tolist()[0])


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Means by method and rendering, in the order in which they are explained."""
    texts = ("subject", "session", "from", "to", "method", "rendering")
    numbers = [name for name in table.columns if name not in texts]
    means = table.groupby(["rendering", "method"], sort=False)[numbers].mean().reset_index()
    return means.assign(meaning=means["method"].map(METHODS))


def truth_values(table: pd.DataFrame) -> dict[str, Any]:
    """The main numbers: likeness in the changed region, error of the volume, and gains with intervals.

    A gain is the share of another method's squared error that is avoided, in the changed region or in the
    whole volume.
    """
    values: dict[str, Any] = {"truth_subjects": int(table["subject"].nunique())}
    for rendering, ending in ((DECODED, ""), (ADDED, "_added")):
        part = table[table["rendering"] == rendering]
        wide = part.pivot(index="subject", columns="method")
        for method in (*OTHERS, *OURS):
            for column in ("ssim_changed", "mse_changed", "moved_rest", "ventricle_error_ml"):
                values[f"truth_{column}_{method}{ending}"] = float(wide[column][method].mean())
        for ours, other in itertools.product(OURS, OTHERS):
            for column, where in (("mse_changed", ""), ("mse", "_whole")):
                errors = wide[column][[ours, other]].to_numpy()
                found = with_intervals(functools.partial(_gain, errors=errors), wide.index)
                name = f"truth_gain{where}_{ours}_over_{other}{ending}"
                values |= {name: found["gain"], f"{name}_ci": found["gain_ci"]}
    return values


def _gain(weights: Weights, *, errors: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    ours, other = (weights @ errors).T
    return {"gain": 1 - ours / other}
