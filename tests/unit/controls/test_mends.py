"""Every `invoke ..` that a control's source holds, whichever branch it stands in, is a command that there is."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke.exceptions import ParseError
from invoke.parser import Parser
from invoke.parser.context import ParserContext

import tasks
from pantheon import controls

COMMAND = re.compile(r"\binvoke [a-z][^;,()\n`]*")


def typed(source: str) -> Iterator[str]:
    """The commands in strings, with a host's name where one is filled in, and those that `command(case, ..)` makes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [str(one.value) if isinstance(one, ast.Constant) else "prometheus" for one in node.values]
            yield from COMMAND.findall("".join(parts))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
            words = [one.value for one in node.args[1:] if isinstance(one, ast.Constant)]
            if len(words) == len(node.args) - 1:
                yield shlex.join(["invoke", *map(str, words), "--host", "prometheus"])


def understood(text: str) -> None:
    Parser(contexts=tasks.ns.to_contexts(), initial=ParserContext()).parse_argv(shlex.split(text)[1:])


SOURCES = {name: Path(str(controls.__file__)).with_name(f"{name}.py").read_text() for name in controls.SUBJECTS}
TYPED = sorted({(name, text.strip()) for name, source in SOURCES.items() for text in typed(source)})


@pytest.mark.parametrize(("name", "text"), TYPED, ids=[f"{name}: {text}" for name, text in TYPED])
def test_each_is_understood(name: str, text: str) -> None:
    understood(text)


def test_they_are_found() -> None:
    assert len(TYPED) > 30
    assert {"upkeep", "secrets", "containers", "nfs"} <= {name for name, _ in TYPED}


@pytest.mark.parametrize(
    "text", ["invoke prereq --host p", "invoke prereqs --instal --host p", "invoke fix.gpu --host p"]
)
def test_one_that_there_is_not_is_noticed(text: str) -> None:
    with pytest.raises(ParseError):
        understood(text)
