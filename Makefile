# Set-up, demo, tests and checks: see `make help`. Each target installs what it needs.
PYTHON ?= python3
VENV := .venv
MODERN := .venv-modern
ARGS ?=
# Two processes, and the tests of a file in one of them: they share its models.
PYTEST_FLAGS ?= -n 2 --dist loadfile

.PHONY: help demo test test-fast test-modern lint format architecture bench clean

help:  ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

demo: $(VENV)/.ready  ## Trains, quantizes, audits and converts a model of digits: make demo ARGS="--help"
	$(VENV)/bin/python examples/defend_digits.py $(ARGS)

test: $(VENV)/.cluster  ## Runs all tests
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS) $(ARGS)

test-fast: $(VENV)/.ready  ## Runs the tests that take less than about ten seconds each
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS) -m "not slow" $(ARGS)

test-modern: $(MODERN)/.cluster  ## Runs all tests on TensorFlow 2.21 with tf_keras
	$(MODERN)/bin/python -m pytest $(PYTEST_FLAGS) $(ARGS)

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
$(VENV)/.ready: requirements/default.txt requirements/dev.txt setup.cfg pyproject.toml tools/check_python.py
	@$(PYTHON) tools/check_python.py 3.9 3.11 $(MAKECMDGOALS)
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-deps -r requirements/default.txt -r requirements/dev.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(MODERN)/.ready: requirements/modern.txt requirements/dev.txt setup.cfg pyproject.toml tools/check_python.py
	@$(PYTHON) tools/check_python.py 3.10 3.11 $(MAKECMDGOALS)
	$(PYTHON) -m venv --clear $(MODERN)
	$(MODERN)/bin/python -m pip install --quiet --no-deps -r requirements/modern.txt -r requirements/dev.txt
	$(MODERN)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Dask and Ray, for the tests of what trains on many machines.
%/.cluster: %/.ready requirements/cluster.txt
	$*/bin/python -m pip install --quiet --no-deps -r requirements/cluster.txt
	@touch $@

clean:  ## Removes the environments and what was built
	rm -rf $(VENV) $(MODERN) out build *.egg-info
