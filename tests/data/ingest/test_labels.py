# SPDX-License-Identifier: Apache-2.0
"""Texts tell a diagnosis only where they are sure of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldae.data.ingest.labels import Label, read_vocabulary
from ldae.errors import InputError


@pytest.mark.parametrize(
    "text",
    [
        "Alzheimer's disease unlikely",
        "Alzheimer's disease was ruled out",
        "Alzheimer excluded",
        "Alzheimer?",
        "AD?",
        "AD: not confirmed",
        "AD: no",
        "AD not likely",
        "AD, criteria are not met",
        "Query AD",
        "possible AD",
        "susp. AD",
        "evaluate for Alzheimer's disease",
        "AD vs FTD",
        "non-AD dementia",
        "preclinical AD",
        "Alzheimer's Disease Neuroimaging Initiative",
        "sister has Alzheimer's disease",
        "Alzheimer's disease in her grandmother",
        "DAT scan normal",
        "MRT ad hoc angefordert",
        "Restitutio ad integrum",
        "Left HC atrophy",
        "CN II normal",
        "Diagnosis: CN II palsy",
        "CN?",
        "kein Alzheimer",
        "Ausschluss AD",
        "V.a. Alzheimer",
        "Va Alzheimer",
        "V. a. Alzheimer-Demenz",
        "Alzheimer-Demenz ausgeschlossen",
        "Alzheimer bei der Mutter",
        "There is no evidence of\nAlzheimer's disease",
        "Kein Anhalt für eine\r\n Alzheimer-Demenz",
        "Befund spricht gegen eine Alzheimer-Demenz.",
        "Pas d'argument pour une maladie d'Alzheimer.",
        "Weder AD noch VD",
        "Statt Alzheimer liegt FTD vor",
        "Ehefrau leidet an Alzheimer",
        "Sohn Alzheimer",
        "AD, no",
        "Alzheimer,nein",
        "Alzheimer | nein",
        "[ ] Alzheimer [x] FTD",
        "☐ AD",
        "AD [ ]",
        "Ad 1: ok",
        "Ad: Mammographie",
        "Pas de maladie d'Alzheimer",
        "Sans signe d'Alzheimer",
        "Antécédents familiaux: Alzheimer",
        "Mère: maladie d'Alzheimer",
        "Alzheimer risk gene",
        "Neg. for AD",
        "AD (0)",
        "MCI/dementia",
        "AD-",
        "AD -",
        "AD □",
        "AD, normal",
        "AD, control",
        "MCI or dementia",
        "MCI to Dementia",
        "Conversion: MCI to Dementia",
        "AD 0",
        "AD n",
        "AD / no",
        "AD trial",
    ],
)
def test_what_is_not_sure_stays_empty(text: str) -> None:
    assert read_vocabulary().read(text) == Label("")


@pytest.mark.parametrize(
    ("text", "diagnosis"),
    [
        ("AD", "AD"),
        ("Hypertension: no\nDiagnosis: AD", "AD"),
        ("AD, no stroke", "AD"),
        ("AD, not on medication", "AD"),
        ("probable AD (Dr. Vogel)", "AD"),
        ("familial Alzheimer's disease", "AD"),
        ("No stroke. Alzheimer's disease. ", "AD"),
        ("DAT", "AD"),
        ("G30.1", "AD"),
        ("VA patient with AD", "AD"),
        ("AD 2010 ausgeschlossen, jetzt Alzheimer", "AD"),
        ("MCI, accompanied by wife", "MCI"),
        ("CN", "CN"),
        (". HC. ", "CN"),
        ("Group: HC", "CN"),
        ("healthy control, amyloid negative", "CN"),
        ("Clinical diagnosis: Alzheimer's disease", "AD"),
        ("Bekannte Alzheimer-Demenz seit 2015", "AD"),
        ("72-year-old woman with Alzheimer's disease, hypertension", "AD"),
        ("72 y/o M with mild AD", "AD"),
        ("Demenz vom Alzheimer-Typ", "AD"),
        ("Patient with mild AD, MMSE 21", "AD"),
        ("F00.1 Alzheimer-Krankheit mit spätem Beginn", "AD"),
        ("Maladie d'Alzheimer", "AD"),
        ("Dementia in Alzheimer's disease, atypical or mixed type", "AD"),
        ("AD (yes)", "AD"),
        ("AD: yes", "AD"),
        ("[x] AD", "AD"),
        ("Z.n. Alzheimer", "AD"),
        ("amnestic MCI, single domain", "MCI"),
        ("Mild cognitive impairment (amnestic)", "MCI"),
        ("cognitively normal elderly", "CN"),
        ("NL", "CN"),
        ("Normal controls", "CN"),
        ("healthy older adult", "CN"),
        ("aMCI", "MCI"),
        ("pMCI", "MCI"),
        ("EOAD", "AD"),
        ("alzheimers_disease", "AD"),
        ("Alzheimer's disease, MRI otherwise normal", "AD"),
        ("MCI due to AD", "MCI"),
        ("Amnestic multidomain MCI", "MCI"),
        ("MCI converters", "MCI"),
        ("Subject is cognitively normal.", "CN"),
    ],
)
def test_what_is_sure_is_told(text: str, diagnosis: str) -> None:
    assert read_vocabulary().read(text).diagnosis == diagnosis


@pytest.mark.parametrize(
    "text",
    [
        "Gegenüber früher Alzheimer",
        "Alzheimer wenig wahrscheinlich",
        "Alzheimer-typisches Muster fehlt",
        "Angst vor Alzheimer",
        "Lacks evidence of AD",
        "dementia or MCI",
        "AD control",
        "control AD",
        "AD/control",
        "AD case or control",
        "control, AD cohort",
        "healthy AD",
        "MCI or normal",
        "normal to MCI",
        "AD → VD",
        "Fails criteria for AD",
        "Less likely AD",
        "Rather FTD than AD",
        "Worried about Alzheimer's disease",
        "Alzheimer antibodies",
        "AD-like",
    ],
)
def test_a_diagnosis_among_words_that_are_not_known_stays_empty_and_is_told(text: str) -> None:
    assert read_vocabulary().read(text) == Label("", unknown=True)


@pytest.mark.parametrize(
    "text",
    ["MCI to CN", "NC/AD", "AD and MCI", "MCI -> CN", "CN -> MCI", "NL to MCI", "NL to AD"],
)
def test_several_diagnoses_conflict(text: str) -> None:
    assert read_vocabulary().read(text).conflict


def test_a_vocabulary_may_have_no_words_that_deny(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("diagnoses: {AD: [alzheimer]}", encoding="utf-8")
    assert read_vocabulary(path).read("no Alzheimer, excluded").diagnosis == "AD"
    path.write_text("diagnoses: {AD: [alzheimer]}\nnegation_after: [excluded]", encoding="utf-8")
    assert read_vocabulary(path).read("no Alzheimer, excluded") == Label("")


@pytest.mark.parametrize(
    "content",
    [
        "diagnoses: {AD: alzheimer}",
        "diagnoses: {AD: [alzheimer]}\nnegation: kein",
        "diagnoses: {AD: [alzheimer]}\nnegation_after: excluded",
        "diagnoses: {AD: ['']}",
        "diagnoses: {AD: ['alzheimer|']}",
        "diagnoses: {AD: [alzheimer, ]}\nnegation: [null]",
        "a: &a [x, x]\nb: &b [*a, *a]\ndiagnoses: {AD: *b}",
        "diagnoses: {AD: ['(']}",
        "diagnoses: [AD]",
        "AD",
        "",
    ],
)
def test_a_vocabulary_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="A vocabulary must hold diagnoses"):
        read_vocabulary(path)


def test_a_vocabulary_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_bytes("diagnoses: {AD: ['gedächtnis']}".encode("latin-1"))
    with pytest.raises(InputError, match="A vocabulary must hold diagnoses"):
        read_vocabulary(path)


def test_patterns_in_capitals_are_found_too(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("diagnoses: {AD: ['Alzheimer']}\nnegation: ['KEIN']\n")
    vocabulary = read_vocabulary(path)
    assert vocabulary.read("ALZHEIMER").diagnosis == "AD"
    assert vocabulary.read("kein Alzheimer") == Label("")


def test_without_words_that_may_stand_beside_any_may(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("diagnoses: {AD: [alzheimer]}", encoding="utf-8")
    assert read_vocabulary(path).read("anything Alzheimer").diagnosis == "AD"
    path.write_text("diagnoses: {AD: [alzheimer]}\nbeside: [some.*]", encoding="utf-8")
    assert read_vocabulary(path).read("something Alzheimer, anything").diagnosis == "AD"
    assert read_vocabulary(path).read("anything Alzheimer").unknown
