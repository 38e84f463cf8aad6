# SPDX-License-Identifier: Apache-2.0
"""What whole commands take of cohorts of 100, 1,000 and 10,000 scans.

    python benchmarks/cohort_size.py --out outputs/cohort_size

A synthetic cohort of the demo's scans is made once; larger ones are links to its files under other names and
other subjects. Each goes through the commands of a run with the demo's configs, one epoch a stage, each
command a process of its own: seconds of the CPU, and how much more memory was resident at most than for the
smallest cohort, since importing libraries takes most of it. `steeper` is by how much time above that of the
smallest grows faster than the scans from the second size to the third; 1 is as the scans do.
Writes cohort_size.json.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

COHORTS = (100, 1000, 10_000)
SUBJECTS = 400
ROOT = Path(__file__).resolve().parents[1]
STAGES = {"fit aekl": "aekl", "fit ldae_pretrain": "ldae_pretrain", "fit ldae_repr_learn": "ldae_repr_learn"}


def make_cohort(run: Path, *, source: Path, scans: int) -> None:
    """A cohort of so many scans as links to those of a smaller one."""
    with (source / "cohort.csv").open(newline="", encoding="utf-8") as stream:
        known = list(csv.DictReader(stream))
    (run / "cohort" / "scans").mkdir(parents=True)
    with (run / "cohort" / "cohort.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [name for name in known[0] if name != "split"], extrasaction="ignore")
        writer.writeheader()
        for number in range(scans):
            turn, place = divmod(number, len(known))
            row = known[place]
            name = f"scans/{number:05d}.nii.gz"
            os.link(source / row["path"], run / "cohort" / name)
            writer.writerow({**row, "subject": f"{row['subject']}x{turn}", "path": name})


def commands(run: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands of a run by name."""
    cohort, pipeline, where = run / "cohort" / "cohort.csv", run / "pipeline", ["--run-dir", str(run)]
    epoch = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    yield "split", ["split", "--cohort", str(cohort)]
    yield "check", ["check", "--cohort", str(cohort)]
    for name, config in STAGES.items():
        warm = ["--model.warm_start.epochs", "0"] if config == "ldae_repr_learn" else []
        yield name, ["fit", "--config", f"demo/{config}.yaml", "--run_dir", str(run), *epoch, *warm]
        if config == "aekl":
            yield "latents", ["latents", *where]
            yield "latents, up to date", ["latents", *where]
    embed = ["embed", "--pipeline", str(pipeline), "--cohort", str(cohort), "--cache", str(run / "cache")]
    yield "embed", [*embed, "--out", str(run)]
    yield "embed, up to date", [*embed, "--out", str(run)]
    yield "fit code_sampler", ["fit", "--config", "demo/code_sampler.yaml", "--run_dir", str(run), *epoch]
    for target in ("diagnosis", "age"):
        yield f"probe {target}", ["probe", *where, "--target", target]
    for name in ("code", "comparison", "reconstruction", "counterfactual"):
        yield f"evaluate {name}", ["evaluate", name, *where]
    yield "doctor", ["doctor", "--pipeline", str(pipeline), *where]
    yield "check, with a pipeline", ["check", "--cohort", str(cohort), "--pipeline", str(pipeline)]


def take(words: list[str], *, log: Path) -> tuple[float, float]:
    """Seconds of the CPU and MiB resident at most of a command."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_cli.py"), *words], stdout=stream, stderr=stream, cwd=ROOT
        )
        _, status, used = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    # check ends with 2 where scans differ from those the pipeline knows
    if code and not (words[0] == "check" and code == 2):
        sys.exit(f"ldae {' '.join(words)} ended with {code}, see {log}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/cohort_size"))
    parser.add_argument("--scans", type=int, nargs="+", default=COHORTS)
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    source = out / "phantoms"
    if not (source / "cohort.csv").is_file():
        take(["phantom", "--out", str(source), "--subjects", str(SUBJECTS)], log=out / "phantoms.log")
    found: dict[str, list[tuple[float, float]]] = {}
    for scans in args.scans:
        run = out / str(scans)
        shutil.rmtree(run, ignore_errors=True)
        make_cohort(run, source=source, scans=scans)
        for name, words in commands(run):
            found.setdefault(name, []).append(take(words, log=run / "log.txt"))
            print(scans, name, *(round(value, 1) for value in found[name][-1]), flush=True)
    # not before: a process begins with the memory of the one that starts it, which torch would make large
    from turns import Result, tell

    least, middle, most = args.scans[0], args.scans[-2], args.scans[-1]
    result: Result = {"scans": list(args.scans)}
    for name, points in found.items():
        seconds, mib = ([point[column] for point in points] for column in (0, 1))
        steeper = (seconds[-1] - seconds[0]) / max(seconds[-2] - seconds[0], 0.1)
        result[name] = {
            "seconds": [round(value, 1) for value in seconds],
            "mib_above_the_smallest": [round(value - mib[0]) for value in mib],
            "kb_a_scan": round((mib[-1] - mib[0]) * 1024 / (most - least), 1),
            "steeper": round(steeper * (middle - least) / (most - least), 2),
        }
    tell(result, out=out / "cohort_size.json")


if __name__ == "__main__":
    main()
