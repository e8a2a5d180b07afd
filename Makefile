# A fresh machine needs make, and a Python from 3.11 on with its venv module. `make help` lists
# the targets. PYTHON=/path/to/python chooses the interpreter of the environment.

.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
# Test processes side by side.
JOBS ?= 4
# The interpreter that the built wheel is tested on; .venv's own unless another is named.
WHEEL_PYTHON ?= $(PYTHON)
# What `make test-all` looks for.
PYTHONS ?= 3.11 3.12 3.13 3.14
# Further arguments for pytest: make tests ARGS='-k lease -x'
ARGS ?=

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

# --- environment --------------------------------------------------------------------------------

.PHONY: env
env: ## make or renew .venv from requirements.lock, with portlease installed editable
	@tools/venv $(VENV) requirements.lock editable $(PYTHON)

# uv resolves once for every platform and Python that portlease supports; pip then installs what
# it wrote, and nothing whose hash is not in it.
.PHONY: lock
lock: ## write requirements*.lock anew with the newest versions (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --upgrade --custom-compile-command 'make lock' \
	    --group dev pyproject.toml --output-file requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --upgrade --custom-compile-command 'make lock' --constraint requirements.lock \
	    --group bench pyproject.toml --output-file requirements-bench.lock

# --- the main job -------------------------------------------------------------------------------

.PHONY: demo
demo: env ## the main job: real servers side by side on leased ports, and the contrast
	@$(BIN)/python demo/demo.py

# --- checks -------------------------------------------------------------------------------------

.PHONY: test
test: ## everything that must pass: lint, types, tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory tests

.PHONY: lint
lint: env ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# The tests need only be right where they run; the package and its promises to callers
# (typing_tests) everywhere.
.PHONY: types
types: env ## mypy --strict for Linux, macOS and Windows, and the typing tests
	$(BIN)/mypy --platform linux --cache-dir .mypy_cache/linux src typing_tests tests $(wildcard demo benchmarks docs)
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin src typing_tests
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 src typing_tests

.PHONY: tests
tests: env ## pytest, without the minutes-long ones
	$(BIN)/pytest -n $(JOBS) $(ARGS)

.PHONY: dropin
dropin: env ## the whole comparison with CPython's own tests
	$(BIN)/pytest -n 2 -m dropin_full -o faulthandler_timeout=3000 $(ARGS)

.PHONY: long
long: env ## the attacks that run for minutes
	$(BIN)/pytest -m long -o faulthandler_timeout=3000 $(ARGS)

.PHONY: attacks
attacks: env ## every attack on every line of docs/promise.md, fast and long, with a table (twenty minutes)
	@$(BIN)/python tests/attacks $(ARGS)

.PHONY: fuzz
fuzz: ## the parsers of foreign input, for a minute each, led by coverage (Atheris)
	@tools/venv .venvs/fuzz requirements.lock editable $(PYTHON)
	@.venvs/fuzz/bin/python -c 'import atheris' 2>/dev/null || \
	    .venvs/fuzz/bin/python -m pip install --quiet 'atheris>=2.3'
	cd tests && ../.venvs/fuzz/bin/python -m fuzz.run $(ARGS)

.PHONY: docs
docs: env ## the site, in docs/_build/html; every warning is an error
	$(BIN)/python -m sphinx -E -a -W --keep-going -n -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: test-all
test-all: ## pytest on every supported Python that this machine has
	@for version in $(PYTHONS); do \
	    python=$$(tools/find-python $$version) || { echo "no Python $$version here"; continue; }; \
	    tools/venv .venvs/$$version requirements.lock editable $$python && \
	    .venvs/$$version/bin/pytest -n $(JOBS) -o cache_dir=.venvs/$$version/.pytest_cache $(ARGS) \
	        || exit 1; \
	done

# What looks at the work tree (documents, benchmarks), and models and fuzzers, are no matter of the
# wheel: `make tests` has them.
NOT_OF_THE_WHEEL := test_docs* test_benchmarks* test_soak* test_suites* test_matrix* test_servers* fuzz model

# In an empty directory, so that nothing but the installed wheel can be what the tests import.
.PHONY: wheel-test
wheel-test: env ## build the wheel, install it in an environment of its own, test that
	rm -rf dist
	$(BIN)/python -m hatchling build
	@tools/venv .venvs/wheel requirements.lock none $(WHEEL_PYTHON)
	.venvs/wheel/bin/python -m pip --quiet --quiet install --no-deps --force-reinstall dist/*.whl
	mkdir -p .venvs/elsewhere
	cd .venvs/elsewhere && ../wheel/bin/python -I -c \
	    'import portlease as p; print("testing", p.__file__); assert "site-packages" in p.__file__'
	cd .venvs/elsewhere && ../wheel/bin/pytest -n $(JOBS) -c $(CURDIR)/pyproject.toml \
	    --rootdir $(CURDIR) -o cache_dir=.venvs/wheel/.pytest_cache \
	    $(NOT_OF_THE_WHEEL:%=--ignore-glob='$(CURDIR)/tests/%') $(ARGS) $(CURDIR)/tests

.PHONY: bench
bench: ## docs/benchmarks.md: against bare calls and peers, with plots (a quarter of an hour; ARGS=--quick)
	@tools/venv .venvs/bench requirements-bench.lock editable $(PYTHON)
	.venvs/bench/bin/python benchmarks/run.py $(ARGS)
	.venvs/bench/bin/python docs/_site/_figures.py

.PHONY: servers
servers: env ## docs/servers.md: real servers by every means, as root and as a user (about ten minutes)
	@benchmarks/servers/install || echo "make servers: what is missing is 'no: not installed' in the table"
	$(BIN)/python -m benchmarks.servers $(ARGS)

.PHONY: takeover
takeover: env ## docs/takeover.md: released suites with takeover off and on, and the storm (about ten minutes)
	$(BIN)/python -m benchmarks.takeover $(ARGS)

.PHONY: suites
suites: env ## docs/suites.md: released suites that hard-code their ports, side by side (an hour)
	$(BIN)/python -m benchmarks.suites $(ARGS)

.PHONY: soak
soak: env ## docs/soak.md: a million leases and 2,000 servers by eight processes (ten minutes on two idle cores)
	$(BIN)/python -m benchmarks.soak --update $(ARGS)

# --- housekeeping -------------------------------------------------------------------------------

.PHONY: format
format: env ## ruff's formatter and safe fixes, in place
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf $(VENV) .venvs dist build docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests typing_tests -name __pycache__ -type d -prune -exec rm -rf {} +
