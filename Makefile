# Needs Python 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test scores bench lint format

demo: $(VENV)/.installed  ## Run the whole pipeline on generated recordings
	$(BIN)/xseg demo demo

test: $(VENV)/.installed  ## Run the tests
	$(BIN)/python -m pytest

scores: $(VENV)/.installed  ## Score the shipped weights on sample takes that no training saw
	$(BIN)/python benchmarks/scores.py --out scores

bench: $(VENV)/.installed  ## Measure speed on this machine's processors, into bench.json
	$(BIN)/python benchmarks/bench.py --out bench.json

lint: $(VENV)/.installed
	$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check .

format: $(VENV)/.installed
	$(BIN)/python -m ruff check --fix . && $(BIN)/python -m ruff format .

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "xseg needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
