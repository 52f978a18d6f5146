"""TODO"""

from __future__ import annotations

from pantheon.looks.text import Json, Object


def settings(spec: Object, root: str) -> Json:
    """evidence.Evidence.settings"""
    del spec, root
    return None
