#!/usr/bin/python3 -IS
"""nvidia-container-runtime-hook: what dockerd calls, as an OCI prestart hook, for a container that asked for a GPU.

The real one bind-mounts the driver's files into the container's mount namespace. So does this one, and it mounts
/run/lab besides: the card's state and the planted faults, so that a container sees them change while it runs.
A container's own folder, /run/lab/containers/ID, is /run/lab/self inside; a fault written there is its alone.

Installed as /usr/bin/nvidia-container-runtime-hook. All paths are taken from where it lies, so a test can use a tree of
its own. No import that costs time: it runs at each start of a GPU container.
"""

import json
import os
import re
import subprocess
import sys

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LINK = f"{LIBRARIES}/libnvidia-ml.so.1"
DRIVER_FAULTS = {
    "nocomm": "initialization error: nvml error: driver not loaded",
    "mismatch": "initialization error: nvml error: driver/library version mismatch",
    "hookfail": "initialization error: load library failed: libnvidia-ml.so.1: cannot open shared object file: "
    "no such file or directory",
    "nodevice": "device error: 0: unknown device",
}


class HookError(Exception):
    """The text after `nvidia-container-cli: `, as dockerd shows it to the user."""


def mount_script(root: str, container: str) -> str:
    """The mounts to make inside the container's mount namespace, where the host's files still have the host's paths.

    The two roots are arguments of the script ($1 the host's, $2 the container's), so no path becomes code.
    """
    lines = ["set -e", f'cd "$2"; mkdir -p usr/bin {LIBRARIES} etc/lab run/lab']
    name_of_library = library(root)
    for name in ("usr/bin/nvidia-smi", f"{LIBRARIES}/{name_of_library}", "etc/lab/stand-in.json"):
        if os.path.exists(f"{root}/{name}"):
            lines.append(
                f'[ -e {name} ] || : >{name}; mount --bind "$1"/{name} {name}; mount -o remount,bind,ro {name}'
            )
    lines += [
        f"ln -sfn {name_of_library} {LINK}",
        'mount --bind "$1"/run/lab run/lab',
        f'mount --bind "$1"/run/lab/containers/{container} run/lab/self',
        # The card's memory is one for all: what other containers hold of it is read from the host's processes.
        'mount --bind "$1"/proc run/lab/proc',
        "mount -o remount,bind,ro run/lab",
    ]
    return "\n".join(lines)


def library(root: str) -> str:
    """The driver's NVML by its full name, as the installed driver's link gives it."""
    try:
        name = os.path.basename(os.readlink(f"{root}/{LINK}"))
    except OSError:
        name = ""
    return name if re.fullmatch(r"libnvidia-ml\.so\.[0-9.]+", name) else "libnvidia-ml.so.590.48.01"


def read_conf(root: str) -> dict[str, str]:
    """The card's key=value lines; empty where there are none."""
    try:
        with open(f"{root}/run/lab/gpu.conf", encoding="utf-8") as file:
            pairs = (line.partition("=") for line in file if "=" in line and not line.startswith("#"))
            return {key.strip(): value.strip() for key, _, value in pairs}
    except OSError:
        return {}


def read_fault(root: str) -> str:
    try:
        with open(f"{root}/run/lab/gpu-fault", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def unsatisfied(requirement: str, have: dict[str, str]) -> str | None:
    """The condition of NVIDIA_REQUIRE_CUDA that fails: words are alternatives, commas within a word bind together."""
    operators = {
        ">=": lambda a, b: a >= b, "<=": lambda a, b: a <= b, "!=": lambda a, b: a != b,
        ">": lambda a, b: a > b, "<": lambda a, b: a < b, "=": lambda a, b: a == b,
    }  # fmt: skip
    first = None
    for alternative in requirement.split():
        for condition in alternative.split(","):
            match = re.fullmatch(r"(\w+)(>=|<=|!=|>|<|=)(.+)", condition)
            if not match or match[1] not in have:
                failed = True
            else:
                a, b = version(have[match[1]]), version(match[3])
                width = max(len(a), len(b))
                failed = not operators[match[2]](a + (0,) * (width - len(a)), b + (0,) * (width - len(b)))
            if failed:
                first = first or condition
                break
        else:
            return None
    return first


def check(environment: dict[str, str], root: str) -> bool:
    """Whether the container gets the card; raises HookError with the real one's text where it may not start."""
    devices = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if devices in ("", "void"):
        return False
    fault = read_fault(root)
    if fault in DRIVER_FAULTS:
        raise HookError(DRIVER_FAULTS[fault])
    conf = read_conf(root)
    uuid = conf.get("uuid", "GPU-7c9a3f5e-2b41-4d8e-9a06-51f2c4e8b7d3")
    for device in devices.split(","):
        if device not in ("all", "none", "0", uuid):
            raise HookError(f"device error: {device}: unknown device")
    if environment.get("NVIDIA_DISABLE_REQUIRE", "").lower() in ("", "0", "false"):
        driver = conf.get("driver") or library(root).partition(".so.")[2]
        have = {"cuda": conf.get("cuda", "13.1"), "driver": driver, "arch": "8.9", "brand": "0"}
        failed = unsatisfied(environment.get("NVIDIA_REQUIRE_CUDA", ""), have)
        if failed:
            advice = "please update your driver to a newer version, or use an earlier cuda container"
            raise HookError(f"requirement error: unsatisfied condition: {failed}, {advice}")
    return devices != "none"


def prestart(state: dict[str, object], root: str) -> None:
    bundle = str(state["bundle"])
    with open(f"{bundle}/config.json", encoding="utf-8") as file:
        spec = json.load(file)
    environment = dict(pair.split("=", 1) for pair in spec["process"].get("env", []) if "=" in pair)
    if not check(environment, root):
        return
    if not os.path.islink(f"{root}/{LINK}"):
        raise HookError(DRIVER_FAULTS["hookfail"])
    rootfs = os.path.join(bundle, spec["root"]["path"])
    container = re.sub(r"[^\w.-]", "", str(state["id"]))
    for name in ("self", "proc"):  # where a container finds its own folder, and the host's processes
        os.makedirs(f"{root}/run/lab/{name}", exist_ok=True)
    own = f"{root}/run/lab/containers/{container}"
    os.makedirs(own, exist_ok=True)
    if os.path.exists(f"{own}/gpu-fault"):
        os.unlink(f"{own}/gpu-fault")  # a start gives the container its devices anew, which is what mends a lost GPU
    with open(f"{own}/id", "w", encoding="utf-8") as file:
        file.write(container + "\n")
    namespace = f"--mount=/proc/{state['pid']}/ns/mnt"
    enter = ["nsenter", namespace, "sh", "-c", mount_script(root, container), "hook", root, rootfs]
    done = subprocess.run(enter, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HookError(f"mount error: {done.stderr.strip()}")


def main() -> int:
    if sys.argv[1:] != ["prestart"]:
        return 0
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))).rstrip("/")
    try:
        prestart(json.load(sys.stdin), root)
    except HookError as error:
        print("Auto-detected mode as 'legacy'", file=sys.stderr)
        print(f"nvidia-container-cli: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
