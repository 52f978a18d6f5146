"""What HTTP and websocket tries have in common, through a channel of a connection or through a tunnel."""

from __future__ import annotations

import base64
import hashlib
import os

MOST_BYTES = 64 << 10
SWITCHING = 101
CLOSE_FRAME = b"\x88\x80\0\0\0\0"  # a websocket's goodbye, masked as a client's frames are
# What a browser has open all the time; without it the page stays dead (DOMAIN.md).
WEBSOCKETS = {
    "comfy": "/ws?clientId=pantheon",
    "openwebui": "/ws/socket.io/?EIO=4&transport=websocket",
}


def upgrade() -> dict[str, str]:
    key = base64.b64encode(os.urandom(16)).decode()
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }


def accepted(opening: dict[str, str]) -> str:
    """The Sec-WebSocket-Accept that answers such an opening (RFC 6455, 4.2.2)."""
    key = opening.get("Sec-WebSocket-Key", "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest()).decode()
