# SPDX-License-Identifier: Apache-2.0
"""Which series are wanted: contrast by words and header, localisers and derived images left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from ldae.data.ingest.manifest import RejectionError
from ldae.errors import InputError

# Flags of scans whose contrast no name tells.
BY_HEADER = "contrast told by header values only"
UNNAMED = "contrast not told by the name"


@lru_cache(maxsize=1)
def contrast_rules() -> dict[str, Any]:
    """The rules of contrast.yaml."""
    text = files("ldae.data.ingest").joinpath("contrast.yaml").read_text(encoding="utf-8")
    rules: dict[str, Any] = yaml.safe_load(text)
    return rules


def check_contrast_name(contrast: str) -> None:
    """Stop on a contrast without rules."""
    known = sorted(contrast_rules()["contrasts"])
    if contrast not in known:
        raise InputError(f"contrast must be one of {', '.join(known)}, got {contrast!r}.")


def choose_series(header: Mapping[str, Any], *, contrast: str) -> str:
    """Say by what a DICOM series is the wanted contrast.

    Args:
        header: Of `series_header`: modality, image_type, component, words (descriptions and names), te, tr,
            ti (ms), scanning, three_d.
        contrast: The contrast wanted.

    Returns:
        "name" or "header".

    Raises:
        RejectionError: It is something else.
    """
    rules = contrast_rules()
    kinds = [str(word).upper() for word in header["image_type"]]
    words = str(header["words"]).lower()
    if header["modality"] not in ("MR", ""):
        raise RejectionError("extract", "not MR")
    if "LOCALIZER" in kinds or _any(rules["localiser"], words):
        raise RejectionError("extract", "localiser")
    if set(rules["phase"]) & {*kinds[2:], str(header["component"]).upper()}:
        raise RejectionError("extract", "phase image")
    acquired = set(rules["acquired_kinds"]) & set(kinds) and not _any(rules["reformat"], words)
    made = kinds[:1] == ["DERIVED"] and not acquired
    if (
        made
        or set(rules["derived_kinds"]) & set(kinds[2:])
        or "SECONDARY" in kinds[1:2]
        or _any(rules["derived"], words)
    ):
        raise RejectionError("extract", "derived")
    chosen = choose_by_words(words, contrast=contrast) or _by_header(header, contrast)
    _check_agent(words)
    return chosen


def shows_elsewhere(header: Mapping[str, Any]) -> bool:
    """Whether a DICOM series' header names a part of the body other than the head."""
    return _any(contrast_rules()["elsewhere"], f"{header['part']} | {header['words']}".lower())


def choose_file(name: str, *, contrast: str, bids: bool) -> str:
    """Say by what a NIfTI file is the wanted contrast: "name", or "" if its name tells none.

    Args:
        name: The file's name.
        contrast: The contrast wanted.
        bids: Whether it lies in a BIDS dataset, where the suffix tells.

    Raises:
        RejectionError: It is something else.
    """
    stem = name.split(".")[0]
    if re.search(r"_part-(phase|imag)_", stem):
        raise RejectionError("extract", "phase image")
    # labels of subjects and sessions may be anything: initials, or "post" of a treatment
    unlabelled = re.sub(r"(?:sub|ses)-[a-z0-9]+_", "", stem.lower())
    if bids:
        if not stem.endswith(f"_{contrast}"):
            raise RejectionError("extract", f"not {contrast}")
        _check_agent(unlabelled)
        return "name"
    rules, words = contrast_rules(), stem.lower()
    if _any(rules["localiser"], words):
        raise RejectionError("extract", "localiser")
    if _any(rules["derived"], words) or _any(rules["no_scan"], words):
        raise RejectionError("extract", "derived")
    chosen = choose_by_words(words, contrast=contrast)
    _check_agent(unlabelled)
    return chosen


def _check_agent(words: str) -> None:
    """Stop on a scan with contrast agent; the first of several names that tells either way decides."""
    rules = contrast_rules()
    for name in words.split(" | "):
        text = re.sub(r"[_.\s]+", " ", name)
        without = re.sub("|".join(rules["no_agent"]), " ", text)
        if _any(rules["agent"], without):
            raise RejectionError("extract", "with contrast agent")
        if without != text:
            return


def choose_by_words(words: str, *, contrast: str) -> str:
    """ "name" if the words tell the contrast wanted, "" if they tell none.

    Raises:
        RejectionError: They tell another one.
    """
    rules = contrast_rules()["contrasts"]
    words = words.lower()
    hits = [
        name for name, rule in rules.items() if _any(rule["words"], words) and not _any(rule["not"], words)
    ]
    if contrast in hits:
        return "name"
    if hits or _any(rules[contrast]["not"], words):
        raise RejectionError("extract", f"not {contrast}")
    return ""


def _by_header(header: Mapping[str, Any], contrast: str) -> str:
    if _any(contrast_rules()["other"], str(header["words"]).lower()):
        raise RejectionError("extract", f"not {contrast}")
    rule = contrast_rules()["contrasts"][contrast]["header"]
    for name in ("te", "tr", "ti"):
        low, high = rule.get(name, (None, None))
        value = header[name]
        if low is not None and (value is None or not low <= value <= high):
            raise RejectionError("extract", f"not {contrast}")
    scanning = "scanning" in rule and rule["scanning"] not in header["scanning"]
    if scanning or (rule.get("three_d") and not header["three_d"]):
        raise RejectionError("extract", f"not {contrast}")
    return "header"


def _any(patterns: Sequence[str], text: str) -> bool:
    return any(re.search(pattern, text) for pattern in patterns)
