#!/bin/sh
# The lab half of the gate.
set -eu
cd "$(dirname "$0")/.."
if [ $# -eq 0 ]; then scripts/lab-ready.sh all; else scripts/lab-ready.sh some; fi
# In CI a lab test that skips is a failure (tests/conftest.py).
# Three at a time, each with a lab host of its own: two cores have no more to give. tests/lab/conftest.py keeps a file
# together.
code=0
.venv/bin/python -m pytest -n 3 --dist loadscope tests/lab "$@" || code=$?
[ "$code" -eq 1 ] && [ $# -eq 0 ] || exit "$code"
# Two cores carry three lab hosts, and a deadline may pass because of the others. What failed has to pass alone.
echo "FAILED beside others; run again alone:" >&2
.venv/bin/python tests/lab/again.py | tee .pytest_cache/again >&2
[ -s .pytest_cache/again ] || exit 1
tr '\n' '\0' <.pytest_cache/again | xargs -0 .venv/bin/python -m pytest
