"""TODO"""

from __future__ import annotations

from pantheon.looks.text import Json, Object


def units(spec: Object, root: str) -> Json:
    """evidence.Evidence.units"""
    del spec, root
    return {}


def engine_log(spec: Object, root: str) -> Json:
    """evidence.Evidence.engine_log"""
    del spec, root
    return None


def engine_config(spec: Object, root: str) -> Json:
    """evidence.Evidence.engine_config"""
    del spec, root
    return None
