# SPDX-License-Identifier: Apache-2.0
"""What headers tell of a scan, in one form for DICOM elements and for BIDS sidecars."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ldae.data.table import is_missing

VENDORS = {"siemens": "Siemens", "ge ": "GE", "general electric": "GE", "philips": "Philips"}
VENDORS |= {"canon": "Canon", "toshiba": "Canon", "hitachi": "Fujifilm", "fujifilm": "Fujifilm"}
VENDORS |= {"united imaging": "United Imaging", "uih": "United Imaging", "bruker": "Bruker"}
# Safe Harbor (45 CFR 164.514): ages over 89 are one category.
OLDEST_AGE = 90
DAYS = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
# 72, 72,5, 71 years, 71y, and 89+ of those who are not told apart by age any more.
AGE = re.compile(r"(\d{1,3}(?:[.,]\d+)?)\s*(?:y|yrs?|years?|years? old|j|jahre?)?\.?")
OPEN_AGE = re.compile(r"(89|9\d)\s*\+")
# Longest times of a sidecar, in s; the scanner's own numbers, in ms, are far above.
LONGEST = {"RepetitionTime": 30, "EchoTime": 1, "InversionTime": 30}
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}


def series_header(dataset: Any) -> dict[str, Any]:
    """What the choice of series looks at, from a DICOM dataset."""
    names = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
    timing, echo = (
        _nested(dataset, "MRTimingAndRelatedParametersSequence"),
        _nested(dataset, "MREchoSequence"),
    )
    modifier, kind = (_nested(dataset, name) for name in ("MRModifierSequence", "MRImageFrameTypeSequence"))
    return {
        "modality": str(dataset.get("Modality", "")),
        "image_type": [str(word) for word in dataset.get("ImageType", [])],
        "component": str(kind.get("ComplexImageComponent", dataset.get("ComplexImageComponent", ""))),
        "words": " | ".join(str(dataset.get(name, "")) for name in names),
        "te": number(echo.get("EffectiveEchoTime", dataset.get("EchoTime"))),
        "tr": number(timing.get("RepetitionTime", dataset.get("RepetitionTime"))),
        "ti": number(modifier.get("InversionTimes", dataset.get("InversionTime"))),
        "scanning": str(dataset.get("ScanningSequence", "")) or _echo_kind(dataset),
        "three_d": dataset.get("MRAcquisitionType", "") == "3D",
        "agent": _agent(dataset),
        "lossy": str(dataset.get("LossyImageCompression", "")) == "01",
        "inverted": str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1",
        "part": str(dataset.get("BodyPartExamined", "")),
    }


def _agent(dataset: Any) -> bool:
    """Whether a contrast agent is noted."""
    noted = str(dataset.get("ContrastBolusAgent", "") or "").strip().lower()
    return noted not in ("", "no", "none", "n/a") or bool(dataset.get("ContrastBolusAgentSequence"))


def _echo_kind(dataset: Any) -> str:
    """Scanning sequence of an enhanced dataset, in the classic words."""
    kind = str(dataset.get("EchoPulseSequence", ""))
    return {"GRADIENT": "GR", "SPIN": "SE", "BOTH": "SE GR"}.get(kind, "")


def _nested(dataset: Any, name: str) -> Any:
    """A functional group, shared or of the first frame, or an empty one."""
    for group in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        sequence = dataset.get(group)
        if sequence and sequence[0].get(name):
            return sequence[0].get(name)[0]
    return {}


def dicom_facts(dataset: Any) -> dict[str, Any]:
    """Columns from a DICOM dataset: vendor, field strength, timing in ms, age, sex."""
    header = series_header(dataset)
    return _facts(
        vendor=str(dataset.get("Manufacturer", "")),
        field=number(dataset.get("MagneticFieldStrength")),
        timing=(header["tr"], header["te"], header["ti"]),
        age=dicom_age(str(dataset.get("PatientAge", ""))),
        sex=str(dataset.get("PatientSex", "")),
    )


def sidecar_facts(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """The same columns from a BIDS sidecar, whose times are in seconds."""
    seconds = [number(sidecar.get(name)) for name in LONGEST]
    known = [None if value is None or _other_unit(sidecar) else round(1000 * value, 6) for value in seconds]
    return _facts(
        vendor=str(sidecar.get("Manufacturer", "")),
        field=number(sidecar.get("MagneticFieldStrength")),
        timing=tuple(known),
        age=age_of(sidecar.get("PatientAge")),
        sex=str(sidecar.get("PatientSex", "")),
    )


def dicom_flags(dataset: Any) -> list[str]:
    """What of `dicom_facts` is told in a form that cannot be read."""
    age = str(dataset.get("PatientAge", "") or "")
    odd = not is_missing(age) and capped_age(dicom_age(age)) is None
    return ["age in a form that is not known"] if odd else []


def sidecar_flags(sidecar: Mapping[str, Any]) -> list[str]:
    """The same of `sidecar_facts`."""
    age = sidecar.get("PatientAge")
    odd = age is not None and not is_missing(str(age)) and capped_age(age_of(age)) is None
    flags = ["age in a form that is not known"] if odd else []
    return flags + (["times in the sidecar are not in seconds"] if _other_unit(sidecar) else [])


def _other_unit(sidecar: Mapping[str, Any]) -> bool:
    """Whether one of the times is too long for seconds: the others are no seconds either then."""
    return any((number(sidecar.get(name)) or 0) > longest for name, longest in LONGEST.items())


def _facts(
    *, vendor: str, field: float | None, timing: tuple[float | None, ...], age: float | None, sex: str
) -> dict[str, Any]:
    return {
        "vendor": vendor_name(vendor),
        "field_strength": field,
        "tr_ms": timing[0],
        "te_ms": timing[1],
        "ti_ms": timing[2],
        "age": capped_age(age),
        "sex": sex_letter(sex),
    }


def number(value: Any) -> float | None:
    """A finite number, the first one of several, or None."""
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        value = value[0] if len(value) else None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def vendor_name(text: str) -> str:
    """A known vendor's usual name, "other", or "" for none: free text is not passed on."""
    if not text.strip():
        return ""
    found = (name for word, name in VENDORS.items() if word in f"{text.lower()} ")
    return next(found, "other")


def dicom_age(text: str) -> float | None:
    """Years, from a DICOM age string such as 071Y or 010M."""
    match = re.fullmatch(r"\s*(\d{1,3})([DWMY])\s*", text)
    return None if match is None else round(int(match.group(1)) / DAYS[match.group(2)], 2)


def age_of(told: Any) -> float | None:
    """Years, from a number or from words as tables and sidecars have them: 72,5, 71 years, 89+, 045Y."""
    if not isinstance(told, str):
        return number(told)
    text = told.strip().lower()
    if match := AGE.fullmatch(text) or OPEN_AGE.fullmatch(text):
        return float(match.group(1).replace(",", "."))
    # with fewer digits the letter may be a sex
    return dicom_age(text.upper()) if re.match(r"\d{3}", text) else None


def capped_age(age: float | None) -> float | None:
    """Ages from 90 on are told as 90; impossible ones not at all."""
    if age is None or not math.isfinite(age) or not 0 <= age <= 120:
        return None
    return min(age, float(OLDEST_AGE))


def sex_letter(text: str) -> str:
    """M, F, O or ""."""
    return SEXES.get(text.strip().lower(), "")
