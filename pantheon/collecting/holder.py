"""TODO"""

from __future__ import annotations

from pantheon.looks.text import Json, Object


def holder(spec: Object, root: str) -> Json:
    """evidence.Evidence.holder"""
    del spec, root
    return None
