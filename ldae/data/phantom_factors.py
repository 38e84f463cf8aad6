# SPDX-License-Identifier: Apache-2.0
"""What makes a synthetic scan: numbers only, drawn before anything is rendered.

Each draw has a key (seed, subject, purpose) of its own, so that no scan depends on how many others there are.
Anatomy and acquisition are drawn from separate streams: the only way to the diagnosis is anatomy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ldae.errors import InputError

DIAGNOSES = ("CN", "MCI", "AD")
STREAM = 1  # part of every key: another number, other subjects for all seeds
SITES = ("A", "B", "C")
PURPOSES = (
    "subject",
    "identity",
    "visits",
    "acquisition",
    "bias",
    "noise",
)  # append only: the order is the key
AGES = (55.0, 88.0)  # years at the first visit, so that the third is at most 90
MONTHS = 12  # between visits

SEVERITY = {"CN": 0.0, "MCI": 0.5, "AD": 1.0}  # mean at the first visit
SEVERITY_SPREAD = 0.39
PROGRESSION = {"CN": 0.01, "MCI": 0.06, "AD": 0.10}  # severity a year
PROGRESSION_SPREAD = 0.3  # of its logarithm

VENTRICLE_AT_60 = 22.0  # ml, before the average head, smaller than the template's, takes a tenth off
VENTRICLE_PER_YEAR = 0.012  # of the logarithm
VENTRICLE_PER_SEVERITY = 0.85
VENTRICLE_SPREAD = 0.15
ATROPHY_AT_60 = 4.0  # percent of cortical volume lost, against the anatomy that the subject is warped from
ATROPHY_PER_YEAR = 0.35
ATROPHY_PER_SEVERITY = 2.0
ATROPHY_SPREAD = 1.5

GAMMA = (0.9, 1.1)
SCALE = (0.8, 1.2)
BIAS = (0.05, 0.10)
NOISE = (0.005, 0.02)
BLUR = (0.0, 0.4)
CONTRAST_SPREAD = 0.03


def generator(seed: int, subject: int, purpose: str, *, visit: int = 0) -> np.random.Generator:
    """The random stream of one purpose of one subject (and visit)."""
    return np.random.default_rng([STREAM, seed, subject, PURPOSES.index(purpose), visit])


@dataclass(frozen=True)
class Acquisition:
    """How a scan was taken.

    Attributes:
        gamma: Exponent of the intensities, in [0.9, 1.1].
        scale: Factor of all intensities, in [0.8, 1.2].
        bias: Largest deviation of the smooth multiplicative bias field from 1, in [0.05, 0.10].
        noise: Standard deviation of the noise, in units of the template's maximum, in [0.005, 0.02].
        blur: Standard deviation of the blur, voxels, in [0, 0.4].
        contrast: Factors of the tissue classes' intensities, around 1; used with label maps.
        visit: Key of the bias field's and noise's streams.
    """

    gamma: float
    scale: float
    bias: float
    noise: float
    blur: float
    contrast: tuple[float, ...]
    visit: int


@dataclass(frozen=True)
class Factors:
    """One scan of a synthetic subject, complete: rendering it again gives the same voxels.

    The `z_` attributes are the subject's own standard normal deviations. They, the sex and the identity field
    (whose stream is named by seed and subject) stay when `counterfactual` changes diagnosis, age or time.

    Attributes:
        seed: Seed of the cohort.
        subject: Index of the subject, from 0.
        visit: Index of the visit, from 0.
        years: Time since the first visit.
        first_age: Age at the first visit, years.
        diagnosis: CN, MCI or AD.
        sex: F or M.
        site: A, B or C; it means nothing.
        base: A number in [0, 1) that chooses among several anatomies.
    """

    seed: int
    subject: int
    visit: int
    years: float
    first_age: float
    diagnosis: str
    sex: str
    site: str
    base: float
    z_severity: float
    z_progression: float
    z_ventricle: float
    z_atrophy: float
    acquisition: Acquisition

    @property
    def age(self) -> float:
        """Years at this visit."""
        return self.first_age + self.years

    @property
    def severity(self) -> float:
        """Severity of the disease: about 0 in CN, 1 in AD at the first visit, growing with time."""
        rate = PROGRESSION[self.diagnosis] * math.exp(PROGRESSION_SPREAD * self.z_progression)
        return SEVERITY[self.diagnosis] + SEVERITY_SPREAD * self.z_severity + rate * self.years

    @property
    def ventricle_target(self) -> float:
        """Volume of the lateral ventricles, ml, before the identity field adds its own part."""
        growth = VENTRICLE_PER_YEAR * (self.age - 60) + VENTRICLE_PER_SEVERITY * self.severity
        return VENTRICLE_AT_60 * math.exp(growth + VENTRICLE_SPREAD * self.z_ventricle)

    @property
    def atrophy(self) -> float:
        """Cortical volume lost against the base anatomy, percent (negative: more cortex than there)."""
        ageing = ATROPHY_PER_YEAR * (self.age - 60)
        return ATROPHY_AT_60 + ageing + ATROPHY_PER_SEVERITY * self.severity + ATROPHY_SPREAD * self.z_atrophy


def draw_subject(seed: int, subject: int) -> Factors:
    """The first visit of a subject; diagnoses take turns, so that they are even."""
    rng = generator(seed, subject, "subject")
    z = rng.standard_normal(4)
    return Factors(
        seed=seed,
        subject=subject,
        visit=0,
        years=0.0,
        first_age=round(float(rng.uniform(*AGES)), 1),
        diagnosis=DIAGNOSES[subject % len(DIAGNOSES)],
        sex=str(rng.choice(["F", "M"])),
        site=str(rng.choice(SITES)),
        base=float(rng.uniform()),
        z_severity=float(z[0]),
        z_progression=float(z[1]),
        z_ventricle=float(z[2]),
        z_atrophy=float(z[3]),
        acquisition=draw_acquisition(seed, subject, visit=0),
    )


def draw_acquisition(seed: int, subject: int, *, visit: int) -> Acquisition:
    """How one scan is taken, from a stream that knows neither diagnosis nor age."""
    rng = generator(seed, subject, "acquisition", visit=visit)
    gamma, scale, bias, noise, blur = (
        float(rng.uniform(*span)) for span in (GAMMA, SCALE, BIAS, NOISE, BLUR)
    )
    contrast = tuple(float(value) for value in 1 + CONTRAST_SPREAD * rng.standard_normal(4))
    return Acquisition(gamma, scale, bias, noise, blur, contrast, visit)


def follow_up(first: Factors, visit: int) -> Factors:
    """The subject's later visit, `visit` times 12 months after the first, with a new acquisition."""
    acquisition = draw_acquisition(first.seed, first.subject, visit=visit)
    return dataclasses.replace(first, visit=visit, years=visit * MONTHS / 12, acquisition=acquisition)


def counterfactual(
    factors: Factors, *, diagnosis: str | None = None, age: float | None = None, years: float | None = None
) -> Factors:
    """The same scan of the same brain, had something else been true; all else stays, acquisition included.

    Args:
        factors: The scan as it was.
        diagnosis: CN, MCI or AD; the subject's place within the diagnosis stays.
        age: Age at this visit, had the subject been born earlier or later: ageing, at the same severity.
        years: Time since the first visit, so that the subject ages and the disease progresses; 0.5 lies
            between the first visit and the second.

    Raises:
        InputError: Unknown diagnosis, or an age or time that is not finite.
    """
    if diagnosis is not None and diagnosis not in DIAGNOSES:
        raise InputError(f"diagnosis must be one of {', '.join(DIAGNOSES)}, got {diagnosis!r}.")
    for name, value in (("age", age), ("years", years)):
        if value is not None and not math.isfinite(value):
            raise InputError(f"{name} must be a finite number of years, got {value}.")
    changed = factors if years is None else dataclasses.replace(factors, years=float(years))
    if diagnosis is not None:
        changed = dataclasses.replace(changed, diagnosis=diagnosis)
    return changed if age is None else dataclasses.replace(changed, first_age=float(age) - changed.years)


def draw_cohort(
    subjects: int,
    *,
    seed: int,
    visits_test: tuple[float, float],
    visits_other: tuple[float, float],
) -> tuple[list[Factors], dict[int, str]]:
    """Every scan of the cohort, by subject and visit, and every subject's split.

    Args:
        subjects: How many.
        seed: Another seed, another cohort.
        visits_test: Shares of the test subjects with two and with three visits.
        visits_other: The same for the other subjects.
    """
    import pandas as pd

    from ldae.data.split import split_subjects

    first = [draw_subject(seed, subject) for subject in range(subjects)]
    frame = pd.DataFrame(
        {"subject": [subject_name(f.subject) for f in first], "session": "ses-01"}
        | {"diagnosis": [f.diagnosis for f in first]}
    )
    split = dict(enumerate(split_subjects(frame, seed=seed).tolist()))
    counts = dict.fromkeys(range(subjects), 1)
    for test, shares in ((True, visits_test), (False, visits_other)):
        counts |= _visit_counts(
            [s for s in range(subjects) if (split[s] == "test") == test], seed, shares=shares
        )
    return [follow_up(f, v) if v else f for f in first for v in range(counts[f.subject])], split


def _visit_counts(members: Sequence[int], seed: int, *, shares: tuple[float, float]) -> dict[int, int]:
    """Two or three visits for exactly these shares of the members, taken evenly over the diagnoses."""
    draws = {subject: float(generator(seed, subject, "visits").uniform()) for subject in members}
    strata = [
        sorted((s for s in members if s % len(DIAGNOSES) == d), key=draws.__getitem__) for d in range(3)
    ]
    ranked = sorted(
        (rank, stratum, subject) for stratum, row in enumerate(strata) for rank, subject in enumerate(row)
    )
    order = [subject for _, _, subject in ranked]
    three = round(shares[1] * len(order))
    two = round(shares[0] * len(order))
    return dict.fromkeys(order[:three], 3) | dict.fromkeys(order[three : three + two], 2)


def subject_name(subject: int) -> str:
    """BIDS label, from "sub-0001"."""
    return f"sub-{subject + 1:04d}"


def session_name(visit: int) -> str:
    """BIDS label, from "ses-01"."""
    return f"ses-{visit + 1:02d}"
