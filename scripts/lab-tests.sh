#!/bin/sh
# The lab half of the gate. A machine without a Docker engine fails it and says what did not run: a gate that passes
# because it could not look is none. lab.engine installs and starts an engine where it may (root on Debian, Ubuntu).
set -eu
cd "$(dirname "$0")/.."
count=$(find tests/lab -name 'test_*.py' | wc -l | tr -d ' ')
if ! .venv/bin/python -m lab.engine; then
    echo "NOT RUN: the lab tests ($count files in tests/lab), for want of a Docker engine. The gate has not passed; without them: make test-unit" >&2
    exit 1
fi
# The browser too, for a run of all of them; a selection (`-k ...`) takes what is there. Without one the rest runs, and
# the browser's tests say that they were not; in CI that is a failure like any other.
if [ $# -eq 0 ] && ! .venv/bin/python -m lab.browser; then
    if [ -n "${PANTHEON_CI:-}" ]; then
        echo "NOT RUN: the lab tests ($count files in tests/lab), for want of a browser. The gate has not passed" >&2
        exit 1
    fi
    echo "NOT RUN: tests/lab/test_browser.py, for want of a browser; all the others are" >&2
fi
# Built before the tests, whose time limit is for what they test.
.venv/bin/python -m lab.commands
# In CI a lab test that skips is a failure (tests/conftest.py).
# Four at a time: they mostly wait, and each has a lab host of its own. tests/lab/conftest.py keeps a file together.
code=0
.venv/bin/python -m pytest -n 4 --dist loadscope tests/lab "$@" || code=$?
[ "$code" -eq 1 ] && [ $# -eq 0 ] || exit "$code"
# Two cores carry four lab hosts, and a deadline may pass because of the other three. What failed has to pass alone.
echo "FAILED beside others; run again alone:" >&2
.venv/bin/python tests/lab/again.py | tee .pytest_cache/again >&2
[ -s .pytest_cache/again ] || exit 1
tr '\n' '\0' <.pytest_cache/again | xargs -0 .venv/bin/python -m pytest
