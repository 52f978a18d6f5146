"""The operator's own browser, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

SOON_S = 5.0  # a browser that has not ended by then is one that shows the page
# In a process of its own, without our terminal: nothing that the browser says is seen here, Ctrl-C is not for it, and a
# text browser, for which there is no TERM, has nothing to take over.
PROGRAM = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"


def show(url: str) -> str:
    """Have the browser show it. Returns why it was not opened, "" when it was."""
    if sys.platform.startswith("linux") and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))):
        return "this machine has no display"
    try:
        opening = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name != "TERM"},
            start_new_session=True,
        )
        return "there is none that could be started" if opening.wait(SOON_S) else ""
    except subprocess.TimeoutExpired:
        return ""
    except OSError as error:
        return error.strerror or str(error)
