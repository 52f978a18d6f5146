"""The `ollama` command: `serve`, and a client of its API for the rest. Few imports: health checks run it."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

VERSION = os.environ.get("STAND_IN_VERSION", "0.13.5")
NO_SERVER = "could not connect to ollama server, run 'ollama serve' to start it"
USAGE = """Large language model runner

Usage:
  ollama [flags]
  ollama [command]

Available Commands:
  serve       Start ollama
  show        Show information for a model
  run         Run a model
  stop        Stop a running model
  pull        Pull a model from a registry
  list        List models
  ps          List running models
  rm          Remove a model
  help        Help about any command

Flags:
  -h, --help      help for ollama
  -v, --version   Show version information
"""


class CommandError(Exception):
    """Printed after `Error: `; exit code 1."""


def connect() -> http.client.HTTPConnection:
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").removeprefix("http://").rpartition(":")
    here = "127.0.0.1" if host in ("", "0.0.0.0", "[::]") else host  # noqa: S104
    return http.client.HTTPConnection(here, int(port), timeout=60)


def call(method: str, path: str, body: object = None) -> Iterator[dict[str, Any]]:
    """The objects of an answer, one or a stream of them."""
    connection = connect()
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        response = connection.getresponse()
    except OSError:
        raise CommandError(NO_SERVER) from None
    for line in response:
        value = json.loads(line)
        if "error" in value:
            raise CommandError(value["error"])
        yield value


def size(count: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}" if count < 10 * factor else f"{count / factor:.0f} {unit}"
    return f"{count} B"


def table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + " ")


def list_models() -> None:
    (answer,) = call("GET", "/api/tags")
    rows = [
        (model["name"], model["digest"][:12], size(model["size"]), model["modified_at"][:10])
        for model in answer["models"]
    ]
    table([("NAME", "ID", "SIZE", "MODIFIED"), *rows])


def list_running() -> None:
    (answer,) = call("GET", "/api/ps")
    rows = []
    for model in answer["models"]:
        share = round(100 * model["size_vram"] / model["size"])
        processor = {100: "100% GPU", 0: "100% CPU"}.get(share, f"{100 - share}%/{share}% CPU/GPU")
        rows.append(
            (model["name"], model["digest"][:12], size(model["size"]), processor, "4096", model["expires_at"][:19])
        )
    table([("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), *rows])


def pull(name: str) -> None:
    last = ""
    for line in call("POST", "/api/pull", {"model": name}):
        if line["status"] != last:
            last = line["status"]
            print(last, file=sys.stderr, flush=True)


def run(name: str, prompt: str) -> None:
    for line in call("POST", "/api/generate", {"model": name, "prompt": prompt}):
        print(line["response"], end="", flush=True)
    print()


def show_version() -> None:
    try:
        (answer,) = call("GET", "/api/version")
        print(f"ollama version is {answer['version']}")
    except CommandError:
        print(f"Warning: could not connect to a running Ollama instance\nWarning: client version is {VERSION}")


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["serve"]:
                from lab.services.stand_in.ollama import serve  # not needed by the client

                return serve()
            case ["--version" | "-v"]:
                show_version()
            case ["list" | "ls"]:
                list_models()
            case ["ps"]:
                list_running()
            case ["pull", name]:
                pull(name)
            case ["rm", *names] if names:
                for name in names:
                    list(call("DELETE", "/api/delete", {"model": name}))
                    print(f"deleted '{name}'")
            case ["stop", name]:
                list(call("POST", "/api/generate", {"model": name, "keep_alive": 0}))
            case ["run", name, *words]:
                run(name, " ".join(words))
            case ["show", name]:
                (answer,) = call("POST", "/api/show", {"model": name})
                print(f"  Model\n    architecture    {answer['details']['family']}")
            case [] | ["help" | "-h" | "--help", *_]:
                print(USAGE)
            case [word, *_]:
                raise CommandError(f'unknown command "{word}" for "ollama"')
    except CommandError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
