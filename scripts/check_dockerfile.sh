#!/usr/bin/env bash
# Runs the Dockerfile's COPY and RUN steps in a clean virtual environment and folder, then what the image is for:
# every step of a pipeline, on a tiny synthetic cohort, away from the checkout. No Docker engine is needed, and
# nothing outside of the folder is touched; the base image and the user are what it cannot check.
#   scripts/check_dockerfile.sh [FOLDER]     PYTHON=python3.12 PIP_OPTIONS="..." scripts/check_dockerfile.sh
set -euo pipefail
checkout="$(cd "$(dirname "$0")/.." && pwd)"
root="${1:-$(mktemp -d)}"
python="${PYTHON:-python3}"
export PIP_OPTIONS="${PIP_OPTIONS:-}"
unset PYTHONPATH

mkdir -p "$root/opt/ldae"
test -x "$root/venv/bin/python" || "$python" -m venv "$root/venv"
export PATH="$root/venv/bin:$PATH" HOME="$root/data" XDG_CACHE_HOME="$root/cache"
here="$root"
while read -r step words; do
    words="${words//\/opt\/ldae/$root/opt/ldae}"
    words="${words//\/data/$root/data}"
    case "$step" in
        WORKDIR) mkdir -p "$words" && here="$words" ;;
        COPY)
            read -r -a parts <<<"$words"
            for part in "${parts[@]:0:${#parts[@]}-1}"; do
                rm -rf "${here:?}/$part"
                cp -R "$checkout/$part" "$here/${parts[-1]}"
            done
            ;;
        RUN)
            echo "+ $words"
            (cd "$here" && bash -euc "$words")
            ;;
    esac
done <"$checkout/Dockerfile"

cd "$here"
rm -rf outputs/run
python -c "import ldae, sys; assert ldae.__file__.startswith('$root/venv'), ldae.__file__"
tiny() { # the image holds no tests: only the small sizes come from the checkout
    ldae fit --config "demo/$1.yaml" --config "$checkout/tests/tiny/$1.yaml" --run_dir outputs/run
}
ldae --version
ldae fit --config ldae_repr_learn.yaml --print_config >/dev/null
code=0
ldae fit --config ldae_repr_learn.yaml --trainer.accelerator cpu 2>message || code=$?
test "$code" -eq 2 && grep "ldae fit\|run_cli.py fit\|must be" message
ldae phantom --out outputs/run/cohort --subjects 40 --spacing 10 --size 16 24 16 --jobs 1
tiny aekl
ldae latents
tiny ldae_pretrain
tiny ldae_repr_learn
ldae embed --pipeline outputs/run/pipeline --cohort outputs/run/cohort/cohort.csv --cache outputs/run/cache --out outputs/run
ldae probe --target diagnosis
ldae probe --target age
ldae reconstruct --pipeline outputs/run/pipeline --cohort outputs/run/cohort/cohort.csv --split test --steps 2 --out outputs/run/scans/reconstruct
ldae report
echo "the Dockerfile's steps work: $root"
