# Set-up, demo, tests and checks. Each target installs what it needs.
PYTHON ?= python3
VENV := .venv
MODERN := .venv-modern
ARGS ?=
# Two processes, and the tests of a file in one of them: they share its models.
PYTEST_FLAGS ?= -n 2 --dist loadfile

.PHONY: demo test test-modern lint bench clean

demo: $(VENV)/.ready
	$(VENV)/bin/python examples/defend_digits.py $(ARGS)

test: $(VENV)/.cluster
	$(VENV)/bin/python -m pytest $(PYTEST_FLAGS) $(ARGS)

test-modern: $(MODERN)/.cluster
	$(MODERN)/bin/python -m pytest $(PYTEST_FLAGS) $(ARGS)

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.ready
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

clean:
	rm -rf $(VENV) $(MODERN) out build *.egg-info
