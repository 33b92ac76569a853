# Set-up, demo, tests and checks: see `make help`. Each target installs what it needs.
PYTHON ?= python3
# A folder of another name for each Python: make test PYTHON=python3.10 VENV=.venv-3.10
VENV ?= .venv
LEGACY ?= .venv-legacy
DOCS ?= .venv-docs
# An environment for the built wheel, and none of this folder.
WHEEL ?= .venv-wheel
ARGS ?=
# Two processes, and the tests of a file in one of them: they share its models. tests/conftest.py has the order.
PYTEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder
# Modules are compiled when they are imported: most of TensorFlow's never are.
PIP_INSTALL ?= -m pip install --quiet --no-compile --disable-pip-version-check

.PHONY: help demo test test-fast test-legacy lint format architecture docs notebooks wheel bench clean

help:  ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

demo: $(VENV)/.ready  ## Trains, quantizes, audits and converts a model of digits: make demo ARGS="--help"
	$(VENV)/bin/python examples/defend_digits.py $(ARGS)

test: $(VENV)/.cluster  ## Runs all tests
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS) $(ARGS)

test-fast: $(VENV)/.ready  ## Runs the tests that take less than about ten seconds each
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS) -m "not slow" $(ARGS)

test-legacy: $(LEGACY)/.cluster  ## Runs all tests on TensorFlow 2.15 with its own Keras 2 (Python 3.10 or 3.11)
	$(LEGACY)/bin/python -m pytest $(PYTEST_FLAGS) $(ARGS)

lint: $(VENV)/.ready  ## Checks style, format, types and the order of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python tools/draw_architecture.py

format: $(VENV)/.ready  ## Formats the sources and mends what ruff can mend
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

architecture: $(VENV)/.ready  ## Draws the picture of the imports and writes the BUILD files
	$(VENV)/bin/python tools/build_files.py
	$(VENV)/bin/python tools/draw_architecture.py --svg=docs/figures/architecture.svg

docs: $(DOCS)/.ready  ## Builds the site into build/site; a warning or a broken link is an error (Python 3.12 or 3.13)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

notebooks: $(VENV)/.notebooks  ## Executes the tutorials and writes their notebooks (Python 3.11 to 3.13)
	PYTHONWARNINGS=ignore $(VENV)/bin/python tools/build_notebooks.py

# What is on PYTHONPATH would stand in the place of the wheel.
wheel: export PYTHONPATH =
wheel: tools/check_python.py  ## Builds wheel and source archive into build/dist, and tests the wheel where nothing else is
	@$(PYTHON) tools/check_python.py 3.10 3.13 $(MAKECMDGOALS)
	rm -rf build/dist $(WHEEL)
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python $(PIP_INSTALL) build==1.6.1
	$(WHEEL)/bin/python -m build --outdir build/dist .
	$(WHEEL)/bin/python $(PIP_INSTALL) --constraint requirements/default.txt build/dist/*.whl
	cp tools/check_wheel.py build/dist && cd build/dist && $(abspath $(WHEEL))/bin/python check_wheel.py

bench: $(VENV)/.ready  ## Runs the short benchmarks
	$(VENV)/bin/python benchmarks/bits.py
	$(VENV)/bin/python benchmarks/digits.py

# The lists are complete and pinned, and go in without dependency resolution: see docs/installing.md.
$(VENV)/.ready: requirements/default.txt requirements/suite.txt requirements/dev.txt setup.cfg pyproject.toml tools/check_python.py
	@$(PYTHON) tools/check_python.py 3.10 3.13 $(MAKECMDGOALS)
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) --no-deps -r requirements/default.txt -r requirements/dev.txt
	$(VENV)/bin/python $(PIP_INSTALL) --no-deps --ignore-requires-python -r requirements/suite.txt
	$(VENV)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(LEGACY)/.ready: requirements/legacy.txt requirements/suite.txt requirements/dev.txt setup.cfg pyproject.toml tools/check_python.py
	@$(PYTHON) tools/check_python.py 3.10 3.11 $(MAKECMDGOALS)
	$(PYTHON) -m venv --clear $(LEGACY)
	$(LEGACY)/bin/python $(PIP_INSTALL) --no-deps -r requirements/legacy.txt -r requirements/dev.txt
	$(LEGACY)/bin/python $(PIP_INSTALL) --no-deps -r requirements/suite.txt
	$(LEGACY)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(DOCS)/.ready: requirements/docs.txt tools/check_python.py
	@$(PYTHON) tools/check_python.py 3.12 3.13 $(MAKECMDGOALS)
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python $(PIP_INSTALL) --no-deps -r requirements/docs.txt
	@touch $@

%/.notebooks: %/.ready requirements/notebooks.txt
	$*/bin/python $(PIP_INSTALL) --no-deps -r requirements/notebooks.txt
	@touch $@

# Dask and Ray, for the tests of what trains on many machines.
%/.cluster: %/.ready requirements/cluster.txt
	$*/bin/python $(PIP_INSTALL) --no-deps -r requirements/cluster.txt
	@touch $@

clean:  ## Removes the environments and what was built
	rm -rf $(VENV) $(LEGACY) $(DOCS) $(WHEEL) out build *.egg-info
