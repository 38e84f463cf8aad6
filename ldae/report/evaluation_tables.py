# SPDX-License-Identifier: Apache-2.0
"""The tables that evaluations of a run wrote, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ldae.evaluation.counterfactual import TRUTH_TABLE
from ldae.evaluation.known_counterfactual import ADDED, DECODED
from ldae.evaluation.record import TABLE, read_result
from ldae.evaluation.site_folds import ALL, AS_FEW, WITHOUT
from ldae.evaluation.site_scores import POOLED
from ldae.evaluation.sites import NAME as SITES
from ldae.evaluation.solvers import NAME as SOLVERS
from ldae.evaluation.sweep import AUTOENCODER, LDDIM, WHOLE
from ldae.report.elements import Table
from ldae.report.run import Run
from ldae.report.tables import Column, make_table

PROBES = {
    "diagnosis": ("auc", "balanced_accuracy", "nll"),
    "age": ("mae", "r2"),
    "ventricle_ml": ("mae", "r2"),
}
TARGETS = {"diagnosis": "AD against CN", "age": "age, years", "ventricle_ml": "ventricle volume, ml"}
METRICS = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "nll": "negative log likelihood",
    "mae": "mean absolute error",
    "r2": "R²",
}
KINDS = {
    "reconstruction": "both codes",
    "semantic_only": "semantic code, fresh noise",
    "autoencoder": "autoencoder alone",
    LDDIM: "without a semantic code",
}
CHANGE = "_change"
RENDERINGS = {DECODED: "as decoded", ADDED: "the decoded change, added to the scan"}
METHODS = {
    "nothing": "do nothing",
    "linear": "mean difference image",
    "linear_to_target": "mean difference image, scaled to the head's target",
    "weights": "code along the head's weights",
    "manipulated": "code moved by ldae manipulate",
    "manipulated_to_target": "the same, scaled until the head says the target of the image",
    "manipulated_held": "the same, held heads kept",
    "true_code": "the true scan's own code",
    "autoencoder": "true scan through the autoencoder: the ceiling",
}
BETWEEN = {
    "interpolated": "decoded between the codes",
    "interpolated_added": "voxel-wise mean and the decoded change",
    "copy_first": "copy of the first visit",
    "copy_last": "copy of the last visit",
    "voxel_mean": "voxel-wise mean of both",
    "autoencoder": "true visit through the autoencoder: the ceiling",
}


def reconstruction_table(run: Run) -> Table:
    """Likeness of reconstructions to the scan and to what the autoencoder makes of it."""
    frame = _named(run.table("reconstruction", TABLE), KINDS)
    return make_table(
        frame,
        [
            Column("kind", "what is compared"),
            Column("scans", "scans", ".0f"),
            Column("ssim", "SSIM", ".4f"),
            Column("psnr", "PSNR, dB", ".2f"),
            Column("mse", "MSE", ".3g"),
        ],
        group=["against"],
        heading="against the {against}",
        caption="Means over test scans, with 95 % intervals over subjects.",
        command=run.evaluation("reconstruction"),
    )


def solvers_table(run: Run) -> Table:
    """Every solver and number of steps, against what the autoencoder makes of the scan."""
    frame = run.table(SOLVERS, TABLE)
    frame = frame[(frame["against"] == AUTOENCODER) & (frame["region"] == WHOLE)]
    orders = {"kind": list(KINDS), "solver": list(frame["solver"].unique())}
    frame = frame.sort_values(
        ["kind", "solver", "encode_steps", "decode_steps"],
        key=lambda column: column.map(orders[column.name].index) if column.name in orders else column,
        kind="stable",
    )
    return make_table(
        _named(frame, KINDS),
        [
            Column("solver", "solver"),
            Column("encode_steps", "calls up", ".0f"),
            Column("decode_steps", "calls down", ".0f"),
            Column("ssim", "SSIM", ".4f"),
            Column("psnr", "PSNR, dB", ".1f"),
            Column("latent_error", "largest error of z_0", ".1e"),
            Column("noise_std", "std of z_T", ".2f"),
            Column("noise_kurtosis", "kurtosis", ".1f"),
        ],
        group=["kind"],
        heading="{kind}",
        caption="Up to noise and back by every solver, in so many network calls; 95 % over subjects.",
        command=run.evaluation(SOLVERS),
    )


def sites_table(run: Run) -> Table:
    """Heads at sites that they have not seen, and fitted on all sites."""
    frame = run.table(SITES, TABLE)
    result = read_result(run.run_dir / "evaluation" / SITES)
    order = [WITHOUT, ALL, AS_FEW]
    frame = frame[frame["site"] == POOLED].sort_values(
        "fitted", key=lambda column: column.map(order.index), kind="stable"
    )
    return make_table(
        frame,
        [
            Column("head", "head"),
            Column("balanced_accuracy", "balanced accuracy", ".3f"),
            Column("auc", "AUC", ".3f"),
            Column("nll", "NLL", ".3f"),
            Column("ece", "calibration error", ".3f"),
        ],
        group=["fitted"],
        heading="fitted {fitted}",
        caption=(
            f"{result['scans']} test scans of {result['sites']} values of {result['settings']['by']}, each "
            "judged by heads that were fitted without it, with all, or with as few subjects of all; 95 % "
            "intervals over subjects."
        ),
        command=run.evaluation(SITES),
    )


def truth_table(run: Run) -> Table:
    """Counterfactuals beside the scans that would really have been."""
    frame = _named(run.table("counterfactual", TRUTH_TABLE), METHODS, column="method")
    frame["rendering"] = frame["rendering"].map(RENDERINGS).fillna(frame["rendering"])
    held = [
        Column(name, f"{name.removesuffix(CHANGE)} head moved by", ".1f")
        for name in frame.columns
        if name.endswith(CHANGE) and name != f"score{CHANGE}"
    ]
    subjects = run.table("counterfactual", "truth_scans.csv")["subject"].nunique()
    return make_table(
        frame,
        [
            Column("method", "method"),
            Column("ssim_changed", "SSIM, changed region", ".3f"),
            Column("mse_changed", "MSE, changed region", ".3g"),
            Column("mse_rest", "MSE, rest", ".3g"),
            Column("moved_rest", "rest moved by", ".4f"),
            Column("ventricle_error_ml", "ventricles, error in ml", ".1f"),
            *held,
        ],
        group=["rendering"],
        heading="{rendering}",
        caption=(
            f"Means over {subjects} test subjects given the other diagnosis, judged by the scans that the "
            "cohort renders of the same persons with it. The changed region is where those differ. "
            + _avoided(read_result(run.run_dir / "evaluation" / "counterfactual")["values"])
        ),
        command=run.evaluation("counterfactual"),
    )


def _avoided(values: Mapping[str, Any]) -> str:
    """Which share of the others' squared error the move avoids."""
    told = []
    for other in ("nothing", "linear"):
        key = f"truth_gain_manipulated_over_{other}"
        low, high = values[f"{key}_ci"]
        told.append(f"{values[key]:.0%} ({low:.0%} to {high:.0%})")
    return (
        f"As decoded, the move avoids {told[0]} of the squared error there that doing nothing makes, and "
        f"{told[1]} of what the mean difference image makes; 95 % over subjects."
    )


def interpolation_table(run: Run) -> Table:
    """Visits in between, by gap, beside copying and averaging."""
    frame = _named(run.table("interpolation", TABLE), BETWEEN)
    frame["truth"] = frame["truth"].map({"visit": "a visit that took place"}).fillna("rendered by the cohort")
    return make_table(
        frame,
        [
            Column("kind", "method"),
            Column("subjects", "subjects", ".0f"),
            Column("ssim", "SSIM", ".4f"),
            Column("mse", "MSE", ".3g"),
            Column("ventricle_error_ml", "ventricles, error in ml", ".2f"),
        ],
        group=["gap_months", "truth", "against"],
        heading="{gap_months:g} months, {truth}, against the {against}",
        caption="The middle of two visits, with 95 % intervals over subjects.",
        command=run.evaluation("interpolation"),
    )


def comparison_table(run: Run) -> Table:
    """Probes on the code, the same probes on principal components of the voxels, and trained networks."""
    frame = run.table("comparison", TABLE)
    chosen = [(target, metric) for target, metrics in PROBES.items() for metric in metrics]
    frame = frame[[pair in chosen for pair in zip(frame["target"], frame["metric"], strict=True)]]
    rows = []
    for (target, metric), part in frame.groupby(["target", "metric"], sort=False):
        row = {"target": TARGETS[target], "metric": METRICS[metric]}
        for place, name in enumerate(frame["features"].unique()):
            # a network is trained for one target only
            for _, found in part[part["features"] == name].iterrows():
                row |= {
                    f"f{place}": found["value"],
                    f"f{place}_low": found["low"],
                    f"f{place}_high": found["high"],
                }
        rows.append(row)
    columns = [Column(f"f{place}", name, ".3f") for place, name in enumerate(frame["features"].unique())]
    return make_table(
        pd.DataFrame(rows),
        [Column("target", "what is read"), Column("metric", "measure"), *columns],
        caption="Linear probes, and networks trained end to end, on test subjects, with 95 % intervals.",
        command=run.evaluation("comparison"),
    )


def _named(frame: pd.DataFrame, names: dict[str, str], *, column: str = "kind") -> pd.DataFrame:
    """Keys of a column as words; a key that is not known stays as it is."""
    return frame.assign(**{column: frame[column].map(names).fillna(frame[column])})
