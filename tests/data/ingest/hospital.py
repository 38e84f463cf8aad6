# SPDX-License-Identifier: Apache-2.0
"""A hospital's export: several patients and visits, things that are no scans, and what is known of them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from dicom_series import IDENTITY, PERSON, Export, head, oblique, straight, write_series

PEOPLE = {
    "KH4711-0815": ("Meyer^Annemarie", "19470312"),
    "KH4712-1620": ("Schneider^Walburga", "19510823"),
    "KH4713-2440": ("Brandt^Leopold", "19390105"),
    "KH4714-3003": ("Winter^Theodora", "19440730"),
    "KH4715-4117": ("Sommer^Ottokar", "19480911"),
}
DIAGNOSES = ("Alzheimer's disease", "CN", "MCI", "healthy control", "no evidence of dementia")


def make_export(folder: Path) -> None:
    """Five patients, one with two visits, and a localiser, a T2, a broken series, a text file."""
    for number, (patient, (name, birth)) in enumerate(PEOPLE.items()):
        person = {
            "PatientID": patient,
            "PatientName": name,
            "PatientBirthDate": birth,
            "StudyID": f"STU{patient}",
        }
        export = Export(date=f"2019061{number}", elements=person, names="shuffled" if number % 2 else "slice")
        write_series(folder / name.split("^")[0], head(seed=number), oblique(), export=export)
        if number == 0:
            later = Export(date="20200701", elements={**person, "PatientAge": "073Y"})
            write_series(folder / "Meyer" / "later", head(seed=20), straight(), export=later)
            for words in ("localizer", "t2_tse_tra"):
                other = Export(description=words, elements=person)
                write_series(folder / "Meyer" / words, head(seed=30), straight(), export=other)
        if number == 1:
            broken = Export(elements=person, drop=[9], date="20200101")
            write_series(folder / "Schneider" / "broken", head(seed=40), straight(), export=broken)
    (folder / "Arztbrief Meyer.txt").write_text("Frau Meyer, geb. 12.03.1947")


def make_clinical(path: Path) -> Path:
    """A table of visits beside the scans' dates; the first patient comes twice."""
    rows = [[patient, f"2019-06-2{number}", DIAGNOSES[number], ""] for number, patient in enumerate(PEOPLE)]
    rows.append(["KH4711-0815", "2020-07-03", "", "Mild cognitive impairment. No sign of Alzheimer."])
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["patient_id", "date", "diagnosis", "report"], *rows])
    return path


def identifying_values() -> Iterator[str]:
    """Everything that tells who it is, of four characters or more, and the parts of names and dates."""
    for value in (*IDENTITY.values(), *PERSON.values()):
        yield value
        yield from (part for part in value.replace("^", " ").split() if len(part) >= 4)
    for patient, (name, birth) in PEOPLE.items():
        yield from (patient, birth, f"{birth[:4]}-{birth[4:6]}-{birth[6:]}", *name.split("^"))
    for day in ("20190610", "20190611", "20190612", "20190613", "20190614", "20200701", "20200101"):
        yield from (day, f"{day[:4]}-{day[4:6]}-{day[6:]}")
    yield from (f"2019-06-2{number}" for number in range(5))
    yield from ("2020-07-03", "Meyer privat", "Arztbrief")
