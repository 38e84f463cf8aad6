# SPDX-License-Identifier: Apache-2.0
"""From measures of a code to a verdict: what is wrong with it, and which configuration key to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ldae.pipeline.networks import Networks

STAGE_2, STAGE_3 = "ldae_pretrain.yaml", "ldae_repr_learn.yaml"
# What measured best, and where it is set.
PROVEN = {
    "prediction": ("v", STAGE_2),
    "statistics": ("voxel", STAGE_2),
    "prior": ("place", STAGE_2),
    "encoder.normalisation": ("whiten", STAGE_3),
    "encoder.pooling": ("tokens", STAGE_3),
    "estimator.entry": ("modulation+place", STAGE_3),
}
LONGER = f"raise warm_start.epochs and trainer.max_epochs in {STAGE_3}"

LEAST_VARIATION = 1e-3  # of a code's mean square: below, its numbers differ by 3 % of their size
MOST_ERROR = 0.95  # of the error without the code, or with another's
LEAST_RANK, LEAST_RANK_SHARE = 6.0, 0.25  # the lower of the two, the second as a share of the code's size
MOST_SLICE = 0.4
MOST_LEFT = 0.2
NEEDED = 0.3  # of the latents: where a linear map cannot tell even these, it says nothing of z_T


@dataclass(frozen=True)
class Check:
    """One question to the code.

    Attributes:
        name: What is asked.
        value: What was measured.
        limit: Where bad begins.
        state: The answer.
        finding: It in words, a clause.
        remedy: What to change, a clause; empty unless it is bad.
    """

    name: str
    value: float
    limit: float
    state: Literal["good", "bad", "cannot tell"]
    finding: str
    remedy: str = ""


def read_settings(networks: Networks) -> dict[str, str]:
    """How the keys of `PROVEN` were set for these networks."""
    encoder, diffusion = networks.encoder.config, networks.diffusion
    by_place = max(networks.normaliser.mean.shape[1:]) > 1
    return {
        "prediction": diffusion.prediction.name,
        "statistics": "voxel" if by_place else "channel",
        "prior": "none" if diffusion.denoiser.prior is None else "place",
        "encoder.normalisation": encoder.normalisation,
        "encoder.pooling": encoder.pooling,
        "estimator.entry": diffusion.estimator.config.entry,
    }


def judge(values: Mapping[str, Any], *, settings: Mapping[str, str]) -> list[Check]:
    """The checks, causes before their effects.

    Args:
        values: The measures, as doctor.json names them.
        settings: How the keys of `PROVEN` are set.
    """
    return [
        _differs(values, settings),
        _is_used(values, settings),
        _is_own(values, settings),
        _has_rank(values, settings),
        _reads_all_slices(values, settings),
        _leaves_noise(values, settings),
    ]


def say_verdict(checks: Sequence[Check]) -> str:
    """One sentence: the first thing that is bad with its remedy, or what was found where nothing is."""
    bad = [check for check in checks if check.state == "bad"]
    if not bad:
        good = [check.finding for check in checks if check.state == "good"]
        return f"The code works: {', '.join(good)}."
    first, *others = bad
    also = f" (also bad: {', '.join(check.name for check in others)})" if others else ""
    return f"{first.finding[0].upper()}{first.finding[1:]}{also}: {first.remedy}."


def _differs(values: Mapping[str, Any], settings: Mapping[str, str]) -> Check:
    share = values["code_variation"]
    bad = share < LEAST_VARIATION
    finding = "the codes of all scans are almost equal" if bad else "codes differ from scan to scan"
    remedy = _remedy(settings, "encoder.normalisation", "encoder.pooling", then=LONGER) if bad else ""
    return Check("codes differ", share, LEAST_VARIATION, _state(bad), finding, remedy)


def _is_used(values: Mapping[str, Any], settings: Mapping[str, str]) -> Check:
    ratio = values["gap_right_of_none"]
    bad = ratio >= MOST_ERROR
    finding = f"a scan's own code leaves {_percent(ratio)} of the error without a code"
    if bad:
        finding = f"the decoder does not use the code, {finding}"
    keys = ("encoder.normalisation", "prediction", "statistics", "estimator.entry")
    remedy = _remedy(settings, *keys, then=LONGER) if bad else ""
    return Check("error, own code to none", ratio, MOST_ERROR, _state(bad), finding, remedy)


def _is_own(values: Mapping[str, Any], settings: Mapping[str, str]) -> Check:
    ratio = values["gap_right_of_shuffled"]
    bad = ratio >= MOST_ERROR
    finding = f"it leaves {_percent(ratio)} of the error with another subject's"
    if bad:
        finding = f"the code does not tell one subject from another, {finding}"
    remedy = _remedy(settings, "encoder.normalisation", "encoder.pooling", then=LONGER) if bad else ""
    return Check("error, own code to another's", ratio, MOST_ERROR, _state(bad), finding, remedy)


def _has_rank(values: Mapping[str, Any], settings: Mapping[str, str]) -> Check:
    rank, size = values["effective_rank"], values["code_size"]
    limit = min(LEAST_RANK, LEAST_RANK_SHARE * size)
    bad = rank < limit
    finding = f"the code's effective rank is {rank:.1f} of {size}"
    then = f"set warm_start.components: true and raise warm_start.epochs in {STAGE_3}"
    remedy = _remedy(settings, "encoder.normalisation", "encoder.pooling", then=then) if bad else ""
    return Check("effective rank", rank, limit, _state(bad), finding, remedy)


def _reads_all_slices(values: Mapping[str, Any], settings: Mapping[str, str]) -> Check:
    share, place = values["largest_slice_share"], values["largest_slice"]
    bad = share > MOST_SLICE
    finding = f"the weightiest slice, {values['plane']} {place}, has {_percent(share)} of the say"
    then = f"look at that slice of the scans, and try another encoder.plane in {STAGE_3}"
    remedy = _remedy(settings, "encoder.pooling", then=then) if bad else ""
    return Check("share of one slice", share, MOST_SLICE, _state(bad), finding, remedy)


def _leaves_noise(values: Mapping[str, Any], settings: Mapping[str, str]) -> Check:
    share, latents = values["noise_explained"], values["latent_explained"]
    bad = share > MOST_LEFT
    finding = f"the code tells {_percent(max(share, 0))} of the stochastic code's variance"
    name = "code in the stochastic code"
    if not bad and latents < NEEDED:
        finding += f", but only {_percent(max(latents, 0))} of the latents', so that more may be left unseen"
        return Check(name, share, MOST_LEFT, "cannot tell", finding)
    then = f"raise trainer.max_epochs in {STAGE_3}, or encode in more --steps"
    keys = ("estimator.entry", "prior", "prediction")
    return Check(
        name, share, MOST_LEFT, _state(bad), finding, _remedy(settings, *keys, then=then) if bad else ""
    )


def _state(bad: bool) -> Literal["good", "bad"]:
    return "bad" if bad else "good"


def _remedy(settings: Mapping[str, str], *keys: str, then: str) -> str:
    """Set what is not as it measured best; and what else may help."""
    wrong = [key for key in keys if settings[key] != PROVEN[key][0]]
    changes = [f"{key}: {PROVEN[key][0]} (now {settings[key]}) in {PROVEN[key][1]}" for key in wrong]
    return "; ".join([f"set {', '.join(changes)}", then] if changes else [then])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
