# Set-up, demo, tests and checks: see `make help`. Each target installs what it needs.
PYTHON ?= python3
# A folder of another name for each Python: make test PYTHON=python3.10 VENV=.venv-3.10
VENV ?= .venv
LEGACY ?= .venv-legacy
ARGS ?=
# Two processes, and the tests of a file in one of them: they share its models. tests/conftest.py has the order.
PYTEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder
# Modules are compiled when they are imported: most of TensorFlow's never are.
PIP_INSTALL ?= -m pip install --quiet --no-compile --disable-pip-version-check

.PHONY: help demo test test-fast test-legacy lint format architecture bench clean

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

bench: $(VENV)/.ready  ## Runs the short benchmarks
	$(VENV)/bin/python benchmarks/bits.py
	$(VENV)/bin/python benchmarks/digits.py

# The lists are complete and pinned, and go in without dependency resolution: see README.md, "What gets installed".
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

# Dask and Ray, for the tests of what trains on many machines.
%/.cluster: %/.ready requirements/cluster.txt
	$*/bin/python $(PIP_INSTALL) --no-deps -r requirements/cluster.txt
	@touch $@

clean:  ## Removes the environments and what was built
	rm -rf $(VENV) $(LEGACY) out build *.egg-info
