"""The pictures in the README: a real bring-up, and real tunnels that lose their link, run here and now and exported by
the program's own console.

python scripts/picture.py HOST FILE.svg        (HOST as in hosts.toml; fresh, so that there is something to show)
python scripts/picture.py HOST FILE.svg LAB    (tunnels to HOST, which is that lab host, brought up)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab import faults, machine
from pantheon import engine, inventory, procedure, tunnels
from pantheon.inventory import Host
from pantheon.options import Options
from pantheon.report.console import Console
from pantheon.report.tunnels import Display
from pantheon.watched import Watched


class Still(Console):
    """The console without its animation: of each live display the frame of interest is kept, then its last."""

    live: RenderableType | None = None

    def show(self, renderable: RenderableType, *, stays: bool = True) -> None:
        self.settled()
        self.live = renderable if stays else None

    def settled(self) -> None:
        live, self.live = self.live, None
        if live is not None:
            self.out.print(live)

    def watching(self, host: Host, what: str, services: tuple[str, ...]) -> Callable[[dict[str, Watched]], None]:
        show, kept = super().watching(host, what, services), False

        def on_services(watched: dict[str, Watched]) -> None:
            nonlocal kept
            show(watched)
            if not kept and self.live is not None and watched["comfy"].progress.detail.startswith("Downloading"):
                kept = True
                self.out.print(self.live)

        return on_services

    def ask(self, question: str, *, instead: str = "") -> bool:
        del instead  # what to type where there is no terminal
        self.out.print(Text.assemble((f"{question} [y/N] ", "bold"), "y"))
        return True


class Frames(Display):
    """The display of tunnels with a few frames of its live part: the first that is ready, one without a link, the
    last."""

    kept = ""

    def _draw(self) -> None:
        signs = "".join(line.sign for _, line in self._lines)
        settled = len(signs) == len(self._lines) and len(set(signs)) == 1
        waited = signs[:1] == "✓" or any("no link for 4 s" in line.text for _, line in self._lines)
        if settled and waited and signs != self.kept:
            self.kept = signs
            self.report.out.print(self)


def lose_the_link(name: str) -> None:
    """What the picture is about, and at its end Ctrl-C."""
    lab = machine.get(name)
    time.sleep(5)
    with faults.blackhole(lab):
        time.sleep(14)
    time.sleep(8)
    os.kill(os.getpid(), signal.SIGINT)


def tunnel(host: Host, out: RichConsole, lab: str) -> int:
    opened = tunnels.Opened(host, tunnels.Wish("all"), Options(), Still(out))
    opened.display = Frames(opened.report, host)
    out.print(Text("$ invoke tunnel all", "bold green"))
    threading.Thread(target=lose_the_link, args=(lab,), daemon=True).start()
    return opened.run()


def main() -> int:
    name, file, *labs = sys.argv[1:]
    out = RichConsole(record=True, force_terminal=True, width=80, highlight=False, file=sys.stderr)
    report = Still(out)
    host = inventory.load().host(name)
    if labs:
        code = tunnel(host, out, labs[0])
        out.save_svg(file, title="invoke tunnel")
        return code
    out.print(Text("$ invoke bringup", "bold green"))
    code = engine.bring(host, procedure.ORDER, what="bringup", options=Options(), report=report)
    out.print(Text("$ invoke bringup", "bold green"))
    code = code or engine.bring(host, procedure.ORDER, what="bringup", options=Options(), report=report)
    out.save_svg(file, title="invoke bringup")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
