"""Session tokens as Open WebUI makes them: JSON Web Tokens, HS256, signed with WEBUI_SECRET_KEY."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signature(signed: str, secret: str) -> str:
    return _encode(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())


def make(claims: dict[str, Any], secret: str) -> str:
    head = _encode(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
    signed = f"{head}.{_encode(json.dumps(claims).encode())}"
    return f"{signed}.{_signature(signed, secret)}"


def read(token: str, secret: str) -> dict[str, Any] | None:
    """The claims, or None for a token that this secret did not sign."""
    signed, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature, _signature(signed, secret)):
        return None
    try:
        claims = json.loads(_decode(signed.partition(".")[2]))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None
