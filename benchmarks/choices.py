# SPDX-License-Identifier: Apache-2.0
"""What each choice of stages 2 and 3 does: the published recipe, then one choice of ours after the other.

Every row is trained on the same cohort, autoencoder and latents as the demo, for about as long, and
measured on the same test scans. An epoch of the warm start takes a tenth of one of diffusion, so that rows
without it have two epochs of diffusion more. Run after `make demo`:

    python benchmarks/choices.py --run-dir outputs/demo --out outputs/choices

It takes about five minutes a row on two cores and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from ldae.cli.main import main

MODEL = "--model.init_args."
EPOCHS = "trainer.max_epochs"
SHARED = ("cohort", "cache", "autoencoder", "latents")
FIGURES = {
    "code": ("gap_right", "gap_shuffled", "gap_none"),
    "reconstruction": ("reconstruction_ssim", "semantic_only_ssim", "noise_code_std"),
    "comparison": ("probe_auc", "probe_age_mae", "ventricle_r2"),
}
OPTIONS = {"code": ("--limit", "96"), "reconstruction": ("--steps", "10", "--limit", "24")}
"""Of the measurements that take long."""


@dataclass(frozen=True)
class Row:
    """One row of the table: what it adds to the row above, in words, and what it still overrides.

    Attributes:
        name: Name of its run folder.
        words: What is added.
        denoiser: Overrides of configs/demo/ldae_pretrain.yaml.
        representation: Overrides of configs/demo/ldae_repr_learn.yaml.
    """

    name: str
    words: str
    denoiser: tuple[tuple[str, str], ...] = ()
    representation: tuple[tuple[str, str], ...] = ()


NO_PRIOR = (("prior", "none"),)
CHANNEL = (("statistics", "channel"), *NO_PRIOR)
EPS = (("prediction", "eps"), *CHANNEL)
FROM_ZERO = (("warm_start.components", "false"), ("warm_start.regressor_lr", "1e-2"))
NO_WARM_START = ((EPOCHS, "6"), ("warm_start.epochs", "0"), ("warm_start.weight", "0"))
MODULATION = (("estimator.entry", "modulation"), *NO_WARM_START)
ATTENTION = (("encoder.pooling", "attention"), *MODULATION)
LAYERNORM = (("encoder.normalisation", "layernorm"), *ATTENTION)

ROWS = (
    Row(
        "published",
        "published recipe: eps, channel statistics, LayerNorm, one query, modulation",
        EPS,
        LAYERNORM,
    ),
    Row("v", "v instead of eps", CHANNEL, LAYERNORM),
    Row("whiten", "code whitened", CHANNEL, ATTENTION),
    Row("tokens", "all slice tokens", CHANNEL, MODULATION),
    Row("statistics", "mean of every place taken off", NO_PRIOR, MODULATION),
    Row("place", "code laid out as a latent", NO_PRIOR, NO_WARM_START),
    Row("warm_start", "warm start, its regression from zero", NO_PRIOR, FROM_ZERO),
    Row("prior", "Gaussian prior by place", (), FROM_ZERO),
    Row("default", "regression from the principal components: the default"),
)


def words(overrides: tuple[tuple[str, str], ...]) -> list[str]:
    """Overrides as command-line words."""
    return [
        part
        for key, value in overrides
        for part in (f"--{key}" if key.startswith("trainer.") else f"{MODEL}{key}", value)
    ]


def link(run_dir: Path, target: Path) -> None:
    """A link of the same name in `run_dir` to a folder that another run made."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / target.name).exists():
        (run_dir / target.name).symlink_to(target.resolve(), target_is_directory=True)


def train_denoiser(row: Row, *, base: Path, out: Path) -> Path:
    """Stage 2 of a row, trained once for all rows that share it; the folder of its component."""
    if not row.denoiser:
        return base / "denoiser"
    run_dir = out / "_".join(["denoiser", *(value for _, value in row.denoiser)])
    for name in SHARED:
        link(run_dir, base / name)
    call("fit", "--config", "demo/ldae_pretrain.yaml", "--run_dir", str(run_dir), *words(row.denoiser))
    return run_dir / "denoiser"


def train(row: Row, *, base: Path, out: Path) -> Path:
    """The folder of a row's run: of the demo itself for the default, else stages 2 and 3 are trained."""
    if not row.representation:
        return base
    run_dir = out / row.name
    for folder in (*(base / name for name in SHARED), train_denoiser(row, base=base, out=out)):
        link(run_dir, folder)
    run, cohort = str(run_dir), str(run_dir / "cohort" / "cohort.csv")
    call("fit", "--config", "demo/ldae_repr_learn.yaml", "--run_dir", run, *words(row.representation))
    call(
        "embed", "--pipeline", f"{run}/pipeline", "--cohort", cohort, "--cache", f"{run}/cache", "--out", run
    )
    for target in ("diagnosis", "age"):
        call("probe", "--run-dir", run, "--target", target)
    return run_dir


def call(*command: str) -> None:
    """One command of the program; the benchmark ends where it fails."""
    if main(command):
        raise SystemExit(f"ldae {shlex.join(command)} failed")


def measure(run_dir: Path, *, out: Path) -> dict[str, float]:
    """The figures of a run, measured into `out`."""
    found: dict[str, float] = {}
    for name, keys in FIGURES.items():
        folder = out / "evaluation" / name
        call("evaluate", name, "--run-dir", str(run_dir), "--out", str(folder), *OPTIONS.get(name, ()))
        values = json.loads((folder / "result.json").read_text())["values"]
        found |= {key: round(values[key], 3) for key in keys}
    return found


def run() -> None:
    """All rows, the table written after each."""
    # codes that nothing uses have denormal gradients, which take a hundred times as long
    torch.set_flush_denormal(True)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--out", type=Path, default=Path("outputs/choices"))
    parser.add_argument("--fresh", action="store_true", help="forget earlier rows")
    arguments = parser.parse_args()
    if arguments.fresh:
        shutil.rmtree(arguments.out, ignore_errors=True)
    table = []
    for row in ROWS:
        run_dir = train(row, base=arguments.run_dir, out=arguments.out)
        table.append({"adds": row.words, **measure(run_dir, out=arguments.out / row.name)})
        pd.DataFrame(table).to_csv(arguments.out / "table.csv", index=False)
    print(pd.DataFrame(table).to_string(index=False))


if __name__ == "__main__":
    run()
