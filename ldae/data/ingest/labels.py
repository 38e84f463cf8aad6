# SPDX-License-Identifier: Apache-2.0
"""Diagnoses out of words, by rules that anyone can read and change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from ldae.errors import InputError


@dataclass(frozen=True)
class Label:
    """A diagnosis and where it comes from.

    Attributes:
        diagnosis: The word of the vocabulary, "" where the text tells none.
        matched: The words that told it.
        conflict: Whether the text tells several.
        unknown: Whether words stand where a diagnosis should, and none of the vocabulary's are among them.
    """

    diagnosis: str
    matched: str = ""
    conflict: bool = False
    unknown: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """Patterns by diagnosis."""

    diagnoses: dict[str, tuple[str, ...]]
    negation: tuple[str, ...]

    def read(self, text: str) -> Label:
        """The diagnosis that a text tells, sentence by sentence."""
        found: dict[str, str] = {}
        for sentence in re.split(r"[.;\n](?!\d)", text.lower()):
            for diagnosis, patterns in self.diagnoses.items():
                if match := _first(patterns, sentence.strip()):
                    before = sentence.strip()[: match.start()]
                    if not _first(self.negation, before):
                        found.setdefault(diagnosis, match.group())
        if len(found) > 1:
            return Label("", ", ".join(found.values()), conflict=True)
        return Label(*next(iter(found.items()))) if found else Label("")


def _first(patterns: Sequence[str], text: str) -> re.Match[str] | None:
    return next((match for pattern in patterns if (match := re.search(pattern, text))), None)


def read_vocabulary(path: Path | None = None) -> Vocabulary:
    """A vocabulary file, or the one that comes with the package.

    Raises:
        InputError: It is not of this form.
    """
    if path is not None and not path.is_file():
        raise InputError(f"The vocabulary must be a YAML file, got {path}, which does not exist.")
    content = path or files("ldae.data.ingest").joinpath("diagnosis.yaml")
    try:
        document = yaml.safe_load(content.read_text(encoding="utf-8"))
        rules = {str(name): tuple(map(str, words)) for name, words in document["diagnoses"].items()}
        negation = tuple(map(str, document.get("negation", ())))
        for pattern in (*negation, *(word for words in rules.values() for word in words)):
            re.compile(pattern)
    except (yaml.YAMLError, re.error, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "A vocabulary must hold diagnoses: {NAME: [patterns]} and negation: [patterns], "
            f"got {path}: {error}."
        ) from error
    return Vocabulary(rules, negation)
