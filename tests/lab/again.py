"""Which lab tests to run again after a run with failures: prints the arguments for pytest, one a line.

Of a file whose tests hand a host on to each other all of them; of others those that failed.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def is_spread(file: str) -> bool:
    """Whether each test of a file makes what it needs: it says SPREAD = True."""
    return re.search(r"^SPREAD = True", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE) is not None


def failed(record: Path) -> list[str]:
    """What to run again, by pytest's own record of what failed last; empty where there is none."""
    if not record.exists():
        return []
    tests = [name for name in json.loads(record.read_text(encoding="utf-8")) if name.startswith("tests/lab/")]
    files = {name: name.split("::")[0] for name in tests}
    return sorted({name if is_spread(file) else file for name, file in files.items()})


if __name__ == "__main__":
    sys.stdout.write("".join(f"{name}\n" for name in failed(ROOT / ".pytest_cache/v/cache/lastfailed")))
