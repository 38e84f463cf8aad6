# SPDX-License-Identifier: Apache-2.0
"""Diagnoses out of words, by rules that anyone can read and change."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from ldae.errors import InputError

# A dot behind an abbreviation (v.a., susp.) ends no sentence: what denies would be cut off.
ABBREVIATIONS = ("[a-z]", "dd", "ev", "evtl", "poss", "susp", "excl", "ausschl", "neg")
SENTENCE_END = re.compile(
    "".join(rf"(?<!\b{word})" for word in ABBREVIATIONS) + r"\.(?!\d)|[;\n](?!\d)",
)
# A line that ends so goes on in the next one, unless it answers: "stroke: no".
OPEN_LINE = re.compile(
    r"(,|(?<![:=] )(?<![:=])\b(?:of|for|the|an?|with|to|in|and|or|by|from|no|not|without|possible|suspected|"
    r"family|history|von|für|auf|bei|mit|und|oder|eine?[nrs]?|keine?[nrs]?|ohne))[ \t]*\r?\n\s*"
)
# What names a diagnosis more often is no sentence, and would take long.
MOST_NAMED = 20
CLAUSE = re.compile(r"[,()\[\]|]")


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
    """What a text must hold for a diagnosis, and what it must not.

    Attributes:
        diagnoses: Patterns by diagnosis.
        negation: What denies or questions a diagnosis that comes after it in the sentence.
        negation_after: The same of one that comes before.
        beside: Words that may stand beside a diagnosis, between two commas or brackets; all if empty.
    """

    diagnoses: dict[str, tuple[str, ...]]
    negation: tuple[str, ...]
    negation_after: tuple[str, ...]
    beside: tuple[str, ...] = ()

    def read(self, text: str) -> Label:
        """The diagnosis that a text tells, sentence by sentence.

        `unknown` is set where a diagnosis is named among words that are not known, so that nothing is told.
        """
        found: dict[str, str] = {}
        strange = False
        for sentence in SENTENCE_END.split(OPEN_LINE.sub(r"\1 ", text.lower().replace("_", " "))):
            for diagnosis, patterns in self.diagnoses.items():
                for words, understood in islice(self._told(patterns, sentence.strip()), MOST_NAMED):
                    if understood:
                        found.setdefault(diagnosis, words)
                        break
                    strange = True
        if len(found) > 1:
            return Label("", ", ".join(found.values()), conflict=True)
        return Label(*next(iter(found.items()))) if found else Label("", unknown=strange)

    def _told(self, patterns: Sequence[str], sentence: str) -> Iterator[tuple[str, bool]]:
        """Every match that nothing beside it denies or questions, and whether all around it is understood."""
        for pattern in patterns:
            for match in re.finditer(pattern, sentence, re.IGNORECASE):
                before, after = sentence[: match.start()], sentence[match.end() :]
                if not _any(self.negation, before) and not _any(self.negation_after, after):
                    ends = CLAUSE.split(before)[-1], CLAUSE.split(after)[0]
                    whole = match.group().join(ends)
                    yield match.group(), self._understood(whole) or self._understood(" ".join(ends))

    def _understood(self, text: str) -> bool:
        """Whether nothing stands there but diagnoses and words that may stand beside one."""
        if not self.beside:
            return True
        diagnoses = [pattern for patterns in self.diagnoses.values() for pattern in patterns]
        for pattern in (*diagnoses, *(rf"(?<!\w)(?:{pattern})(?!\w)" for pattern in self.beside)):
            text = re.sub(pattern, " ", text, flags=re.IGNORECASE)
        return not re.search(r"\w|>|→", text)


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
            _patterns(document.get("beside", [])),
        )
    except (yaml.YAMLError, re.error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            "A vocabulary must hold diagnoses: {NAME: [patterns]}, and may hold negation, negation_after and "
            f"beside: [patterns], got {path}: {error}."
        ) from error


def _patterns(words: Any) -> tuple[str, ...]:
    """A list of regular expressions; one that matches nothing at all would be found in every text."""
    if not isinstance(words, list):
        raise TypeError("the patterns are no list")
    for word in words:
        if not isinstance(word, str | int | float) or re.search(str(word), ""):
            raise ValueError("a pattern is empty or no text")
    return tuple(map(str, words))
