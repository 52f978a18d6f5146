"""Programs that mend, started as the runner starts them: alone, with what they import of their own folder."""

from __future__ import annotations

from types import ModuleType

from pantheon import runner


def argv(module: ModuleType, arguments: object) -> list[str]:
    return runner._program({"mend": module.__name__.rpartition(".")[2], "arguments": arguments})
