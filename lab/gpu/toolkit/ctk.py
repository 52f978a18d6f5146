#!/usr/bin/python3 -IS
"""nvidia-ctk: `runtime configure` (merges Docker's daemon.json), `cdi generate`, `cdi list`, `--version`."""

import json
import os
import re
import sys

VERSION = "NVIDIA Container Toolkit CLI version 1.18.1\ncommit: 7b0bd19d"
UUID = "GPU-7c9a3f5e-2b41-4d8e-9a06-51f2c4e8b7d3"
LINK = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
LIBRARY = os.path.realpath(LINK)
LOADED = "/sys/module/nvidia/version"
CDI_MOUNTS = (
    ("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),
    (LIBRARY, LIBRARY),
    (LIBRARY, LINK),
    ("/run/lab", "/run/lab"),
)


def info(text: str) -> None:
    print(f"INFO[0000] {text}", file=sys.stderr)


def fatal(text: str) -> int:
    print(f"ERRO[0000] {text}", file=sys.stderr)
    return 1


def configure(options: dict[str, str]) -> int:
    """Merges the `nvidia` runtime into daemon.json; every other key stays as it is."""
    if options.get("runtime", "docker") != "docker":
        return fatal(f"unrecognized runtime {options['runtime']!r}")
    path = options.get("config", "/etc/docker/daemon.json")
    config: dict[str, object] = {}
    if os.path.exists(path):
        info(f"Loading config from {path}")
        try:
            with open(path, encoding="utf-8") as file:
                config = json.loads(file.read() or "{}")
        except ValueError as error:
            return fatal(f"unable to load config for runtime docker: unable to read config: {error}")
    else:
        info("Config file does not exist; using empty config")
    runtimes = config.setdefault("runtimes", {})
    assert isinstance(runtimes, dict)
    runtimes["nvidia"] = {"args": [], "path": "nvidia-container-runtime"}
    if "set-as-default" in options or "nvidia-set-as-default" in options:
        config["default-runtime"] = "nvidia"
    if "cdi.enabled" in options or "enable-cdi" in options:
        features = config.setdefault("features", {})
        assert isinstance(features, dict)
        features["cdi"] = True
    text = json.dumps(config, indent=4, sort_keys=True)
    if "dry-run" in options:
        print(text)
        return 0
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.new", path)
    info(f"Wrote updated config to {path}")
    info("It is recommended that docker daemon be restarted.")
    return 0


def generate(options: dict[str, str]) -> int:
    if not os.path.exists(LOADED):
        nvml = "Driver Not Loaded" if os.path.exists(LINK) else "ERROR_LIBRARY_NOT_FOUND"
        return fatal(
            f"failed to generate CDI spec: failed to create device CDI specs: failed to initialize NVML: {nvml}"
        )
    lines = ["---", "cdiVersion: 0.5.0", "kind: nvidia.com/gpu", "devices:"]
    for name in ("0", UUID, "all"):
        lines += [f'    - name: "{name}"', "      containerEdits:", "        env:", "            - LAB_GPU=1"]
    lines += ["containerEdits:", "    env:", "        - NVIDIA_VISIBLE_DEVICES=void", "    mounts:"]
    for source, target in CDI_MOUNTS:
        lines += [f"        - hostPath: {source}", f"          containerPath: {target}", "          options:"]
        lines += [f"            - {option}" for option in ("ro", "nosuid", "nodev", "rbind", "rprivate")]
    text = "\n".join(lines) + "\n"
    path = options.get("output", "")
    if path:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    else:
        print(text, end="")
    info("Generated CDI spec with version 0.5.0")
    return 0


def list_devices(options: dict[str, str]) -> int:
    folders = options.get("spec-dir", "/etc/cdi,/var/run/cdi").split(",")
    names: list[str] = []
    for folder in folders:
        for entry in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            with open(f"{folder}/{entry}", encoding="utf-8") as file:
                names += re.findall(r'^    - name: "([^"]+)"', file.read(), re.MULTILINE)
    info(f"Found {len(names)} CDI devices")
    for name in names:
        print(f"nvidia.com/gpu={name}")
    return 0


def main() -> int:
    words = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    options: dict[str, str] = {}
    arguments = iter(sys.argv[1:])
    for argument in arguments:
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            if not equals and name in ("runtime", "config", "output", "spec-dir"):
                value = next(arguments, "")
                words.remove(value)
            options[name] = value
    if "version" in options or "v" in options:
        print(VERSION)
        return 0
    match words:
        case ["runtime", "configure"]:
            return configure(options)
        case ["cdi", "generate"]:
            return generate(options)
        case ["cdi", "list"]:
            return list_devices(options)
    print("NAME:\n   NVIDIA Container Toolkit CLI - Tools to configure the NVIDIA Container Toolkit\n")
    print("COMMANDS:\n   runtime configure\n   cdi generate\n   cdi list")
    return 0 if not words else fatal(f"No help topic for '{words[0]}'")


if __name__ == "__main__":
    sys.exit(main())
