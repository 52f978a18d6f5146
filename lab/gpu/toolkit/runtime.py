#!/usr/bin/python3 -IS
"""nvidia-container-runtime: adds the prestart hook to the bundle of a container that names GPUs, then becomes runc.

This is the way of `--runtime=nvidia`; with `--gpus` dockerd adds the hook itself.
"""

import json
import os
import shutil
import subprocess
import sys

HOOK = "nvidia-container-runtime-hook"
LOW_LEVEL = ("runc", "crun")


def option(arguments: list[str], *names: str) -> str | None:
    for index, argument in enumerate(arguments):
        for name in names:
            if argument == name and index + 1 < len(arguments):
                return arguments[index + 1]
            if argument.startswith(name + "="):
                return argument[len(name) + 1 :]
    return None


def add_hook(bundle: str, hook: str) -> None:
    """Writes the hook into the bundle's config.json unless it is there, or the container wants no GPU."""
    path = os.path.join(bundle, "config.json")
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    environment = dict(pair.partition("=")[::2] for pair in spec["process"].get("env", []))
    if environment.get("NVIDIA_VISIBLE_DEVICES", "") in ("", "void"):
        return
    prestart = spec.setdefault("hooks", {}).setdefault("prestart", [])
    if any(os.path.basename(entry["path"]) == HOOK for entry in prestart):
        return
    prestart.append({"path": hook, "args": [HOOK, "prestart"]})
    with open(path, "w", encoding="utf-8") as file:
        json.dump(spec, file)


def main() -> int:  # noqa: RET503 - the last line does not return
    arguments = sys.argv[1:]
    runc = next((found for name in LOW_LEVEL if (found := shutil.which(name))), None)
    if "--version" in arguments or "-v" in arguments:
        print("NVIDIA Container Runtime version 1.18.1\ncommit: 7b0bd19d\nspec: 1.2.1\n", flush=True)
        return subprocess.run([runc, "--version"], check=False).returncode if runc else 0
    if runc is None:
        print("nvidia-container-runtime: no low-level runtime found: runc, crun", file=sys.stderr)
        return 1
    if "create" in arguments:
        hook = shutil.which(HOOK) or os.path.join(os.path.dirname(os.path.realpath(__file__)), HOOK)
        add_hook(option(arguments, "--bundle", "-b") or ".", hook)
    os.execv(runc, [runc, *arguments])  # noqa: S606 - becoming runc is the point


if __name__ == "__main__":
    sys.exit(main())
