# SPDX-License-Identifier: Apache-2.0
"""Diagnoses out of words, by rules that anyone can read and change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ldae.errors import InputError

# A dot behind an abbreviation (v.a., susp.) ends no sentence: what denies would be cut off.
ABBREVIATIONS = ("[a-z]", "dd", "ev", "evtl", "poss", "susp", "excl", "ausschl")
SENTENCE_END = re.compile(
    "".join(rf"(?<!\b{word})" for word in ABBREVIATIONS) + r"\.(?!\d)|[;\n](?!\d)",
)
# A line that ends so goes on in the next one, unless it answers: "stroke: no".
OPEN_LINE = re.compile(
    r"(,|(?<![:=] )(?<![:=])\b(?:of|for|the|an?|with|to|in|and|or|by|from|no|not|without|possible|suspected|"
    r"family|history|von|für|auf|bei|mit|und|oder|eine?[nrs]?|keine?[nrs]?|ohne))[ \t]*\r?\n\s*"
)


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
    """Patterns by diagnosis, and those that deny or question what comes after, or before, in the sentence."""

    diagnoses: dict[str, tuple[str, ...]]
    negation: tuple[str, ...]
    negation_after: tuple[str, ...]

    def read(self, text: str) -> Label:
        """The diagnosis that a text tells, sentence by sentence."""
        found: dict[str, str] = {}
        for sentence in SENTENCE_END.split(OPEN_LINE.sub(r"\1 ", text.lower())):
            for diagnosis, patterns in self.diagnoses.items():
                if words := next(self._told(patterns, sentence.strip()), ""):
                    found.setdefault(diagnosis, words)
        if len(found) > 1:
            return Label("", ", ".join(found.values()), conflict=True)
        return Label(*next(iter(found.items()))) if found else Label("")

    def _told(self, patterns: Sequence[str], sentence: str) -> Iterator[str]:
        """Every match that nothing beside it denies or questions."""
        for pattern in patterns:
            for match in re.finditer(pattern, sentence, re.IGNORECASE):
                before, after = sentence[: match.start()], sentence[match.end() :]
                if not _any(self.negation, before) and not _any(self.negation_after, after):
                    yield match.group()


def _any(patterns: Sequence[str], text: str) -> bool:
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns)


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
        return Vocabulary(
            {str(name): _patterns(words) for name, words in document["diagnoses"].items()},
            _patterns(document.get("negation", [])),
            _patterns(document.get("negation_after", [])),
        )
    except (yaml.YAMLError, re.error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            "A vocabulary must hold diagnoses: {NAME: [patterns]}, negation: [patterns] and "
            f"negation_after: [patterns], got {path}: {error}."
        ) from error


def _patterns(words: Any) -> tuple[str, ...]:
    """A list of regular expressions; one that matches nothing at all would be found in every text."""
    if not isinstance(words, list):
        raise TypeError(f"{words!r} is no list")
    for word in words:
        if word is None or re.search(str(word), ""):
            raise ValueError(f"the pattern {word!r} is empty")
    return tuple(map(str, words))
