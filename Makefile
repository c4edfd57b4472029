# make run    install into $(VENV) and train on the embedded default
# make test   lint, types, the directions of imports, and all tests
# make check  lint, types, the directions of imports, and the quick tests
# make docs   build the site into docs/_build/html, notebooks included; a warning is an error
# make package  build wheel and sdist into dist/, install each into an environment of its own and use it
# VENV=path   use another virtual environment, for instance one that exists

VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-avalanche-sdlora
# Two processes with a thread each: the tests' tensors are too small to gain from more threads. Files stay in the order of
# tests/conftest.py, since those with the fewest tests, which would come last otherwise, take the longest.
PYTEST := -n 2 --dist loadfile --no-loadscope-reorder
SOURCES := avalanche_sdlora benchmarks examples experiments tests docs/conf.py setup.py

.PHONY: run test check lint tests quick-tests docs package install clean

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

docs: $(STAMP)-docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build/html
	@echo "docs/_build/html/index.html"

package: $(STAMP)
	$(BIN)/python -m pip install --quiet build 'setuptools>=77' wheel
	$(BIN)/python -m tests.installed

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $(STAMP)

$(STAMP)-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache .mypy_cache *.egg-info
