"""TODO"""

from __future__ import annotations

from pantheon.looks.text import Json, Object


def fstab(spec: Object, root: str) -> Json:
    """evidence.Evidence.fstab"""
    del spec, root
    return None


def beneath(spec: Object, root: str) -> Json:
    """evidence.Evidence.beneath"""
    del spec, root
    return {}
