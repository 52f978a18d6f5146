# The two commands of a fresh machine are `make setup` (what an operator needs) and `make demo` (all of it on a lab
# host); `make test` is the gate. Works with GNU make 3.81, which macOS has.

SHELL = /bin/sh
BIN = .venv/bin
PYTHON ?= python3
export PYTHON
# What the gate looks at; bench/ and the rest join as soon as they are there.
SOURCES = $(wildcard tasks.py pantheon lab bench scripts tests)
TYPED = $(wildcard tasks.py pantheon lab bench scripts tests)

.PHONY: help setup dev demo test test-unit static test-lab drills lint fmt lock bench bench-tunnel clean
.NOTPARALLEL:

help:
	@echo "make setup      virtual environment and locked dependencies, nothing else"
	@echo "make demo       set up, start a lab host, bring it up, validate it"
	@echo "make test       the gate: format, lint, types, unit tests, lab tests (needs Docker)"
	@echo "make test-unit  the gate without the lab tests"
	@echo "make drills     every breakage, the slow ones too, from broken to repaired"
	@echo "make fmt        format, and mend what lint can mend"
	@echo "make bench      a converged bring-up against plain ssh, on a lab host of its own"
	@echo "make bench-tunnel  the same transfers through a tunnel, ssh -L and forward_local"
	@echo "make lock       write the lock files anew (UPGRADE=1: with newer versions)"
	@echo "make clean      remove .venv and empty the user's cache"

setup:
	@scripts/setup.sh runtime
	@echo 'Ready. To have `invoke` on the PATH of this shell:'
	@echo '  export PATH="$(CURDIR)/$(BIN):$$PATH"'

dev:
	@scripts/setup.sh dev

demo:
	@scripts/setup.sh runtime
	@scripts/demo.sh

# What the lab tests need is made ready meanwhile; if it cannot be, they say so themselves.
test: dev
	@mkdir -p .pytest_cache; scripts/lab-ready.sh >.pytest_cache/lab-ready 2>&1 & ready=$$!; code=0; \
	  $(MAKE) --no-print-directory test-unit || code=$$?; wait $$ready || true; exit $$code
	@scripts/lab-tests.sh

test-unit: static
	$(BIN)/python -m pytest -n 2 tests/unit

test-lab: dev
	@scripts/lab-tests.sh

drills: dev
	@PANTHEON_ALL_DRILLS=1 scripts/lab-tests.sh -k test_drill

lint: static
static: dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy --strict $(TYPED)

fmt: dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lock:
	@scripts/lock.sh

bench: dev
	@$(BIN)/python bench/converged.py

bench-tunnel: dev
	@$(BIN)/python bench/tunnel.py

# The Python of the system, since .venv may be gone or broken by now; lab.cache wants nothing but the standard library.
clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
	@$(PYTHON) -m lab.cache || rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/pantheon"
