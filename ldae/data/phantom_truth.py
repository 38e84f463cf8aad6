# SPDX-License-Identifier: Apache-2.0
"""What a scan of a synthetic cohort would have been, had something else been true: rendered, not guessed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldae.data.artefact import read_json, sha256_file, sha256_json
from ldae.data.nifti import open_scan, read_voxels
from ldae.data.phantom import PARAMETERS, RECIPE
from ldae.data.phantom_anatomy import label_anatomies
from ldae.data.phantom_factors import (
    Factors,
    counterfactual,
    draw_acquisition,
    draw_subject,
    follow_up,
    session_name,
    subject_name,
)
from ldae.data.phantom_fields import Grid
from ldae.data.phantom_growth import CENTRE
from ldae.data.phantom_plan import Plan, Renderer, stored_voxels
from ldae.data.phantom_render import Rendering
from ldae.errors import InputError

UNSEEN = 1000  # number of a visit that no subject has
ROUNDING = 1  # stored units by which another processor's arithmetic may move a voxel


@dataclass(frozen=True)
class TrueScan:
    """A rendered scan.

    Attributes:
        voxels: float32 [X, Y, Z] on the cohort's grid, in the units of its files.
        ventricle_ml: Volume of the lateral ventricles in it, ml.
    """

    voxels: NDArray[np.float32]
    ventricle_ml: float


@dataclass(frozen=True)
class KnownCohort:
    """A synthetic cohort whose scans, and whatever they might have been, can be rendered again.

    Attributes:
        table: Its cohort.csv; phantom.json beside it says how the scans were made.
        seed: Seed of its subjects.
        renderer: Renders on its grid, from its anatomies.
    """

    table: Path
    seed: int
    renderer: Renderer

    @classmethod
    def open(cls, table: str | Path) -> KnownCohort:
        """The cohort behind a table.

        Raises:
            InputError: It is not synthetic, was made by another version of the recipe, or its label maps are
                not there any more.
        """
        table = Path(table)
        parameters, label_maps = _read_parameters(table)
        grid = Grid.centred(CENTRE, spacing=parameters["spacing"], shape=tuple(parameters["size"]))
        plan = Plan(grid, _anatomies(parameters["label_maps"], folder=label_maps, table=table))
        return cls(table, int(parameters["seed"]), Renderer(plan))

    @property
    def parameters(self) -> Path:
        """The file that says how the cohort was made."""
        return self.table.parent / PARAMETERS

    def factors(self, row: Mapping[str, Any]) -> Factors:
        """What a scan was rendered from, by its row of the table.

        Raises:
            InputError: Subject, session, diagnosis or age are not those that the cohort was made with.
        """
        subject, session = str(row["subject"]), str(row["session"])
        numbers = [name.rpartition("-")[2] for name in (subject, session)]
        if all(number.isdecimal() and int(number) > 0 for number in numbers):
            index, visit = (int(number) - 1 for number in numbers)
            first = draw_subject(self.seed, index)
            factors = follow_up(first, visit) if visit else first
            drawn = (subject_name(index), session_name(visit), factors.diagnosis, round(factors.age, 1))
            if drawn == (subject, session, row["diagnosis"], round(float(row["age"]), 1)):
                return factors
        raise InputError(
            f"Subject, session, diagnosis and age must be as {PARAMETERS} makes them, got {subject}, "
            f"{session}, {row['diagnosis']}, {row['age']} in {self.table}. "
            "Make the cohort again: ldae phantom"
        )

    def unseen_visit(self, row: Mapping[str, Any], *, months: float) -> Factors:
        """A visit so many months after the subject's first, with an acquisition that no scan has.

        Raises:
            InputError: The row is not as the cohort was made.
        """
        factors = counterfactual(self.factors(row), years=months / 12)
        acquisition = draw_acquisition(self.seed, factors.subject, visit=UNSEEN)
        return replace(factors, visit=UNSEEN, acquisition=acquisition)

    def render(self, scans: Sequence[Factors], *, jobs: int | None = None) -> list[TrueScan]:
        """The scans that these factors make; the same factors give the same voxels, bit for bit.

        Args:
            scans: What to render, best in order of anatomy.
            jobs: Threads, by default one a core; they do not change the result.
        """

        def keep(_: Factors, rendering: Rendering) -> TrueScan:
            return TrueScan(stored_voxels(rendering).astype(np.float32), rendering.ventricle_ml)

        return list(self.renderer.each(keep, scans, jobs=jobs or os.cpu_count() or 1))

    def check(self, row: Mapping[str, Any]) -> None:
        """Render the scan of a row and compare it with its file.

        Raises:
            InputError: They differ: nothing rendered here is the truth about this cohort.
        """
        held = read_voxels(open_scan(row["path"]), row["path"])
        made = self.render([self.factors(row)])[0].voxels
        largest = float(np.abs(held - made).max()) if held.shape == made.shape else np.inf
        if largest > ROUNDING:
            raise InputError(
                f"A synthetic scan must be the one that {PARAMETERS} beside its table describes, got other "
                f"voxels (by up to {largest:g} units) in {row['path']}. Make the cohort again: ldae phantom"
            )


def is_synthetic(table: str | Path) -> bool:
    """Whether a cohort's table lies beside the parameters that a synthetic cohort was made with."""
    return (Path(table).parent / PARAMETERS).is_file()


def _read_parameters(table: Path) -> tuple[dict[str, Any], str | None]:
    """The parameters of the cohort and the folder of its label maps."""
    path = table.parent / PARAMETERS
    if not is_synthetic(table):
        raise InputError(
            f"The true scan is known for synthetic cohorts (ldae phantom) only, got {table} without "
            f"{PARAMETERS} beside it. Leave this comparison out."
        )
    document = read_json(path)
    parameters = document["parameters"]
    if document["sha256"] != sha256_json(parameters):
        raise InputError(f"{path} must be as it was written, got other parameters. Make the cohort again.")
    if parameters["recipe"] != RECIPE:
        raise InputError(
            f"A synthetic cohort must be of recipe {RECIPE}, that of this version, for its true scans to be "
            f"rendered, got recipe {parameters['recipe']} in {path}. Make it again in another folder: "
            "ldae phantom"
        )
    return parameters, document.get("label_maps")


def _anatomies(hashes: Mapping[str, str] | None, *, folder: str | None, table: Path) -> tuple[Path, ...]:
    if hashes is None:
        return ()
    found = label_anatomies(folder) if folder and Path(folder).is_dir() else []
    if {path.name: sha256_file(path) for path in found} != hashes:
        raise InputError(
            f"The label maps that {table} was made from must lie where they did, got others or none in "
            f"{folder}. Bring them back, or make the cohort again: ldae phantom --label-maps DIR"
        )
    return tuple(found)
