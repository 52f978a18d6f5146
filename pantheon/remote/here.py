"""What a workstation sees of the services, through the SSH connection that is open anyway."""

from __future__ import annotations

from pantheon.here import Here
from pantheon.inventory import SERVICES, Host
from pantheon.remote.connection import HostConnection
from pantheon.remote.forward import http_through


def look_from_here(connection: HostConnection, host: Host) -> Here:
    """Each service tried from this side. Raises LinkLost when the connection itself is gone."""
    http = {
        name: http_through(connection, f"http://127.0.0.1:{host.service(name).port}/", timeout_s=10)
        for name in SERVICES
    }
    return Here(http=dict(http))
