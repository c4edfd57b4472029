# make run    install into $(VENV) and train on the embedded default
# make test   lint, types, the directions of imports, and all tests
# make check  lint, types, the directions of imports, and the quick tests
# VENV=path   use another virtual environment, for instance one that exists

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-avalanche-sdlora
# Two processes with a thread each: the tests' tensors are too small to gain from more threads. Files stay in their order,
# since those with the fewest tests, which come last otherwise, take the longest.
PYTEST := -n 2 --dist loadfile --no-loadscope-reorder
SOURCES := avalanche_sdlora benchmarks experiments tests setup.py

.PHONY: run test check lint install clean

run: install
	$(BIN)/python -m experiments.run digits

test: lint
	$(BIN)/python -m pytest $(PYTEST)

check: lint
	$(BIN)/python -m pytest $(PYTEST) -m "not slow"

test check: export OMP_NUM_THREADS ?= 1

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache *.egg-info
