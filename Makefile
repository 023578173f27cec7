# Start with `make demo`; `make test` before a commit.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint unit engines matrix docs picture bench bench-quick bench-profile bench-fleet verdicts pins clean torture
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
export PYTHON
# Tests start hundreds of Python processes, which would all compile the same files.
unexport PYTHONDONTWRITEBYTECODE

help: ## list of targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: ## .venv with pinned Python packages, and missing Debian packages
	@scripts/setup.sh

demo: ## the whole job on a private Docker engine, in 20 seconds; the first run installs 100 MB
	@scripts/setup.sh demo
	@scripts/demo.sh

test: lint ## lint and all tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=10

unit: setup ## unit tests and random stacks, the inner loop: half a minute
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/unit tests/property

lint: setup ## check format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@MYPYPATH=_utils $(BIN)/mypy --strict -p baseimg_core
	@MYPYPATH=_utils $(BIN)/mypy tests/support
	@$(BIN)/vermin --quiet --target=3.10- --no-tips --violations _utils _modules _states _runners _grains _beacons

torture: setup ## power cuts, kills, every error of every call, a simulated year, random stacks; up to an hour
	@$(BIN)/python -m pytest -n 2 --dist load --maxschedchunk=1 --durations=20 --hypothesis-profile=deep tests/torture tests/property

engines: setup ## the contract on more engines, file systems and releases of Salt; half an hour
	@scripts/engines.sh

# CELLS="trixie:3008:lowest sid:3008:highest"
matrix: setup ## tests on each Python, with the lowest and highest version of each dependency; half an hour
	@scripts/aarch64.sh
	@scripts/matrix.sh $(CELLS)

docs: ## write docs/reference/functions.md from the docstrings
	@$(PYTHON) scripts/functions.py

picture: setup ## write docs/report.png, the report about a fleet of examples
	@PYTHONPATH=.:_utils $(BIN)/python scripts/picture.py

# WORKLOADS=small,many  RUNS=5  CACHE=/srv/bench; defaults: `python -m bench --help`
bench: ## compare baseimg with the alternatives; hours, see bench/README.md
	@scripts/setup.sh bench
	@PYTHONPATH=.:_utils $(BIN)/python -m bench $(WORKLOADS:%=--workloads=%) $(RUNS:%=--runs=%) $(CACHE:%=--cache=%) $(OPTIONS)

bench-quick: ## every peer once, on small content: under five minutes; says that all works, not how fast it is
	@scripts/setup.sh bench
	@PYTHONPATH=.:_utils $(BIN)/python -m bench --workloads=small,many,big --scale=0.02 --runs=1 --filesystems=ext4 --results=build/bench $(OPTIONS)

bench-profile: setup ## where the time of each step goes, as Markdown; 15 minutes
	@PYTHONPATH=.:_utils $(BIN)/python -m bench.profile $(WORKLOADS:%=--workloads=%) $(CACHE:%=--cache=%) $(OPTIONS)

# NODES=1,5,10  SIZE=20 (MiB of the bundle)
bench-fleet: setup ## load of a master with a fleet of real minions; 15 minutes, see bench/README.md
	@PYTHONPATH=.:_utils $(BIN)/python -m bench.fleet $(NODES:%=--nodes=%) $(SIZE:%=--size=%) $(OPTIONS)

# CACHE=/srv/verdicts keeps the trees; PAIRS=bullseye-bookworm
verdicts: setup ## judge real Debian applications on newer bases and run them; hours, see docs/design/reliability.md
	@PYTHONPATH=.:_utils $(BIN)/python bench/verdicts.py $(or $(CACHE),/var/tmp/baseimg-verdicts) $(PAIRS)

pins: ## update requirements/*.txt from setup.cfg
	@scripts/pins.sh

clean: ## remove everything that these targets made in the repository
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
