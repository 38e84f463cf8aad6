# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from ldae.cli.configs import find_config, read_configs
from ldae.evaluation.material import ScanSet
from ldae.evaluation.verdict import PROVEN, judge, read_settings, say_verdict

GOOD: dict[str, Any] = {
    "code_size": 256,
    "code_variation": 0.9,
    "gap_right_of_none": 0.25,
    "gap_right_of_shuffled": 0.1,
    "effective_rank": 30.0,
    "plane": "axial",
    "largest_slice": 14,
    "largest_slice_share": 0.1,
    "noise_explained": 0.01,
    "latent_explained": 0.8,
}
SET = {key: value for key, (value, _) in PROVEN.items()}
PUBLISHED = {
    "prediction": "eps",
    "statistics": "channel",
    "prior": "none",
    "encoder.normalisation": "layernorm",
    "encoder.pooling": "attention",
    "estimator.entry": "modulation",
}


def verdict(settings: dict[str, str] = SET, **changed: float) -> str:
    return say_verdict(judge({**GOOD, **changed}, settings=settings))


def test_a_good_code_is_told_with_its_numbers() -> None:
    assert verdict() == (
        "The code works: codes differ from scan to scan, a scan's own code leaves 25 % of the error "
        "without a code, it leaves 10 % of the error with another subject's, the code's effective rank is "
        "30.0 of 256, the weightiest slice, axial 14, has 10 % of the say, the code tells 1 % of the "
        "stochastic code's variance."
    )


@pytest.mark.parametrize(
    ("changed", "said", "keys"),
    [
        ({"code_variation": 1e-5}, "The codes of all scans are almost equal: ", ["warm_start.epochs"]),
        (
            {"gap_right_of_none": 0.96},
            "The decoder does not use the code, ",
            ["warm_start.epochs", "trainer.max_epochs"],
        ),
        ({"gap_right_of_shuffled": 1.0}, "The code does not tell one subject", ["warm_start.epochs"]),
        (
            {"effective_rank": 2.0},
            "The code's effective rank is 2.0 of 256: ",
            ["warm_start.components: true"],
        ),
        ({"largest_slice_share": 0.7}, "The weightiest slice, axial 14, has 70 %", ["encoder.plane"]),
        (
            {"noise_explained": 0.5},
            "The code tells 50 % of the stochastic",
            ["trainer.max_epochs", "--steps"],
        ),
    ],
)
def test_what_is_bad_is_said_with_what_to_change(
    changed: dict[str, float], said: str, keys: list[str]
) -> None:
    sentence = verdict(**changed)
    assert sentence.startswith(said)
    assert all(key in sentence for key in keys)
    assert "now" not in sentence
    assert sentence.count(".yaml.") <= 1
    assert sentence.endswith(".")


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        (
            {"gap_right_of_none": 1.0},
            ["encoder.normalisation", "prediction", "statistics", "estimator.entry"],
        ),
        ({"gap_right_of_shuffled": 1.0}, ["encoder.normalisation", "encoder.pooling"]),
        ({"largest_slice_share": 0.7}, ["encoder.pooling"]),
        ({"noise_explained": 0.5}, ["estimator.entry", "prior", "prediction"]),
    ],
)
def test_settings_that_measured_worse_are_named(changed: dict[str, float], keys: list[str]) -> None:
    sentence = verdict(PUBLISHED, **changed)
    for key in PROVEN:
        told = f"{key}: {PROVEN[key][0]} (now {PUBLISHED[key]}) in {PROVEN[key][1]}"
        assert (told in sentence) == (key in keys)


def test_the_cause_comes_first_and_the_rest_is_named() -> None:
    sentence = verdict(gap_right_of_none=1.0, gap_right_of_shuffled=1.0, effective_rank=1.0)
    assert sentence.startswith("The decoder does not use the code, ")
    assert "(also bad: error, own code to another's, effective rank)" in sentence


def test_a_small_share_of_the_noise_says_nothing_where_the_latents_are_not_told_either() -> None:
    *_, check = judge({**GOOD, "latent_explained": 0.1}, settings=SET)
    assert check.state == "cannot tell"
    *_, check = judge({**GOOD, "latent_explained": 0.1, "noise_explained": 0.3}, settings=SET)
    assert check.state == "bad"


def test_small_codes_are_not_asked_for_more_than_they_have() -> None:
    assert verdict(code_size=12, effective_rank=3.1).startswith("The code works")


def test_every_key_is_one_of_the_configurations() -> None:
    for key, (value, name) in PROVEN.items():
        found: Any = read_configs([find_config(name)])["model"]["init_args"]
        for part in key.split("."):
            found = found[part]
        assert found == value


def test_settings_are_read_from_the_networks(scan_set: ScanSet) -> None:
    settings = read_settings(scan_set.pipeline.networks)
    assert settings == {**SET, "prior": "none"}
