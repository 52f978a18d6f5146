"""Text from a host as XML and HTML can carry it."""

from __future__ import annotations

import re

from pantheon.report.text import clean

# What XML 1.0 has no character for, besides the control characters that clean() takes out.
_NO_CHARACTER = re.compile("[\ud800-\udfff\ufffe\uffff]")


def fit(text: str) -> str:
    """The text without what no terminal, no XML and no encoding takes; its lines stay."""
    return _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", clean(text))
