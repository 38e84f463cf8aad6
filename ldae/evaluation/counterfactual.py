# SPDX-License-Identifier: Apache-2.0
"""Whether counterfactuals move what they should: ventricle volume against the wanted probability of AD."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from ldae.data.phantom_truth import KnownCohort, is_synthetic
from ldae.diffusion.samplers import DEFAULT_SOLVER, Solver
from ldae.errors import InputError
from ldae.evaluation.bootstrap import mean_with_interval
from ldae.evaluation.codes import EncodedScans, encode_scans
from ldae.evaluation.known_counterfactual import Judges, compare_with_truth, summarise, truth_values
from ldae.evaluation.material import SCANS_AT_ONCE, Material, ScanSet, first_visits, open_scans
from ldae.evaluation.predictions import POSITIVE
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.ventricles import VentricleEstimator
from ldae.evaluation.workers import side_by_side
from ldae.heads.directions import head_output
from ldae.pipeline.head_folder import FittedHead, load_head
from ldae.pipeline.manipulation import Move, make_direction, move_code, resolve_head
from ldae.pipeline.statistics import TrainingStatistics

logger = logging.getLogger(__name__)

NAME = "counterfactual"
TARGETS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
TRUTH = "ventricle_ml"
TRUSTED_CORRELATION = 0.95
TRUE_SCANS = 16  # compared with the truth, unless all are
TRUTH_TABLE, TRUTH_SCANS = "truth.csv", "truth_scans.csv"


def evaluate_counterfactual(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    head: str | Path,
    out: str | Path,
    split: str = "test",
    targets: Sequence[float] | None = None,
    target_class: str | None = None,
    steps: int = 20,
    decode_steps: int = 10,
    solver: Solver = DEFAULT_SOLVER,
    seed: int = 0,
    limit: int | None = 32,
    hold: Sequence[str | Path] = (),
    thorough: bool = False,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Render each subject at several probabilities of a class and measure the ventricles of what comes out.

    Spearman's correlation between target and measured volume is taken within a subject and averaged over
    subjects; 0 for one whose volume does not change. The estimator that measures has learned from the
    training scans and is first compared with the known volumes of all scans of the split.

    Where the cohort is synthetic, the first of these subjects also get the other diagnosis (or another age,
    if that is what the head tells) and are compared with the true scans: see `known_counterfactual`.

    Args:
        pipeline: Folder of the pipeline.
        cohort: The cohort's table, with the column ventricle_ml.
        head: Folder of the fitted head, usually heads/diagnosis of the run.
        out: Folder of the results, such as evaluation/counterfactual of the run.
        split: Scans to judge it on.
        targets: Wanted probabilities, or predictions; None takes 0.05 to 0.95, or for a head that predicts
            a number those quantiles of what it says of the scans.
        target_class: Class that probabilities speak of; None takes AD.
        steps: Network calls from latent to noise.
        decode_steps: Network calls from noise to latent; few suffice for a volume.
        solver: How the encoding steps are taken.
        seed: Seed that draws the subjects.
        limit: So many subjects at most, one scan each, the first visit; None takes all.
        hold: Folders of heads whose outputs should stay, which is measured.
        thorough: Compare all of these subjects with their true scans, not 16 only, by more methods.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show a bar.
        run_dir: Folder of the run, for its cache of volumes; None takes the one that holds the pipeline.

    Returns:
        The folder, with table.csv (by target), scans.csv and result.json; where the cohort is synthetic also
        truth.csv (by method) and truth_scans.csv.

    Raises:
        InputError: The cohort has no known volumes, or is synthetic but of another recipe, or the targets
            are out of reach.
        CheckpointError: The head was fitted on another pipeline's codes.
    """
    head = Path(head)
    material = Material.of(
        pipeline, cohort, out=out, run_dir=run_dir, split=split, device=device, progress=progress
    )

    known = KnownCohort.open(cohort) if thorough or is_synthetic(cohort) else None
    if hasattr(load_head(head).head, "classes_"):
        targets, target_class = targets or TARGETS, target_class or POSITIVE

    def compute() -> Findings:
        scans = open_scans(material)
        statistics = scans.pipeline.statistics
        fitted = resolve_head(head, std=statistics.std, pipeline=scans.pipeline.sha256)
        estimator = fit_estimator(scans, cohort=material.cohort)
        codes = encode_scans(scans, material, steps=steps, solver=solver)
        rows = first_visits(scans.rows, limit=limit, seed=seed)
        chosen = codes.take(list(rows.index))
        said = head_output(fitted.head, chosen.semantic.double().numpy(), target_class=target_class)
        wanted = targets or np.quantile(said, TARGETS).tolist()
        moves = find_moves(
            statistics, fitted, codes=chosen.semantic, targets=wanted, target_class=target_class
        )
        rendered = _Rendered(scans, chosen, moves, estimator, decode_steps)
        table = _rows(rows, moves, volumes=rendered.volumes(progress=progress))
        judged = _judge_estimator(scans, estimator, rows=rows, latents=chosen.latents)
        findings = _findings(table, estimator=judged, scans=len(scans.rows), unreachable=moves.count([]))
        if known is not None:
            known.check(rows.iloc[0].to_dict())
            judges = Judges(fitted, target_class, held=_load_held(scans, hold), estimator=estimator)
            some = len(rows) if thorough else min(TRUE_SCANS, len(rows))
            compared = compare_with_truth(
                scans,
                known,
                rows=rows.iloc[:some],
                codes=chosen.take(list(range(some))),
                judges=judges,
                steps=decode_steps,
                thorough=thorough,
                progress=progress,
            )
            findings.values |= truth_values(compared)
            findings.more |= {TRUTH_TABLE: summarise(compared), TRUTH_SCANS: compared}
        return findings

    settings = {
        "head": str(head),
        "targets": targets and list(targets),
        "target_class": target_class,
        "steps": steps,
        "decode_steps": decode_steps,
        "solver": solver,
        "seed": seed,
        "limit": limit,
        "hold": [str(folder) for folder in hold],
        "thorough": thorough,
    }
    return evaluate_once(
        material,
        name=NAME,
        settings=settings,
        compute=compute,
        inputs=[head, *map(Path, hold), *([known.parameters] if known else [])],
        more=[TRUTH_TABLE, TRUTH_SCANS] if known else [],
    )


def _load_held(scans: ScanSet, hold: Sequence[str | Path]) -> list[FittedHead]:
    statistics, pipeline = scans.pipeline.statistics, scans.pipeline.sha256
    return [resolve_head(folder, std=statistics.std, pipeline=pipeline) for folder in hold]


def fit_estimator(scans: ScanSet, *, cohort: Path) -> VentricleEstimator:
    """An estimator of the ventricle volume, fitted on the training scans.

    Raises:
        InputError: The cohort has no known volumes.
    """
    if TRUTH not in scans.frame.columns:
        raise InputError(
            f"A cohort must have the column {TRUTH} with known volumes for this, got none in {cohort}. "
            "Use a synthetic cohort (ldae phantom), or add volumes from a segmentation."
        )
    train = scans.part("train").dropna(subset=[TRUTH])
    return VentricleEstimator().fit(scans.maps(train), train[TRUTH], subjects=train["subject"])


def find_moves(
    statistics: TrainingStatistics,
    fitted: FittedHead,
    *,
    codes: Tensor,
    targets: Sequence[float],
    target_class: str | None,
) -> list[list[Move]]:
    """Moved codes, one a target, for each scan; none for a scan for which a target is out of reach.

    Raises:
        InputError: The targets are in reach for fewer than two scans.
    """
    direction = make_direction(fitted, statistics=statistics, target_class=target_class)

    def move(code: Tensor, target: float) -> Move:
        return move_code(
            code,
            fitted,
            direction=direction,
            target=target,
            statistics=statistics,
            target_class=target_class,
        )

    def series(code: Tensor) -> list[Move]:
        try:
            return [move(code, target) for target in targets]
        except InputError as error:
            logger.warning("Left out: %s", error)
            return []

    moves = [series(code) for code in codes]
    reached = sum(map(bool, moves))
    if reached < 2:
        raise InputError(
            f"Targets {list(targets)} must be within reach for at least 2 subjects, got {reached}. "
            "The head hardly changes along its direction: fit it on more scans, or choose milder targets."
        )
    return moves


def within_subject_spearman(targets: Sequence[float], volumes: Sequence[float]) -> float:
    """Spearman's correlation of one subject's series; 0 where the volume does not change."""
    if np.ptp(volumes) == 0:
        return 0.0
    return float(spearmanr(targets, volumes).statistic)


@dataclass(frozen=True)
class _Rendered:
    """The counterfactuals of some scans, rendered when their volumes are asked for."""

    scans: ScanSet
    codes: EncodedScans
    moves: Sequence[Sequence[Move]]
    estimator: VentricleEstimator
    steps: int

    def volumes(self, *, progress: bool) -> list[float]:
        """Ventricle volume of each in ml, subject by subject and in the order of the targets."""
        pairs = [(place, move) for place, series in enumerate(self.moves) for move in series]
        chunks = [pairs[start : start + SCANS_AT_ONCE] for start in range(0, len(pairs), SCANS_AT_ONCE)]
        networks = self.scans.pipeline.networks
        found = side_by_side(self._volumes, chunks, networks=networks, name=NAME, progress=progress)
        return [volume for part in found for volume in part]

    def _volumes(self, pairs: Sequence[tuple[int, Move]]) -> list[float]:
        rendered = self.scans.pipeline.decode_tensors(
            torch.stack([move.semantic for _, move in pairs]),
            self.codes.stochastic[[place for place, _ in pairs]],
            steps=self.steps,
            batch_size=SCANS_AT_ONCE,
        )
        return [float(volume) for volume in self.estimator.predict(rendered[:, 0].numpy())]


def _rows(rows: pd.DataFrame, moves: Sequence[Sequence[Move]], *, volumes: Sequence[float]) -> pd.DataFrame:
    """One row a subject and target."""
    pairs = [(row, move) for row, series in zip(rows.itertuples(), moves, strict=True) for move in series]
    return pd.DataFrame(
        [
            {
                "subject": row.subject,
                "session": row.session,
                "diagnosis": row.diagnosis,
                "true_ml": getattr(row, TRUTH),
                "target": move.target,
                "head_before": move.start,
                "head_after": move.achieved,
                "step": move.step,
                "code_distance": move.distance,
                "ventricle_ml": volume,
            }
            for (row, move), volume in zip(pairs, volumes, strict=True)
        ]
    )


def _judge_estimator(
    scans: ScanSet, estimator: VentricleEstimator, *, rows: pd.DataFrame, latents: Tensor
) -> dict[str, float]:
    """Correlation with the known volumes, on real scans and on some of them through the autoencoder."""
    known = scans.rows.dropna(subset=[TRUTH])
    guess = estimator.predict(scans.maps(known))
    through = estimator.predict(scans.pipeline.networks.expand(latents)[:, 0].numpy())
    return {
        "ventricle_estimator_r": _correlation(guess, known[TRUTH]),
        "ventricle_estimator_mae_ml": float(np.abs(guess - known[TRUTH]).mean()),
        "ventricle_estimator_r_autoencoder": _correlation(through, rows[TRUTH]),
    }


def _correlation(first: Any, second: Any) -> float:
    return float(np.corrcoef(np.asarray(first, float), np.asarray(second, float))[0, 1])


def _findings(table: pd.DataFrame, *, estimator: dict[str, float], scans: int, unreachable: int) -> Findings:
    by_subject = table.groupby("subject", sort=False)
    agreement = by_subject.apply(
        lambda part: within_subject_spearman(list(part["target"]), list(part["ventricle_ml"]))
    )
    rising = by_subject["ventricle_ml"].agg(lambda volumes: bool((np.diff(volumes) > 0).all()))
    change = by_subject["ventricle_ml"].agg(lambda volumes: float(volumes.iloc[-1] - volumes.iloc[0]))
    mean, interval = mean_with_interval(agreement, agreement.index)
    values = {
        "counterfactual_spearman": mean,
        "counterfactual_spearman_ci": interval,
        "counterfactual_monotone_share": float(rising.mean()),
        "counterfactual_change_ml": float(change.mean()),
        **estimator,
    }
    notes = []
    if estimator["ventricle_estimator_r"] < TRUSTED_CORRELATION:
        notes.append(
            f"The volume estimator agrees with known volumes to r = {estimator['ventricle_estimator_r']:.3f} "
            f"only, less than {TRUSTED_CORRELATION}: do not lean on measured volumes."
        )
    if unreachable:
        notes.append(f"{unreachable} subjects were left out: a target is out of the head's reach for them.")
    counts = {
        "scans": len(by_subject),
        "subjects": len(by_subject),
        "unreachable_subjects": unreachable,
        "estimator_scans": scans,
    }
    return Findings(values, _by_target(table), table, counts, notes)


def _by_target(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for target, group in table.groupby("target"):
        mean, (low, high) = mean_with_interval(group["ventricle_ml"], group["subject"])
        rows.append(
            {
                "target": target,
                "ventricle_ml": mean,
                "ventricle_ml_low": low,
                "ventricle_ml_high": high,
                "head_after": group["head_after"].mean(),
                "code_distance": group["code_distance"].mean(),
            }
        )
    return pd.DataFrame(rows)
