#!/bin/sh
# `make demo`: a lab host, the same bring-up that a real host gets, and the procedure's checklist.
set -eu
cd "$(dirname "$0")/.."
unset PANTHEON_HOSTS # the demo is about the lab host, not about somebody's own inventory
show() { echo "\$ $*"; PATH="$PWD/.venv/bin:$PATH" "$@"; }

.venv/bin/python -m lab.engine
show invoke lab.up
# hosts.toml ships with the lab as it usually is. Where it is not (a Debian base, say), lab.up wrote a file that says so.
other=$(.venv/bin/python -c '
from lab import machine
lab = machine.get("lab")
print("" if lab.is_as_shipped else lab.hosts_file())')
if [ -n "$other" ]; then
    export PANTHEON_HOSTS="$other"
    note="  export PANTHEON_HOSTS=\"$other\"
"
    echo "\$ export PANTHEON_HOSTS=$other"
fi
show invoke bringup --host lab --yes
show invoke validate --host lab
show invoke tunnel all --check --host lab

cat <<END

What happened: a lab host was started (a whole Ubuntu or Debian in a container, with an sshd and a Docker Engine of
its own). bringup looked at it, planned, applied the plan and looked again; validate went through the checklist of
the procedure; each service answered through a tunnel. On a real host it is the same: describe the host in
hosts.toml, then type invoke trust.

  export PATH="$PWD/.venv/bin:\$PATH"
${note:-}  invoke bringup --host lab        again: nothing to do
  invoke tunnel comfy --host lab   a private way in, until Ctrl-C (--open: in the browser)
  invoke lab.down                  tear it down
END
