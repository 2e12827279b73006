# `make demo` runs the real job, `make test` passes the tests; both set up .venv on first use.
PYTHON ?= python3
PORT ?= 5000
BIN := .venv/bin
READY := .venv/.ready
# Two processes, each with one thread; the tests of a file share what is costly to make. Python keeps
# what it compiles, or each process that a test starts would compile the harness again for a second.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format lint types tables ui wheel constraints clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# Made again when the project file changes; a broken installation leaves no $(READY) behind.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11, 3.12 or 3.13 is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,notebooks]'
	touch $@

demo: $(READY) ## run DFKDE on the ELPV solar cells and print the result table
	$(BIN)/python -m harness.run -m experiment=demo
	@echo
	@echo 'Compare the runs in a browser: make ui'

ui: $(READY) ## open the MLflow UI on http://127.0.0.1:5000, or on PORT=
	@$(BIN)/python -m harness.tracking ui --port $(PORT)

test: $(READY) ## run the tests
	$(PYTEST) -m 'not slow'

test-slow: $(READY) ## run the tests that start several processes, or take over a minute
	$(PYTEST) -m slow

check: format lint types test tables ## everything that CI checks

format: $(READY) ## check the formatting
	$(BIN)/ruff format --check .

lint: $(READY) ## check the style
	$(BIN)/ruff check .

types: $(READY) ## check the types
	$(BIN)/mypy

tables: $(READY) ## check that README, docs/results.md and results/ agree
	$(BIN)/python -m harness.report --check

wheel: $(READY) ## build the wheel into dist/
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

constraints: $(READY) ## write constraints.txt: the versions that are installed here
	$(BIN)/pip freeze --disable-pip-version-check --exclude-editable \
	  | sed -nE 's/^([A-Za-z0-9._-]+==[^+ ]+).*/\1/p' > constraints.txt

clean: ## remove .venv and caches, keep runs and data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist
