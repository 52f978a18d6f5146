"""Fabric's forward_local until Ctrl-C: `python bench/forward_local.py ADDRESS USER IDENTITY LOCAL_PORT REMOTE_PORT`."""

from __future__ import annotations

import signal
import sys

from fabric import Config, Connection


def main() -> None:
    address, user, identity, local, remote = sys.argv[1:]
    plain = Config(overrides={"load_ssh_configs": False})
    connection = Connection(
        address, user=user, config=plain, connect_kwargs={"key_filename": identity, "allow_agent": False}
    )
    with connection, connection.forward_local(int(local), int(remote), remote_host="127.0.0.1"):
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    main()
