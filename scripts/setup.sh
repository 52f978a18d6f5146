#!/bin/sh
# Makes .venv and installs the locked dependencies into it: `scripts/setup.sh runtime`, or `dev` for the gate's tools as
# well. Nothing outside .venv is touched. POSIX sh and no more: a Mac's bash is of 2007, Debian's sh is dash.
set -eu
cd "$(dirname "$0")/.."

# A stamp says what a .venv was made from, and where: its scripts hold absolute paths.
stamp_of() { echo "$(cksum <"$1") $PWD"; }
stamped() { [ -f ".venv/$1.stamp" ] && [ "$(cat ".venv/$1.stamp")" = "$2" ]; }
# Not so when the Python that it was made with has been upgraded away.
works() { .venv/bin/python -c 'import invoke' >/dev/null 2>&1; }

runtime=$(stamp_of requirements.lock)
dev=$(stamp_of requirements-dev.lock)
case "${1:-}" in
    # The development lock holds everything of the runtime's, so a .venv made for the gate serves both.
    runtime) lock=requirements.lock; wanted=$runtime; stamped runtime "$runtime" && works && exit 0 ;;
    dev) lock=requirements-dev.lock; wanted=$dev; stamped dev "$dev" && works && exit 0 ;;
    *) echo "usage: scripts/setup.sh runtime|dev" >&2; exit 1 ;;
esac

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
python=${PYTHON:-python3}
if ! suits "$python"; then
    for candidate in python3.13 python3.12 python3.11; do
        if suits "$candidate"; then
            python=$candidate
            break
        fi
    done
fi
if ! suits "$python"; then
    echo "setup: Python 3.11 or newer is needed; $python is $("$python" --version 2>&1 || true)" >&2
    echo "Next: make setup PYTHON=/path/to/python3.12" >&2
    exit 1
fi

# A .venv that was cut short, made elsewhere or from another lock is begun again: adding to it would leave what the
# lock no longer has. Only the gate's tools are added to a complete runtime.
if ! { [ "$1" = dev ] && stamped runtime "$runtime" && works; }; then
    rm -rf .venv
    if "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        "$python" -m venv .venv
    elif "$python" -m pip --python "$("$python" -c 'import sys; print(sys.executable)')" --version >/dev/null 2>&1; then
        "$python" -m venv --without-pip .venv # Debian keeps ensurepip in a package; a pip beside it does as well
    else
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        echo "setup: $python cannot make a virtual environment: on Debian and Ubuntu that is a package of its own" >&2
        echo "Next: apt-get install python$version-venv" >&2
        exit 1
    fi
fi

echo "installing $(grep -c '==' "$lock") locked packages into .venv" >&2
if .venv/bin/python -c 'import pip' >/dev/null 2>&1; then
    python=.venv/bin/python
    set --
else
    set -- --python .venv/bin/python
fi
if ! PIP_USER=0 "$python" -m pip "$@" install --quiet --disable-pip-version-check --no-input --require-hashes -r "$lock"; then
    echo "setup: pip could not install $lock; what it said stands above" >&2
    exit 1
fi
# Last, so that a setup that was cut short is begun again.
echo "$runtime" >.venv/runtime.stamp
if [ "$wanted" = "$dev" ]; then
    echo "$dev" >.venv/dev.stamp
fi
