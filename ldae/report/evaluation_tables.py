# SPDX-License-Identifier: Apache-2.0
"""The tables that evaluations of a run wrote, as the page shows them."""

from __future__ import annotations

import pandas as pd

from ldae.evaluation.counterfactual import TRUTH_TABLE
from ldae.evaluation.record import TABLE
from ldae.report.elements import Table
from ldae.report.run import Run
from ldae.report.tables import Column, make_table

PROBES = {"diagnosis": ("auc", "balanced_accuracy", "nll", "ece"), "age": ("mae", "r2"), "ventricle_ml": ("mae", "r2")}
KINDS = {
    "reconstruction": "both codes",
    "semantic_only": "semantic code, fresh noise",
    "autoencoder": "autoencoder alone",
}
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
            Column("scans", "scans", 0),
            Column("ssim", "SSIM", 4),
            Column("psnr", "PSNR, dB", 2),
            Column("mse", "MSE", 6),
        ],
        group=["against"],
        heading="against the {against}",
        caption="Means over test scans, with 95 % intervals over subjects.",
        command=run.command("evaluate reconstruction"),
    )


def truth_table(run: Run) -> Table:
    """Counterfactuals beside the scans that would really have been."""
    frame = _named(run.table("counterfactual", TRUTH_TABLE), METHODS, column="method")
    subjects = run.table("counterfactual", "truth_scans.csv")["subject"].nunique()
    return make_table(
        frame,
        [
            Column("method", "method"),
            Column("ssim_changed", "SSIM, changed region", 3),
            Column("mse_changed", "MSE, changed region", 5),
            Column("mse_rest", "MSE, rest", 5),
            Column("moved_rest", "rest moved by", 4),
            Column("ventricle_error_ml", "ventricles, error in ml", 1),
            Column("age_change", "age head moved by, years", 1),
        ],
        group=["rendering"],
        heading="{rendering}",
        caption=(
            f"Means over {subjects} test subjects given the other diagnosis, judged by the scans that the "
            "cohort renders of the same persons with it. The changed region is where those differ."
        ),
        command=run.command("evaluate counterfactual"),
    )


def interpolation_table(run: Run) -> Table:
    """Visits in between, by gap, beside copying and averaging."""
    frame = _named(run.table("interpolation", TABLE), BETWEEN)
    frame["truth"] = frame["truth"].map({"visit": "a visit that took place"}).fillna("rendered by the cohort")
    return make_table(
        frame,
        [
            Column("kind", "method"),
            Column("subjects", "subjects", 0),
            Column("ssim", "SSIM", 4),
            Column("mse", "MSE", 6),
            Column("ventricle_error_ml", "ventricles, error in ml", 2),
        ],
        group=["gap_months", "truth", "against"],
        heading="{gap_months:g} months, {truth}, against the {against}",
        caption="The middle of two visits, with 95 % intervals over subjects.",
        command=run.command("evaluate interpolation"),
    )


def comparison_table(run: Run) -> Table:
    """Probes on the code beside the same probes on principal components of the voxels."""
    frame = run.table("comparison", TABLE)
    chosen = [(target, metric) for target, metrics in PROBES.items() for metric in metrics]
    frame = frame[[pair in chosen for pair in zip(frame["target"], frame["metric"], strict=True)]]
    rows = []
    for (target, metric), part in frame.groupby(["target", "metric"], sort=False):
        row = {"target": target, "metric": metric}
        for place, name in enumerate(frame["features"].unique()):
            found = part[part["features"] == name].iloc[0]
            row |= {f"f{place}": found["value"], f"f{place}_low": found["low"], f"f{place}_high": found["high"]}
        rows.append(row)
    columns = [Column(f"f{place}", name, 3) for place, name in enumerate(frame["features"].unique())]
    return make_table(
        pd.DataFrame(rows),
        [Column("target", "what is read"), Column("metric", "measure"), *columns],
        caption="Linear probes on test subjects, with 95 % intervals over subjects.",
        command=run.command("evaluate comparison"),
    )


def _named(frame: pd.DataFrame, names: dict[str, str], *, column: str = "kind") -> pd.DataFrame:
    """Keys of a column as words; a key that is not known stays as it is."""
    return frame.assign(**{column: frame[column].map(names).fillna(frame[column])})
