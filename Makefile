# make demo   set everything up and build the digits example
# make test   set everything up, the Arm compiler and QEMU included, and run the whole suite
# make check  style, types, layers and the quick tests; under two minutes
# make setup  the Python environment in .venv alone
# make tools  the compilers and the emulator alone
# make clean  remove what the others made

VENV ?= .venv
TARGET ?= cortex-m4
BITS ?= 2

# torch is installed before everything else and only where it is missing. On Linux its wheel from the
# default index brings several gigabytes of GPU libraries that deployq does not use. To avoid them,
# point pip at an index of CPU wheels (PIP_EXTRA_INDEX_URL or pip.conf), install torch into
# $(VENV) yourself, or name a wheel file: make demo TORCH=torch-2.13.0-...whl
TORCH ?= torch==2.13.0

# The first Python that is new enough.
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# All cores; a worker takes neighbouring tests, which share quantized networks.
WORKERS := -n auto --dist worksteal
QUICK := not qemu and not slow and not data and not matrix

.PHONY: demo test check setup tools clean
.NOTPARALLEL:

demo: tools setup
	$(BIN)/deployq build --target $(TARGET) --bits $(BITS)

test: tools setup
	$(BIN)/python -m pytest $(WORKERS) $(PYTEST_ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q $(WORKERS) -m "$(QUICK)" $(PYTEST_ARGS)

setup: $(INSTALLED)

tools:
	@.ci/install-tools

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "deployq needs Python 3.11 or newer: install one, or make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/install-tools python3-venv
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || { set -x; $(BIN)/python -m pip install --quiet "$(TORCH)"; }
	$(BIN)/python -m pip install --quiet --editable ".[images,examples,test,lint]"
	@touch $@

clean:
	rm -rf $(VENV) deployq-out dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
