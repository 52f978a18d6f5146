"""TODO"""

from __future__ import annotations

from pantheon.looks.text import Json, Object


def log(spec: Object, root: str) -> Json:
    """evidence.Evidence.log"""
    del spec, root
    return None


def killed(spec: Object, root: str) -> Json:
    """evidence.Evidence.killed"""
    del spec, root
    return None


def memory(spec: Object, root: str) -> Json:
    """evidence.Evidence.memory"""
    del spec, root
    return None
