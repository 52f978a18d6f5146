#!/bin/sh
# Writes the three lock files anew from pyproject.toml: `make lock`. Run it with the oldest Python that is served
# (3.11): what it picks installs on the newer ones too, which is not so the other way round.
#
# pip-compile takes the hashes of every file of a release from the package index, so that a lock made on Linux serves a
# Mac. Local additions to the index (find-links, extra indexes) are left out, since their files are not everybody's;
# no address is written into the locks (tests/unit/test_locks.py).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
"$python" -c 'import sys; sys.exit("make lock: use the oldest Python served, 3.11" if sys.version_info[:2] != (3, 11) else 0)'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL
export PIP_CONFIG_FILE=/dev/null
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements-tools.lock

compile() {
    CUSTOM_COMPILE_COMMAND="make lock" "$work/venv/bin/pip-compile" --quiet --generate-hashes --allow-unsafe \
        --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-annotate "$@"
}
# Existing pins are kept unless `make lock UPGRADE=1` asks for newer ones.
upgrade=${UPGRADE:+--upgrade}
compile $upgrade --output-file requirements.lock pyproject.toml
compile $upgrade --constraint requirements.lock --extra dev --output-file requirements-dev.lock pyproject.toml
echo pip-tools | compile $upgrade --output-file requirements-tools.lock -
