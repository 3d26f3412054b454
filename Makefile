# `make` alone lists the targets. Everything runs in $(VENV), which is made on first use and remade from setup.cfg.
PYTHON ?= python3
VENV   ?= .venv
# Installed first and on its own: a CPU build that pip already knows of (index, wheel directory) is then used as it is.
TORCH  ?= torch==2.13.0
ARGS   ?=
# Tests run in so many processes, of one thread each.
JOBS   ?= 2
EXTRA_REQUIREMENTS ?=
ACCELERATE_CONFIG ?= recipes/accelerate/cpu.yaml
# nproc honours OMP_NUM_THREADS and CPU affinity. Given on the command line, it keeps `accelerate launch` from warning.
THREADS ?= $(shell nproc 2>/dev/null || sysctl -n hw.physicalcpu 2>/dev/null || echo 1)

BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests neither see the user's token and caches (HF_HOME and all that would override it) nor reach for the network.
# Each of their processes reads the bytecode that an earlier one kept, also where the user keeps none.
TEST_ENV = env -u PYTHONDONTWRITEBYTECODE -u HF_TOKEN -u HUGGING_FACE_HUB_TOKEN -u HF_TOKEN_PATH -u HF_HUB_CACHE \
	-u HF_DATASETS_CACHE -u HF_MODULES_CACHE -u HF_EVALUATE_CACHE -u HF_ENDPOINT \
	HF_HOME=$(abspath $(VENV))/hf_home HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_IMPLICIT_TOKEN=1 \
	HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
# A file's tests stay in one process and share what they set up; the files go in the order of tests/conftest.py.
DIST   = --dist=loadfile --no-loadscope-reorder
PYTEST = $(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) $(DIST)

.DEFAULT_GOAL := help
.PHONY: help addition modular geometry-study benchmark test test-quick test-slow test-oldest versions architectures \
	trainers docs tables lint types clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

addition: $(STAMP)  ## Train on addition (recipes/addition.py); ARGS="..." is passed on
	$(BIN)/accelerate launch --quiet --config_file $(ACCELERATE_CONFIG) --num_cpu_threads_per_process $(THREADS) \
		recipes/addition.py $(ARGS)

modular: $(STAMP)  ## Train on modular arithmetic (recipes/modular.py); ARGS="..." is passed on
	$(BIN)/accelerate launch --quiet --config_file $(ACCELERATE_CONFIG) --num_cpu_threads_per_process $(THREADS) \
		recipes/modular.py $(ARGS)

geometry-study: $(STAMP)  ## Six runs, with and without the penalty, and what became of their geometry
	$(BIN)/python recipes/geometry_study.py --jobs $(JOBS) $(ARGS)

# The recipes that it starts find the network as closed as the tests do, and its own threads are its business (--threads).
benchmark: $(STAMP)  ## The targets of speed and memory, about half an hour; ARGS="--only penalty" to choose
	$(TEST_ENV) $(BIN)/python benchmarks/run.py $(ARGS)

test: $(STAMP)  ## Run the tests, offline (ARGS="-k name" to choose)
	@$(PYTEST) $(ARGS)

test-quick: $(STAMP)  ## Run the tests marked quick: some of every room, in a minute and a half
	@$(PYTEST) -m quick $$(grep -rl "mark.quick" tests --include="test_*.py") $(ARGS)

test-oldest:  ## Run the tests with the oldest transformers of the range
	$(MAKE) test VENV=$(VENV)-oldest EXTRA_REQUIREMENTS="transformers==5.17.0"

test-slow: $(STAMP)  ## Run the tests marked slow, offline
	@$(PYTEST) -m slow $(ARGS)

versions: $(STAMP)  ## Run test-quick in other environments; PYTHONS="/env/bin/python ..."; writes recipes/results/versions*
	@$(TEST_ENV) $(BIN)/python tests/support/versions.py $(PYTHONS) -n$(JOBS) $(DIST)

architectures: $(STAMP)  ## Look for the sites of every architecture; writes recipes/results/architectures*
	@$(TEST_ENV) $(BIN)/python tests/support/architectures_worker.py --repeat

trainers: $(STAMP)  ## One step of every trainer beside a reference; writes recipes/results/trainers*
	$(BIN)/python -m pip install -q -e ".[trainers]"
	@$(TEST_ENV) $(BIN)/python tests/support/trainers_worker.py --write

# Strict: a broken link, a reference to nothing or a bad docstring is an error. The site opens from disk: build/docs/html/index.html.
docs: $(STAMP)  ## Build the documentation as a site, strictly; offline
	$(TEST_ENV) $(BIN)/python -m sphinx -b html -n -W --keep-going -q -d build/docs/trees docs build/docs/html $(ARGS)

tables: $(STAMP)  ## Rewrite the tables of README.md and docs/ from committed data
	$(TEST_ENV) $(BIN)/python recipes/tables.py

lint: $(STAMP)  ## Check style and formatting (ruff), and which room imports which (import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(STAMP)  ## Check types (mypy)
	$(BIN)/mypy

clean:  ## Remove build outputs and caches, but neither the environment nor runs/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage htmlcov
	find benchmarks hf_radial model_cards recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): setup.cfg setup.py pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; try make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: hf_radial needs Python 3.10 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1)" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make a virtual environment; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/pip || { \
		new=$$(test -e $(VENV) || echo yes); \
		$(PYTHON) -m venv $(VENV) || { test -z "$$new" || rm -rf $(VENV); exit 1; }; \
	}
	$(BIN)/python -m pip install "$(TORCH)"
	$(BIN)/python -m pip install -e ".[test]" $(EXTRA_REQUIREMENTS)
	@touch $@
