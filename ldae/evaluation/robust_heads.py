# SPDX-License-Identifier: Apache-2.0
"""What every head says of every shifted scan, under every seed, each answer a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ldae.data.artefact import atomic_path, read_json, write_json
from ldae.evaluation.attacks import ATTACKS
from ldae.evaluation.corruptions import CORRUPTIONS
from ldae.evaluation.head_choice import (
    DEPTH_ENSEMBLE,
    DEPTH_HEADS,
    HEADS,
    LADINE,
    LINEAR,
    Classifier,
    make_head,
)
from ldae.evaluation.outside import FAR, NEAR, UNSEEN
from ldae.evaluation.shifted_codes import ShiftedCodes

TRAIN, VAL, CAL, TEST = "train", "val", "cal", "test"
ATTACKED = "attacked"
CLEAN, CORRUPTION, TRANSFER, WHITE_BOX, OUTSIDE = "clean", "corruption", "transfer", "white_box", "outside"
WHITE_BOX_HEADS = (LINEAR, "mlp", "ensemble", "evidential", DEPTH_ENSEMBLE, LADINE)
EPS = (2 / 255, 8 / 255, 0.03)
UNLIMITED = 1.0
SAID = "said"
TIMED = 64


@dataclass(frozen=True)
class Plan:
    """What the benchmark covers.

    Attributes:
        heads: Names of the heads.
        seeds: Each head is fitted, and each corruption drawn, under so many.
        attacked: Subjects whose first visit is attacked.
        eps: Largest changes of a voxel.
        steps: Gradients of the attacks that take a number of them; their own default where left out.
        worst_only: Only the last grade of each corruption.
        limit: First visits of so many subjects a part at most, but for training; None takes every scan.
    """

    heads: tuple[str, ...] = tuple(HEADS)
    seeds: int = 3
    attacked: int = 60
    eps: tuple[float, ...] = EPS
    steps: dict[str, int] = field(default_factory=dict)
    worst_only: bool = False
    limit: int | None = None

    def grades(self) -> dict[str, tuple[float, ...]]:
        """The grades of each corruption."""
        return {one.name: one.grades[-1:] if self.worst_only else one.grades for one in CORRUPTIONS}


QUICK = Plan(
    heads=(LINEAR, "evidential", DEPTH_ENSEMBLE, LADINE),
    seeds=1,
    attacked=6,
    eps=(8 / 255,),
    steps={"pgd": 3, "apgd": 3},
    worst_only=True,
    limit=24,
)


@dataclass(frozen=True)
class Shift:
    """A way in which scans differ from those that the heads were fitted on.

    Attributes:
        family: One of the five kinds.
        name: Which of the kind.
        grades: How much, in the shift's own unit; [0.0] where there is no more or less.
    """

    family: str
    name: str
    grades: tuple[float, ...]

    @property
    def key(self) -> str:
        """A file's name."""
        return self.name if self.family in (CLEAN, CORRUPTION, OUTSIDE) else f"{self.family}_{self.name}"


def shifts_of(plan: Plan, *, unseen: bool) -> list[Shift]:
    """All shifts of a plan; `unseen` where the cohort has scans of a class that no head knows."""
    found = [Shift(CLEAN, CLEAN, (0.0,))]
    found += [Shift(CORRUPTION, name, grades) for name, grades in plan.grades().items()]
    found += [Shift(OUTSIDE, name, (0.0,)) for name in (*NEAR, *FAR) if unseen or name != UNSEEN]
    found += [Shift(TRANSFER, name, plan.eps) for name in ATTACKS]
    found += [Shift(WHITE_BOX, name, plan.eps) for name in ATTACKS]
    return [*found, Shift(WHITE_BOX, "pgd_unlimited", (UNLIMITED,))]


@dataclass
class Answers:
    """Heads, fitted where they are asked, and what they said, read where they were asked before.

    Attributes:
        codes: Codes of the scans under every shift.
        plan: What is covered.
        positive: The positive class of two.
    """

    codes: ShiftedCodes
    plan: Plan
    positive: str | None
    _widths: tuple[int, ...] = ()
    _fitted: dict[tuple[str, int], Classifier] = field(default_factory=dict)

    def asked(self, shift: Shift, head: str) -> bool:
        """Whether a head takes part in a shift."""
        if shift.family != WHITE_BOX:
            return True
        if shift.grades == (UNLIMITED,):
            return head == LINEAR
        return head in WHITE_BOX_HEADS

    def said(self, head: str, shift: Shift, *, seed: int) -> pd.DataFrame:
        """A row a scan and grade: part, grade, subject, session, y_true, p_<class> and u_<doubt>."""
        path = self.codes.folder / SAID / f"{head}-{seed}" / f"{shift.key}.parquet"
        if not path.is_file():
            table = pd.concat(list(self._ask(head, shift, seed=seed)), ignore_index=True)
            with atomic_path(path) as temporary:
                table.to_parquet(temporary, index=False)
        return pd.read_parquet(path)

    def cost(self, head: str, *, seed: int) -> dict[str, float]:
        """Seconds to fit, milliseconds a scan in a batch, and numbers kept of a head."""
        path = self.codes.folder / SAID / f"{head}-{seed}" / "cost.json"
        if not path.is_file():
            self.fitted(head, seed=seed)
        cost: dict[str, float] = read_json(path)
        return cost

    def fitted(self, head: str, *, seed: int) -> Classifier:
        """A head fitted on the training scans."""
        if (head, seed) not in self._fitted:
            rows = self.codes.parts[TRAIN]
            target = rows[self.codes.target]
            depths = self.widths if head in DEPTH_HEADS else None
            made: Any = make_head(head, target, positive=self.positive, seed=seed, depths=depths)
            features = self._taken(head, self.codes.clean(TRAIN))
            started = time.perf_counter()
            made.fit(features, target.to_numpy(), groups=rows["subject"].to_numpy())
            self._write_cost(made, features, head=head, seed=seed, seconds=time.perf_counter() - started)
            self._fitted[head, seed] = made
        return self._fitted[head, seed]

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the encoder's depths and of the code."""
        self._widths = self._widths or self.codes.widths()
        return self._widths

    def _taken(self, head: str, features: NDArray[np.float64]) -> NDArray[np.float64]:
        return features if head in DEPTH_HEADS else features[:, -self.widths[-1] :]

    def _ask(self, head: str, shift: Shift, *, seed: int) -> Iterator[pd.DataFrame]:
        for part, grade, features in self._cells(shift, head, seed=seed):
            rows = self.codes.parts[UNSEEN if shift.name == UNSEEN else part]
            model = self.fitted(head, seed=seed)
            given = self._taken(head, features)
            table = rows[["subject", "session"]].assign(
                part=part, grade=grade, y_true=rows[self.codes.target]
            )
            chances = model.predict_proba(given)
            for place, name in enumerate(model.classes_):
                table[f"p_{name}"] = chances[:, place]
            doubts = model.uncertainty(given).add_prefix("u_")
            yield table.reset_index(drop=True).join(doubts)

    def _cells(
        self, shift: Shift, head: str, *, seed: int
    ) -> Iterator[tuple[str, float, NDArray[np.float64]]]:
        codes = self.codes
        for grade in shift.grades:
            if shift.family == CLEAN:
                yield from ((part, grade, codes.clean(part)) for part in (VAL, CAL, TEST, ATTACKED))
            elif shift.family == CORRUPTION:
                for part in (VAL, TEST):
                    yield part, grade, codes.corrupted(part, shift.name, grade=grade, seed=seed)
            elif shift.family == OUTSIDE:
                yield TEST, grade, codes.outside(TEST, shift.name, seed=seed)
            else:
                against = LINEAR if shift.family == TRANSFER else head
                yield ATTACKED, grade, self._attacked(shift, against, eps=grade, seed=seed)

    def _attacked(self, shift: Shift, against: str, *, eps: float, seed: int) -> NDArray[np.float64]:
        def head() -> Classifier:
            return self.fitted(against, seed=seed)

        name = shift.name.removesuffix("_unlimited")
        return self.codes.attacked(ATTACKED, name, eps=eps, seed=seed, against=against, head=head)

    def _write_cost(
        self, model: Any, features: NDArray[np.float64], *, head: str, seed: int, seconds: float
    ) -> None:
        batch = features[:TIMED]
        model.predict_proba(batch)
        started = time.perf_counter()
        model.predict_proba(batch)
        lasted = time.perf_counter() - started
        numbers = sum(array.size for array in model.state()[1].values())
        cost = {
            "fit_seconds": seconds,
            "milliseconds_a_scan": 1000 * lasted / len(batch),
            "numbers_kept": int(numbers),
        }
        write_json(self.codes.folder / SAID / f"{head}-{seed}" / "cost.json", cost)
