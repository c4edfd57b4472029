# make run    install into $(VENV) and train on the embedded default
# make test   lint, types, the directions of imports, and tests
# VENV=path   use another virtual environment, for instance one that exists

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-avalanche-sdlora
SOURCES := avalanche_sdlora benchmarks experiments tests setup.py

.PHONY: run test lint install clean

run: install
	$(BIN)/python -m experiments.run digits

test: lint
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(STAMP)

$(STAMP): setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
