"""TODO"""

from __future__ import annotations

from pantheon.looks.text import Json, Object


def usage(spec: Object, root: str) -> Json:
    """evidence.Evidence.usage"""
    del spec, root
    return None
