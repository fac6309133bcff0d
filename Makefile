# `make demo` and `make test` need Python 3.10 or newer and make; everything else goes into .venv.
# PYTHON=python3.12 picks another interpreter for a new .venv, VENV=path another place, ARGS="-k name -x" goes to pytest.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo example test lint bench wheel clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):[^#]*## /make \1\t/' | expand -t 14

demo: $(VENV)/.demo ## align six real exercise routines and draw one alignment into out/
	$(BIN)/python examples/demo_mocap6.py

example: $(VENV)/.example ## procedure learning: train on the six routines, write metrics and pictures into out/procedure
	$(BIN)/python examples/procedure_learning/run.py $(ARGS)

test: $(VENV)/.dev ## run the tests, one process per core
	$(BIN)/python -m pytest -n auto $(ARGS)

lint: $(VENV)/.dev ## ruff, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench ## time, objective and feasibility against POT, OTT, fugw, ASOT in five minutes; ARGS=--full: all
	$(BIN)/python -m benchmarks $(ARGS)

wheel: $(VENV)/.dev ## build the wheel and the source archive into dist/
	$(BIN)/python -m build

clean: ## remove what the other targets made
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "fpgwot needs Python 3.10 or newer, $(PYTHON) is %s; try make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# Stamps: an environment is filled again only when the requirements change. The development set contains the demo's.
$(VENV)/.demo: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --quiet -e '.[plot,cli]'
	@touch $@

$(VENV)/.example: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --quiet -e '.[example]'
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --quiet -e '.[dev]'
	@touch $(VENV)/.demo $@

$(VENV)/.bench: setup.cfg pyproject.toml | $(BIN)/python
	$(PIP) install --quiet -e '.[bench]'
	@touch $@
