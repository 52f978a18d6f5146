"""The picture in the README: a real bring-up, run here and now, exported by the program's own console.

python scripts/picture.py HOST FILE.svg        (HOST as in hosts.toml; fresh, so that there is something to show)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pantheon import engine, inventory, procedure
from pantheon.engine import Watched
from pantheon.inventory import Host
from pantheon.report.console import Console


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


def main() -> int:
    name, file = sys.argv[1:]
    out = RichConsole(record=True, force_terminal=True, width=80, highlight=False, file=sys.stderr)
    report = Still(out)
    host = inventory.load().host(name)
    out.print(Text("$ invoke bringup", "bold green"))
    code = engine.bring(host, procedure.ORDER, what="bringup", options=engine.Options(), report=report)
    out.print(Text("$ invoke bringup", "bold green"))
    code = code or engine.bring(host, procedure.ORDER, what="bringup", options=engine.Options(), report=report)
    out.save_svg(file, title="invoke bringup")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
