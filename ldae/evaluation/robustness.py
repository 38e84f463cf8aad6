# SPDX-License-Identifier: Apache-2.0
"""Heads under shift: corrupted scans, attacked scans, and scans that they were not made for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ldae import __version__
from ldae.data.artefact import sha256_json
from ldae.data.target import DEFAULT_CLASSES, is_number
from ldae.errors import InputError
from ldae.evaluation.attacks import APGD_STEPS, PGD_STEPS
from ldae.evaluation.codes import pipeline_folder
from ldae.evaluation.default_head import CHOSEN, NAME, choose_head, judge_heads
from ldae.evaluation.head_choice import LINEAR
from ldae.evaluation.material import Material, ScanSet, first_visits, open_scans
from ldae.evaluation.outside import FAR, NEAR, UNSEEN
from ldae.evaluation.predictions import POSITIVE
from ldae.evaluation.probes import select_rows
from ldae.evaluation.record import Findings, evaluate_once
from ldae.evaluation.robust_heads import (
    ATTACKED,
    CAL,
    CLEAN,
    CORRUPTION,
    OUTSIDE,
    QUICK,
    TEST,
    TRAIN,
    TRANSFER,
    VAL,
    WHITE_BOX,
    Answers,
    Plan,
    Shift,
    shifts_of,
)
from ldae.evaluation.robust_notes import robust_notes
from ldae.evaluation.robust_scores import (
    Judged,
    conformal_sets,
    doubts_of,
    head_scores,
    judged,
    mean_scores,
    outside_scores,
    own_doubt,
)
from ldae.evaluation.shifted_codes import ShiftedCodes
from ldae.heads.conformal import ConformalSets
from ldae.pipeline.folder import read_index

CHOICE, COSTS = "choice.csv", "costs.csv"
SHOWN = ("balanced_accuracy", "auc", "nll", "ece", "aurc")
CELLS = "cells"

Row = dict[str, Any]


def evaluate_robustness(
    pipeline: str | Path,
    cohort: str | Path,
    *,
    out: str | Path,
    target: str = "diagnosis",
    quick: bool = False,
    seed: int = 0,
    device: str = "auto",
    progress: bool = False,
    run_dir: str | Path | None = None,
) -> Path:
    """Fit every head on clean training scans and judge it on test scans under every shift.

    - Corruptions of the scans, graded, which are encoded again (`ldae.evaluation.corruptions`).
    - Attacks on scans: made for the linear probe and shown to every head (transfer, as LaDiNE was tested),
      and made for six heads end to end, through the encoder (white box).
    - Scans that no head was made for, near and far (`ldae.evaluation.outside`).

    Everything that is computed is kept as a file, so that an interrupted benchmark goes on where it was.

    Args:
        pipeline: Folder of the pipeline.
        cohort: The cohort's table.
        out: Folder of the results, such as evaluation/robustness of the run.
        target: Column of classes; of a diagnosis CN and AD are told apart, and other diagnoses are outside.
        quick: A small part of it, to see that it runs.
        seed: The first of the seeds.
        device: "auto" (a GPU where there is one), "cpu", "cuda:1" and so on.
        progress: Show bars.
        run_dir: Folder of the run; None takes the one that holds the pipeline.

    Returns:
        The folder: table.csv with a row a head, a table for each shift, choice.csv (which heads may take the
        linear probe's place, on validation and on test scans), costs.csv and result.json.

    Raises:
        FileNotFoundError: Pipeline or cohort is missing.
        InputError: The target is no column of classes, a part lacks a class, or an extra is not installed.
    """
    material = Material.of(pipeline, cohort, out=out, run_dir=run_dir, device=device, progress=progress)
    plan = QUICK if quick else Plan()
    settings = {
        "target": target,
        "quick": quick,
        "seed": seed,
        "plan": asdict(plan),
        "steps": {"pgd": PGD_STEPS, "apgd": APGD_STEPS} | plan.steps,
        "pipeline": read_index(pipeline).sha256,
    }

    def compute() -> Findings:
        bench = open_bench(open_scans(material), material, target=target, plan=plan, seed=seed)
        return bench.findings()

    return evaluate_once(
        material, name=NAME, settings=settings, compute=compute, more=[CHOICE, COSTS, f"{CLEAN}.csv"]
    )


def open_bench(scans: ScanSet, material: Material, *, target: str, plan: Plan, seed: int) -> Bench:
    """The benchmark over opened scans; arguments as for `evaluate_robustness`."""
    parts, classes = scan_parts(scans.frame, target=target, plan=plan, seed=seed)
    covered = {name: value for name, value in asdict(plan).items() if name not in ("heads", "seeds")}
    mark = sha256_json([__version__, list(parts[TRAIN]["key"]), covered, list(classes), target])[:12]
    root = pipeline_folder(material.out / CELLS, pipeline=scans.pipeline.sha256, name=mark)
    codes = ShiftedCodes(
        scans=scans,
        parts=parts,
        folder=root,
        classes=classes,
        target=target,
        steps=plan.steps,
        progress=material.progress,
    )
    positive = POSITIVE if POSITIVE in classes else None
    shifts = shifts_of(plan, unseen=UNSEEN in parts)
    seeds = tuple(range(seed, seed + plan.seeds))
    return Bench(Answers(codes, plan, positive), shifts, seeds, progress=material.progress)


def scan_parts(
    frame: pd.DataFrame, *, target: str, plan: Plan, seed: int
) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Scans to fit on, to choose by, to calibrate with, to judge on and to attack; and the classes.

    Raises:
        InputError: No such column of classes, or a part lacks a class.
    """
    rows = select_rows(frame, target=target)
    if is_number(frame[target]):
        raise InputError(f"target must be a column of classes, got the numbers of {target!r}. Write words.")
    classes = tuple(sorted(set(rows[target])))
    parts = {}
    for name in (TRAIN, VAL, CAL, TEST):
        part = rows[rows["split"] == name].reset_index(drop=True)
        if plan.limit and name != TRAIN:
            part = first_visits(part, limit=plan.limit, seed=seed).reset_index(drop=True)
        absent = sorted(set(classes) - set(part[target]))
        if absent:
            raise InputError(
                f"Every class of {target} must have scans in split {name}, got none of {', '.join(absent)}. "
                "Draw a split that has them: ldae split"
            )
        parts[name] = part
    parts[ATTACKED] = first_visits(parts[TEST], limit=plan.attacked, seed=seed).reset_index(drop=True)
    others = frame[(frame["split"] == TEST) & frame[target].notna() & ~frame[target].isin(classes)]
    if target in DEFAULT_CLASSES and len(others):
        parts[UNSEEN] = others.reset_index(drop=True)
        if plan.limit:
            parts[UNSEEN] = first_visits(parts[UNSEEN], limit=plan.limit, seed=seed).reset_index(drop=True)
    return parts, classes


@dataclass(frozen=True)
class Bench:
    """All heads, shifts and seeds.

    Attributes:
        answers: What the heads say.
        shifts: The shifts.
        seeds: The seeds.
        progress: Show a bar.
    """

    answers: Answers
    shifts: Sequence[Shift]
    seeds: tuple[int, ...]
    progress: bool = False
    _known: dict[Any, Any] = field(default_factory=dict)

    def ask(self) -> None:
        """Ask every head about every shift under every seed, where that has not been done."""
        jobs = [
            (head, shift, seed)
            for seed in self.seeds
            for shift in self.shifts
            for head in self.answers.plan.heads
            if self.answers.asked(shift, head)
        ]
        jobs.sort(key=lambda job: job[1].family == WHITE_BOX)  # what takes longest last
        for head, shift, seed in tqdm(jobs, desc=NAME, disable=not self.progress):
            self.answers.said(head, shift, seed=seed)

    def findings(self) -> Findings:
        """The tables."""
        self.ask()
        tables = {shift.key: self._table(shift) for shift in self.shifts}
        chosen = self._choice()
        validation = chosen[chosen["part"] == VAL]
        values = {CHOSEN: choose_head(validation)}
        summary = self._summary(tables)
        for row in summary.to_dict("records"):
            values |= {f"{name}_{row['head']}": row[name] for name in ("nll", "corruption_nll", "aurc")}
        costs = pd.DataFrame(
            {"head": head, "seed": seed, **self.answers.cost(head, seed=seed)}
            for head in self.answers.plan.heads
            for seed in self.seeds
        )
        parts = self.answers.codes.parts
        counts = {f"{name}_scans": len(part) for name, part in parts.items()}
        counts |= {"scans": len(parts[TEST]), "subjects": int(parts[TEST]["subject"].nunique())}
        more = {f"{name}.csv": table for name, table in tables.items()} | {CHOICE: chosen, COSTS: costs}
        notes = robust_notes(tables, chosen, default=str(values[CHOSEN]))
        return Findings(values, summary, self._scans(), counts, notes, more)

    @property
    def _classes(self) -> tuple[str, ...]:
        return self.answers.codes.classes

    def _subjects(self, part: str) -> pd.Series[Any]:
        return self.answers.codes.parts[part]["subject"]

    def _judged(self, head: str, shift: Shift, *, part: str, grade: float) -> list[Judged]:
        """What a head said of the scans of a part under each seed."""
        key = head, shift.key, part, grade
        if key not in self._known:
            self._known[key] = [
                judged(
                    self._said(head, shift, seed=seed, part=part, grade=grade),
                    classes=self._classes,
                    sets=self._sets(head, seed),
                )
                for seed in self.seeds
            ]
        found: list[Judged] = self._known[key]
        return found

    def _said(self, head: str, shift: Shift, *, seed: int, part: str, grade: float) -> pd.DataFrame:
        table = self.answers.said(head, shift, seed=seed)
        return table[(table["part"] == part) & np.isclose(table["grade"], grade)]

    def _sets(self, head: str, seed: int) -> dict[float, ConformalSets]:
        if (head, seed) not in self._known:
            calibration = self._said(head, self.shifts[0], seed=seed, part=CAL, grade=0.0)
            self._known[head, seed] = conformal_sets(calibration, classes=self._classes)
        found: dict[float, ConformalSets] = self._known[head, seed]
        return found

    def _table(self, shift: Shift) -> pd.DataFrame:
        if shift.family == OUTSIDE:
            return pd.DataFrame(self._outside_rows(shift))
        part = ATTACKED if shift.family in (TRANSFER, WHITE_BOX) else TEST
        rows = []
        for grade in shift.grades:
            linear = self._judged(LINEAR, shift, part=part, grade=grade)
            for head in self.answers.plan.heads:
                if self.answers.asked(shift, head):
                    scores = self._scores(head, shift, part=part, grade=grade, linear=linear)
                    rows.append({**_named(shift), "grade": grade, "head": head, **scores})
        return pd.DataFrame(rows)

    def _scores(
        self, head: str, shift: Shift, *, part: str, grade: float, linear: Sequence[Judged]
    ) -> Mapping[str, float]:
        return head_scores(
            self._judged(head, shift, part=part, grade=grade),
            classes=self._classes,
            subjects=self._subjects(part),
            positive=self.answers.positive,
            against=linear,
        )

    def _outside_rows(self, shift: Shift) -> Iterator[Row]:
        clean = self.shifts[0]
        other = UNSEEN if shift.name == UNSEEN else TEST
        for head in self.answers.plan.heads:
            own = [self._said(head, clean, seed=seed, part=TEST, grade=0.0) for seed in self.seeds]
            theirs = [self.answers.said(head, shift, seed=seed) for seed in self.seeds]
            main = own_doubt(own[0])
            for doubt in doubts_of(own[0], classes=self._classes):
                scores = outside_scores(
                    [table[f"u_{doubt}"].to_numpy() for table in own],
                    [table[f"u_{doubt}"].to_numpy() for table in theirs],
                    subjects=(self._subjects(TEST), self._subjects(other)),
                )
                yield {**_named(shift), "head": head, "doubt": doubt, "own": doubt == main, **scores}

    def _corrupted(self, head: str, part: str) -> list[list[Judged]]:
        return [
            [one for grade in shift.grades for one in self._judged(head, shift, part=part, grade=grade)]
            for shift in self.shifts
            if shift.family == CORRUPTION
        ]

    def _choice(self) -> pd.DataFrame:
        """What the rule looks at, on validation scans and on test scans."""
        found = []
        for part in (VAL, TEST):
            rows = []
            for head in self.answers.plan.heads:
                clean = head_scores(
                    self._judged(head, self.shifts[0], part=part, grade=0.0),
                    classes=self._classes,
                    subjects=self._subjects(part),
                    positive=self.answers.positive,
                    intervals=False,
                )
                under = mean_scores(
                    self._corrupted(head, part), subjects=self._subjects(part), intervals=False
                )
                kept = {name: clean[name] for name in ("nll", "aurc", "balanced_accuracy")}
                rows.append({"part": part, "head": head, **kept, "corruption_nll": under["corruption_nll"]})
            found.append(judge_heads(pd.DataFrame(rows)))
        return pd.concat(found, ignore_index=True)

    def _summary(self, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """A row a head: clean, mean over corruptions, strongest attack, near and far."""
        rows = []
        for head in self.answers.plan.heads:
            clean = tables[CLEAN].set_index("head").loc[head]
            shown = [f"{name}{end}" for name in SHOWN for end in ("", "_low", "_high")]
            row: Row = {"head": head, **clean[shown]}
            row |= mean_scores(self._corrupted(head, TEST), subjects=self._subjects(TEST))
            for family in (TRANSFER, WHITE_BOX):
                row[f"{family}_accuracy"] = _weakest(tables[f"{family}_apgd"], head)
            for kind, names in (("near", NEAR), ("far", FAR)):
                found = [tables[name] for name in names if name in tables]
                row[f"{kind}_auroc"] = _mean_auroc(found, head)
            rows.append(row)
        return pd.DataFrame(rows)

    def _scans(self) -> pd.DataFrame:
        """Clean test scans with every head's probability of the last class, averaged over seeds."""
        base = self.answers.codes.parts[TEST][["subject", "session"]].reset_index(drop=True)
        base["y_true"] = self.answers.codes.parts[TEST][self.answers.codes.target].to_numpy()
        for head in self.answers.plan.heads:
            answers = self._judged(head, self.shifts[0], part=TEST, grade=0.0)
            for place, name in enumerate(self._classes):
                base[f"{head}_p_{name}"] = np.mean([one.chances[:, place] for one in answers], axis=0)
        return base


def _named(shift: Shift) -> Row:
    return {"family": shift.family, "shift": shift.name}


def _weakest(table: pd.DataFrame, head: str) -> float:
    """Accuracy under the largest change."""
    own = table[table["head"] == head]
    return float("nan") if own.empty else float(own.loc[own["grade"].idxmax(), "accuracy"])


def _mean_auroc(tables: Sequence[pd.DataFrame], head: str) -> float:
    own = [table[(table["head"] == head) & table["own"]]["auroc"].iloc[0] for table in tables]
    return float(np.mean(own)) if own else float("nan")
