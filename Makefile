# Every target sets up what it needs: a virtual environment in .venv, made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ldae-installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-oldest lint format type hooks clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install the package with its test tools

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) must be Python 3.11 or newer, got $$($(PYTHON) --version 2>&1). Run: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

demo: $(STAMP)  ## synthetic cohort, three stages, figures and report in outputs/demo
	$(BIN)/python run_cli.py demo

# One thread a process: as many processes as cores are faster than one process with as many threads.
test: $(STAMP)  ## the tests that run in minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto $(PYTEST_FLAGS)

test-slow: $(STAMP)  ## endurance, fuzz, browser, notebook and parity tests
	$(BIN)/python -m pytest -m slow $(PYTEST_FLAGS)

# The lowest versions that pyproject.toml allows, in an environment of its own.
test-oldest: $(STAMP)  ## the same tests with the oldest supported versions
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(VENV)-oldest
	$(BIN)/uv pip install --quiet --python $(VENV)-oldest/bin/python --resolution lowest-direct --editable '.[test]'
	OMP_NUM_THREADS=1 $(VENV)-oldest/bin/python -m pytest -m "not slow" -n auto $(PYTEST_FLAGS)

lint: $(STAMP)  ## ruff, import contracts, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell ldae tests scripts configs docs data benchmarks notebooks README.md CHANGELOG.md CONTRIBUTING.md

format: $(STAMP)  ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

hooks: $(STAMP)  ## install the pre-commit hooks into this clone
	$(BIN)/pre-commit install

clean:  ## remove caches and build output, not outputs/ and not .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find ldae tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
