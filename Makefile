# make run    install into $(VENV) and train on the embedded default
# make test   lint, types, the directions of imports, and all tests
# make check  lint, types, the directions of imports, and the quick tests
# VENV=path   use another virtual environment, for instance one that exists

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-avalanche-sdlora
# Two processes with a thread each: the tests' tensors are too small to gain from more threads. Files stay in the order of
# tests/conftest.py, since those with the fewest tests, which would come last otherwise, take the longest.
PYTEST := -n 2 --dist loadfile --no-loadscope-reorder
SOURCES := avalanche_sdlora benchmarks experiments tests setup.py

.PHONY: run test check lint tests quick-tests install clean

run: install
	$(BIN)/python -m experiments.run digits

# Lint and types take one process, so the tests run beside them; make names what failed in the last lines.
test: install
	$(MAKE) --jobs=2 lint tests

check: install
	$(MAKE) --jobs=2 lint quick-tests

tests: install
	$(BIN)/python -m pytest $(PYTEST)

quick-tests: install
	$(BIN)/python -m pytest $(PYTEST) -m "not slow"

tests quick-tests: export OMP_NUM_THREADS ?= 1

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
