#!/bin/sh
# What the lab tests need, made if it is not there: an engine, a browser, the lab's images. Quick where it is.
# A machine without a Docker engine fails it and says what did not run: a gate that passes because it could not look is
# none. lab.engine installs and starts an engine where it may (root on Debian, Ubuntu).
# `scripts/lab-ready.sh some` for a selection of the tests: the browser is then taken if it is there.
set -eu
cd "$(dirname "$0")/.."
count=$(find tests/lab -name 'test_*.py' | wc -l | tr -d ' ')
if ! .venv/bin/python -m lab.engine; then
    echo "NOT RUN: the lab tests ($count files in tests/lab), for want of a Docker engine. The gate has not passed; without them: make test-unit" >&2
    exit 1
fi
# Without a browser the rest runs, and the browser's tests say that they were not; in CI that is a failure like any other.
if [ "${1:-all}" = all ] && ! .venv/bin/python -m lab.browser; then
    if [ -n "${PANTHEON_CI:-}" ]; then
        echo "NOT RUN: the lab tests ($count files in tests/lab), for want of a browser. The gate has not passed" >&2
        exit 1
    fi
    echo "NOT RUN: tests/lab/test_browser.py, for want of a browser; all the others are" >&2
fi
# Built before the tests, whose time limit is for what they test.
.venv/bin/python -m lab.commands
