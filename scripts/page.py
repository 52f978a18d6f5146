"""The picture of an audit's page in the README: a page on disk as a browser shows it.

python scripts/page.py PAGE.html FILE.png [WIDTH [HEIGHT]]      (980 pixels, and as much of the page as 1000 hold)

    invoke audit --host HOST --format html > /tmp/audit.html
    python scripts/page.py /tmp/audit.html docs/audit.png
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.devtools import Browser

WIDTH, HEIGHT = 980, 1000
PHONE = 600  # pixels; narrower pages are shown as a phone shows them


def main() -> int:
    page, picture, *rest = sys.argv[1:]
    width, height = (int(number) for number in (*rest, *(str(n) for n in (WIDTH, HEIGHT)[len(rest) :])))
    with Browser() as browser:
        tab = browser.page()
        tab.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1.5, mobile=width < PHONE,
        )  # fmt: skip
        tab.open(Path(page).resolve().as_uri())
        wide = tab.evaluate("document.documentElement.scrollWidth")
        if wide > width or tab.complaints:
            sys.stderr.write(f"{page}: {wide} pixels wide; {tab.complaints}\n")
            return 1
        shot = tab.ask("Page.captureScreenshot", format="png")
    Path(picture).write_bytes(base64.b64decode(shot["data"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
