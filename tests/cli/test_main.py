# SPDX-License-Identifier: Apache-2.0
"""The program around the verbs: help, exit codes, one sentence for a mistake."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from ldae.cli.main import VERBS


def test_every_verb_file_is_a_verb() -> None:
    folder = Path(import_module("ldae.cli.verbs").__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == set(VERBS)


def test_help_names_every_verb_with_one_line(ldae) -> None:
    said = ldae("--help")
    assert said.code == 0
    for verb in VERBS:
        assert f"  {verb:12} {import_module(f'ldae.cli.verbs.{verb}').HELP}" in said.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(ldae, verb: str) -> None:
    said = ldae(verb, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: ldae {verb}")
    assert import_module(f"ldae.cli.verbs.{verb}").HELP in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["dance"], "verb must be one of fit, validate"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["split"], "the following arguments are required: --cohort"),
        (["vary", "a.nii", "--pipeline", "p", "-n", "0"], "argument -n: must be 1 or more, got 0"),
        (["vary", "a.nii", "--pipeline", "p", "--steps", "x"], "invalid whole number value: 'x'"),
        (
            ["reconstruct", "a.nii", "--pipeline", "p", "--solver", "euler"],
            "'ddim-next', 'ddim', 'dpm++2m'",
        ),
        (["manipulate", "a.nii", "--pipeline", "p", "--head", "h", "--target", "old"], "--target"),
        (["reconstruct", "a.nii", "--pipline", "p"], "--pipeline"),
        (["evaluate", "taste"], "reconstruction"),
    ],
)
def test_a_wrong_word_ends_with_2_and_one_sentence(ldae, words: list[str], told: str) -> None:
    said = ldae(*words)
    assert said.code == 2
    assert told in said.err
    assert "--help" in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["reconstruct", "--pipeline", "p"], "got neither"),
        (["reconstruct", "a.nii", "--cohort", "c.csv", "--pipeline", "p"], "got both"),
        (["reconstruct", "missing.nii", "--pipeline", "p"], "got missing.nii, which does not exist"),
        (["embed", "--pipeline", "p"], "got neither"),
        (["check"], "got neither"),
        (["check", "missing.nii"], "missing.nii"),
        (["split", "--cohort", "missing.csv"], "missing.csv"),
        (["interpolate", "a.nii", "b.nii", "--pipeline", "p"], "a.nii"),
        (["latents", "--run-dir", "nowhere"], "nowhere/autoencoder"),
        (["assemble", "--run-dir", "nowhere"], "nowhere/autoencoder"),
        (["phantom", "--subjects", "2"], "subjects must be at least 6"),
        (
            ["evaluate", "code", "--steps", "5", "10"],
            "must come with evaluate reconstruction, got evaluate code",
        ),
        (["evaluate", "interpolation", "--sweep"], "got evaluate interpolation"),
    ],
)
def test_a_mistake_ends_with_2_and_says_what(
    ldae, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = ldae(*words)
    assert said.code == 2, said.err
    assert told in said.err
    assert said.err.startswith("ldae: ")


def test_options_and_scans_mix_in_any_order() -> None:
    from ldae.cli.main import _parse
    from ldae.cli.verbs import manipulate

    words = ["a.nii", "--head", "h", "b.nii", "--pipeline", "p", "--target", ".1", "--target", "-2", "c.nii"]
    args = _parse(manipulate, verb="manipulate", words=words)
    assert [str(scan) for scan in args.scans] == ["a.nii", "b.nii", "c.nii"]
    assert args.target == [0.1, -2.0]


def test_solvers_are_those_of_the_sampler() -> None:
    from typing import get_args

    from ldae.cli.options import SOLVERS
    from ldae.diffusion.samplers import Solver

    assert set(SOLVERS) == set(get_args(Solver))


def test_other_errors_are_not_hidden(ldae, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldae.cli.verbs import split

    def broken(args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(split, "run", broken)
    with pytest.raises(ZeroDivisionError):
        ldae("split", "--cohort", "c.csv")


def test_a_file_error_of_the_system_is_put_into_words(ldae, monkeypatch: pytest.MonkeyPatch) -> None:
    from ldae.cli.verbs import split

    monkeypatch.setattr(split, "run", lambda args: args.cohort.read_text())
    said = ldae("split", "--cohort", "no/such.csv")
    assert said.code == 2
    assert said.err == "ldae: no/such.csv must exist, but there is no such file or folder.\n"


def test_a_split_is_drawn_once(ldae, tmp_path: Path) -> None:
    cohort = tmp_path / "cohort.csv"
    rows = [f"{n},1,{n}.nii,{('CN', 'MCI', 'AD')[n % 3]},70" for n in range(60)]
    cohort.write_text("\n".join(["subject,session,path,diagnosis,age", *rows, ""]))
    said = ldae("split", "--cohort", cohort)
    assert said.code == 0, said.err
    assert [line.split()[0] for line in said.out.splitlines()[2:]] == ["split", "train", "val", "cal", "test"]
    assert cohort.read_text().splitlines()[0].endswith(",split")
    said = ldae("split", "--cohort", cohort)
    assert said.code == 2
    assert "--overwrite" in said.err


@pytest.mark.parametrize(
    "name", ["reconstruction", "code", "comparison", "counterfactual", "interpolation", "sites"]
)
def test_every_measurement_takes_what_the_verb_gives(name: str) -> None:
    from inspect import signature

    from ldae.cli.verbs.evaluate import NAMES, OPTIONS

    assert set(NAMES) == set(OPTIONS)
    function = getattr(import_module(f"ldae.evaluation.{name}"), f"evaluate_{name}")
    given = {"out", "run_dir", "seed", "device", "progress", *OPTIONS[name]}
    given |= {"head"} if name == "counterfactual" else set()
    parameters = signature(function).parameters
    assert given <= set(parameters)
    required = {key for key, value in parameters.items() if value.default is value.empty}
    assert required <= given | {"pipeline", "cohort"}


@pytest.mark.parametrize(
    ("words", "sweep"),
    [
        ([], False),
        (["--steps", "10", "--solver", "ddim", "--decode-steps", "20"], False),
        (["--sweep"], True),
        (["--steps", "10", "20"], True),
        (["--decode-steps", "10", "20"], True),
        (["--solver", "ddim", "exact"], True),
        (["--reference-compatible"], True),
    ],
)
def test_several_values_are_a_sweep(words: list[str], sweep: bool) -> None:
    from ldae.cli.main import _parse
    from ldae.cli.verbs import evaluate

    args = _parse(evaluate, verb="evaluate", words=["reconstruction", *words])
    assert evaluate._is_sweep(args) is sweep


def test_a_sweep_takes_what_the_verb_gives() -> None:
    from inspect import signature

    from ldae.cli.verbs.evaluate import SEVERAL, SWEEP

    function = getattr(import_module(f"ldae.evaluation.{SWEEP}"), f"evaluate_{SWEEP}")
    given = {"split", "limit", "reference_compatible", *SEVERAL.values()}
    assert given <= set(signature(function).parameters)
