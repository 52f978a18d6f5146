"""TODO"""

from __future__ import annotations

from pantheon.looks.text import Json, Object


def installed(spec: Object, root: str) -> Json:
    """evidence.Evidence.installed"""
    del spec, root
    return {}


def reboot_required(spec: Object, root: str) -> Json:
    """evidence.Evidence.reboot_required"""
    del spec, root
    return None
