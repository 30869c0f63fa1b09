# make demo | test | test-all | bench | lint: each installs what it needs into .venv when it is not there yet.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ENGINES := $(VENV)/.engines
OUT ?= demo-out

.PHONY: demo test test-all bench lint clean
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip<27"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $(STAMP)

# Flower's simulation engine is large and needed by the slow tests alone.
$(ENGINES): $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,simulation]"
	@touch $(ENGINES)

demo: $(STAMP)
	$(BIN)/secagg-hospitals --out $(OUT)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest --numprocesses auto -m "not slow and not engine"

test-all: test $(ENGINES)
	$(BIN)/pytest --numprocesses auto --dist loadgroup -m "slow or engine"

bench: $(ENGINES)
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) $(OUT) bench-out build dist
