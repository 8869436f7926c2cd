# The two commands of the README, and what stands behind them. `make help` lists every target.
SHELL       := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON      ?= python3
VENV        := .venv
PY          := $(VENV)/bin/python
PAPER       ?= cacheblend
ARGS        ?=
# Test processes: one per core up to JOBS. A file stays in one process, so that what it prepares is prepared once.
JOBS        ?= 4
PARALLEL    := $(if $(filter 0,$(JOBS)),,-n auto --maxprocesses $(JOBS) --dist loadfile)
# The extras that running and testing need. A GPU box changes nothing here: pip takes the torch build it is offered.
EXTRAS      := test,sweep,dev
STAMP       := $(VENV)/.ninefold-setup

.PHONY: help setup run figures report smoke list test test-all lint constraints clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv from constraints.txt if it is missing or stale

# Stale means: an input of the environment is newer than the stamp, which is written last, so that an interrupted
# installation is never mistaken for a finished one.
$(STAMP): constraints.txt pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 11) <= v[:2] < (3, 14); \
	  ok or sys.exit(f"ninefold needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}. Name another one: make setup PYTHON=python3.11")'
	@echo "==> creating $(VENV) (about 3 to 6 minutes once, mostly downloads)"
	@rm -f $(STAMP)
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "==> [1/3] torch"
	@$(PY) -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt torch
	@echo "==> [2/3] ninefold and everything else it needs"
	@$(PY) -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e ".[$(EXTRAS)]"
	@echo "==> [3/3] ns-3 (headers and libraries only, Linux x86-64)"
	@# --no-deps: we use our own bindings; those of the wheel would be compiled for minutes and never imported.
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then $(PY) -m pip install --disable-pip-version-check --no-deps -c constraints.txt ns3 pybind11; \
	  else echo "skipped: no ns-3 wheel for $$(uname -sm)"; fi
	@touch $(STAMP)
	@echo "==> environment ready"

run: $(STAMP)  ## run a paper's experiments and draw its figures: make run PAPER=cacheblend [ARGS="scale=smoke"]
	@$(PY) -m experiments.run +paper=$(PAPER) $(ARGS)

figures: $(STAMP)  ## redraw every figure and claim table from stored results
	@$(PY) -m paper_figures

report: $(STAMP)  ## one offline page with every claim, figure and command, from stored results: figures/report.html
	@$(PY) -m paper_figures --html --open | tail -n 1

smoke: $(STAMP)  ## ten minutes: every paper at smoke scale, then the report of it
	@$(PY) -m experiments.run -m '+paper=glob(*)' scale=smoke draw=false
	@$(PY) -m paper_figures --scale smoke --html figures/smoke/report.html --open

list: $(STAMP)  ## papers, experiments, methods with their knobs, workloads, claims
	@$(PY) -m experiments.list

test: $(STAMP)  ## lint, types and the default test suite on up to JOBS=4 processes (JOBS=0: in one, e.g. for --pdb)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" $(PARALLEL) $(ARGS)

test-all: $(STAMP)  ## the whole test suite (under 60 minutes on 2 cores)
	@OMP_NUM_THREADS=1 $(PY) -m pytest $(PARALLEL) $(ARGS)

lint: $(STAMP)  ## ruff and mypy, as the pre-commit hooks run them
	@$(PY) -m pre_commit run --all-files

constraints: $(STAMP)  ## pin every dependency anew (needs uv: pip install uv)
	uv pip compile pyproject.toml --extra ns3 --extra sweep --extra hub --extra test --extra dev --universal -c torch.in -o constraints.txt --custom-compile-command "make constraints"

clean:  ## remove the environment and caches (results stay)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
