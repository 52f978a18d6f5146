"""A browser for the lab tests: looked for, and on Debian installed when there is none. lab/devtools.py drives it.

`python3 -m lab.browser` is what the gate runs before the tests. Standard library only. Status 0 when there is one; 1,
with one line, when there is none and the next step is the user's.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from lab import engine
from lab.base import os_release
from lab.outer import LabError, Say, as_program, run

PACKAGE = "chromium"
COMMANDS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome", "microsoft-edge-stable")
ON_A_MAC = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
# Parts of the browser that would ask somebody for something, or for the page under https first.
FEATURES = (
    "Translate", "OptimizationHints", "MediaRouter", "CertificateTransparencyComponentUpdater",
    "AutofillServerCommunication", "HttpsUpgrades",
)  # fmt: skip
STUB_BYTES = 64 << 10  # a script that starts a snap is shorter than this, a browser longer


def flags(profile: Path) -> list[str]:
    """What the browser is started with. `profile` is a directory of its own, removed when it has ended."""
    chosen = [
        "--headless=new",  # the browser that people use, without a window; the old headless mode was another program
        "--remote-debugging-pipe",  # by two file descriptors: no port that others on this machine could drive it by
        f"--user-data-dir={profile}",  # and not the user's: no cookies, no extensions, no session to restore
        "--no-first-run",  # no welcome page, no import of another browser's bookmarks
        "--no-default-browser-check",
        "--password-store=basic",  # asks no keyring, which would ask the user
        "--use-mock-keychain",  # the same on a Mac
        "--disable-dev-shm-usage",  # in containers /dev/shm has 64 MB, and a page that meets its end crashes
        "--disable-gpu",  # there is no display; looking for one costs time and lines
        "--mute-audio",
        "--hide-scrollbars",
        # Nothing but the page itself uses the network: no updates, no lists, no reports, no guesses at what comes next.
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-domain-reliability",
        "--disable-sync",
        "--disable-default-apps",
        "--disable-extensions",
        "--disable-client-side-phishing-detection",
        "--disable-breakpad",
        "--no-pings",
        "--no-proxy-server",  # whatever the environment says: what is tested is the way through the tunnel
        # What would still try finds no name. `localhost` is no look-up: the browser knows it to be ::1 and 127.0.0.1.
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost , EXCLUDE 127.0.0.1 , EXCLUDE ::1",
        f"--disable-features={','.join(FEATURES)}",
        # Timers of a page in the background run at full pace: with no window every page is one.
        "--disable-background-timer-throttling",
        "--disable-backgrounding-occluded-windows",
        "--disable-renderer-backgrounding",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        # The browser refuses to run as root with its sandbox. It is shown pages of the lab only, and no others resolve.
        chosen.append("--no-sandbox")
    return [*chosen, "about:blank"]


def find() -> str:
    """The path of a browser that can be driven, or ""."""
    found = [path for name in COMMANDS if (path := shutil.which(name)) and not is_snap(path)]
    return next(iter([*found, *(path for path in ON_A_MAC if Path(path).exists())]), "")


def is_snap(path: str) -> bool:
    """Ubuntu's: confined to directories of its own, it sees neither our profile nor our pipe."""
    real = Path(path).resolve()
    if "snap" in real.parts or real.name == "snap":
        return True
    try:
        return real.stat().st_size < STUB_BYTES and b"/snap/" in real.read_bytes()
    except OSError:
        return False


def version(path: str) -> str:
    """What the browser says of itself. Raises LabError when it does not start."""
    done = run([path, "--version"], timeout=30)
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0 or not said:
        words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise LabError(f"{path} does not start: {' / '.join(words[-3:]) or f'status {done.returncode}'}")
    return said


def ensure(say: Say) -> str:
    """The path of a browser that runs, installed where we may. Raises LabError."""
    path = find()
    if not path:
        install(say)
        path = find()
    if not path:
        raise LabError(f"apt-get installed {PACKAGE}, and there is still no browser. Next: apt-get install {PACKAGE}")
    say(f"{version(path)} at {path}")
    return path


def install(say: Say) -> None:
    """Debian's package. Raises LabError, with what to type, where it is not for us to install one."""
    if sys.platform != "linux" or not engine.is_debian():
        raise LabError("no Chromium or Chrome on this machine. Next: install one of them")
    if os_release().get("ID") == "ubuntu":
        raise LabError(
            "no browser that can be driven: on Ubuntu the package is a snap, which sees no directory of ours. "
            "Next: install Google Chrome's own .deb"
        )
    if os.geteuid() != 0:
        raise LabError(f"no Chromium on this machine. Next: sudo apt-get install --no-install-recommends {PACKAGE}")
    engine.install([PACKAGE], say)


if __name__ == "__main__":
    sys.exit(as_program(ensure))
