# Start with `make demo`; `make test` before a commit.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit engines bench bench-profile bench-fleet pins clean
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
export PYTHON

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: ## .venv with Salt's console scripts, and missing Debian packages
	@scripts/setup.sh

demo: setup ## the whole job on a private Docker engine
	@scripts/demo.sh

test: lint ## lint and all tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile

unit: setup ## only the tests that need neither an engine nor daemons
	@$(BIN)/python -m pytest -m 'not functional and not integration and not slow'

lint: setup ## format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@MYPYPATH=_utils $(BIN)/mypy --strict -p baseimg_core
	@MYPYPATH=_utils $(BIN)/mypy tests/support

engines: setup ## the contract with more engines, file systems and releases of Salt; half an hour
	@scripts/engines.sh
# WORKLOADS=small,many  RUNS=5  CACHE=/srv/bench; what is not given has the default of `python -m bench --help`
bench: ## measure beside what people would use instead; hours, see bench/README.md
	@scripts/setup.sh bench
	@PYTHONPATH=.:_utils $(BIN)/python -m bench $(WORKLOADS:%=--workloads=%) $(RUNS:%=--runs=%) $(CACHE:%=--cache=%) $(OPTIONS)

bench-profile: setup ## where the time of each step of ours goes, as Markdown; a quarter of an hour
	@PYTHONPATH=.:_utils $(BIN)/python -m bench.profile $(WORKLOADS:%=--workloads=%) $(CACHE:%=--cache=%) $(OPTIONS)

# NODES=1,5,10  SIZE=20 (MiB of the bundle)
bench-fleet: setup ## what a fleet of real minions costs its master; 15 minutes, see bench/README.md
	@PYTHONPATH=.:_utils $(BIN)/python -m bench.fleet $(NODES:%=--nodes=%) $(SIZE:%=--size=%) $(OPTIONS)

pins: ## write requirements/dev.txt anew from setup.cfg
	@scripts/pins.sh

clean: ## remove what these targets made
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
