"""TODO"""

from __future__ import annotations

from pantheon.looks.text import Json, Object


def tree(spec: Object, root: str) -> Json:
    """evidence.Evidence.tree"""
    del spec, root
    return None
