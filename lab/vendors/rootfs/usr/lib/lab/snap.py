#!/usr/bin/python3 -IS
"""`snap`, as far as one snap of Docker needs it: list, remove, services. A fault puts it at /usr/bin/snap.

Called as `docker` (through /snap/bin/docker) it is the snap's client, whose daemon does not run.
"""

import os
import shutil
import sys

NAME, VERSION, REVISION = "docker", "28.4.0", "3377"
KEPT = f"/var/lib/snapd/snaps/{NAME}_{REVISION}.snap"
FOLDERS = (f"/snap/{NAME}", f"/var/snap/{NAME}")


def plant() -> None:
    """Installed: the files that a snap of Docker leaves."""
    os.makedirs(os.path.dirname(KEPT), exist_ok=True)
    os.makedirs(f"/snap/{NAME}/{REVISION}/meta", exist_ok=True)
    os.makedirs("/snap/bin", exist_ok=True)
    os.makedirs(f"/var/snap/{NAME}/common/var-lib-docker", exist_ok=True)
    with open(KEPT, "w", encoding="utf-8") as file:
        file.write("stand-in\n")
    with open(f"/snap/{NAME}/{REVISION}/meta/snap.yaml", "w", encoding="utf-8") as file:
        file.write(f"name: {NAME}\nversion: {VERSION}\nsummary: Docker container runtime\n")
    for link, target in ((f"/snap/{NAME}/current", REVISION), (f"/snap/bin/{NAME}", "/usr/bin/snap")):
        if not os.path.lexists(link):
            os.symlink(target, link)


def listed() -> int:
    print(f"{'Name':<8}{'Version':<10}{'Rev':<7}{'Tracking':<15}{'Publisher':<12}Notes")
    if os.path.exists(KEPT):
        print(f"{NAME:<8}{VERSION:<10}{REVISION:<7}{'latest/stable':<15}{'canonical**':<12}-")
    print(f"{'snapd':<8}{'2.72':<10}{'25577':<7}{'latest/stable':<15}{'canonical**':<12}snapd")
    return 0


def remove(words: list[str]) -> int:
    names = [word for word in words if not word.startswith("-")]
    if os.geteuid() != 0:
        print("error: access denied (try with sudo)", file=sys.stderr)
        return 1
    for name in names:
        if name != NAME or not os.path.exists(KEPT):
            print(f'snap "{name}" is not installed', file=sys.stderr)
            return 1
        if "--purge" not in words:  # the real one keeps the data as a snapshot
            os.makedirs("/var/lib/snapd/snapshots", exist_ok=True)
            shutil.make_archive(f"/var/lib/snapd/snapshots/1_{NAME}_{VERSION}_{REVISION}", "zip", f"/var/snap/{NAME}")
        for folder in FOLDERS:
            shutil.rmtree(folder)
        os.unlink(f"/snap/bin/{NAME}")
        os.unlink(KEPT)
        print(f"{name} removed")
    return 0


def main() -> int:
    if os.path.basename(sys.argv[0]) == NAME:
        if sys.argv[1:] in (["--version"], ["-v"]):
            print(f"Docker version {VERSION}, build d8eb465")
            return 0
        print(
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            file=sys.stderr,
        )
        return 1
    match sys.argv[1:]:
        case ["lab-plant"]:
            plant()
            return 0
        case ["list", *names]:
            wanted = [name for name in names if not name.startswith("-")]
            if wanted and (wanted != [NAME] or not os.path.exists(KEPT)):
                print("error: no matching snaps installed", file=sys.stderr)
                return 1
            return listed()
        case ["remove", *words]:
            return remove(words)
        case ["version" | "--version"]:
            print("snap    2.72\nsnapd   2.72\nseries  16")
            return 0
    print(f"error: unknown command \"{' '.join(sys.argv[1:2])}\", see 'snap help'.", file=sys.stderr)
    return 64


if __name__ == "__main__":
    sys.exit(main())
