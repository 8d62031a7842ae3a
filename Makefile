# The commands a newcomer needs. GNU make, Python 3.11 or later; everything else goes into .venv.
#
#   make demo   virtual environment, install, then the whole path end to end, offline, to one HTML report
#   make test   virtual environment, development tools, then style, types, layers and the test suite
#   make soak   the tests that take long
#   make lint   style, types and layers alone

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test soak lint clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
DEMO ?= demo

help:
	@sed -n 's/^#   //p' Makefile

# Stamps: pip runs again only when pyproject.toml has changed. The bound on torch is in pyproject.toml.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -e '.[dev]'
	@touch $(VENV)/installed $@

demo: $(VENV)/installed
	$(BIN)/groundswell demo -o $(DEMO)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Two test processes of one thread each: the numbers must not depend on the machine's core count. Properties are tried
# on the same examples each time, so that a failure is the change's; `soak` looks for new ones.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'not soak' --hypothesis-profile=ci

soak: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m 'hypothesis and not soak'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m soak -rP --show-capture=stdout

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
