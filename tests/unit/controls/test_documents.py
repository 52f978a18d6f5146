"""The controls of the two documents, judged on hosts that hold them, break them, do not show them or have no use for
them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_type_hints

import pytest
from invoke.parser import Parser
from invoke.parser.context import ParserContext

import tasks
from pantheon import controls, layout
from pantheon.circumstances import Account, Cards, CdiSpec, Datagram, Desktop, Drive, SocketUnit, SshdLine, Virtual
from pantheon.control import SEVERITIES, STATUSES, Control
from pantheon.controls import storage
from pantheon.evidence import ComfyTree, Evidence, FstabLine, Room
from pantheon.facts import Command, ContainerMount, Facts, Http, Listener, Mount, Port, Tree, Unknown
from pantheon.here import Here
from pantheon.incident import Case, Choices
from pantheon.inventory import Monitoring
from pantheon.kernels import Kernel
from pantheon.upkeep import Clock
from tests.unit.controls.documents import (
    AS_PAGE,
    AUDITED,
    CARD,
    KERNELS,
    LEASED,
    MGMT,
    SERVER,
    SERVERS,
    SETTINGS,
    SSHD,
    VM,
    WANT,
    WITH_ATLAS,
    atlas,
    facts,
    judged,
    line,
    share,
    well,
)
from tests.unit.world import GIB, HOST, container, entry, fresh, having

MINE = ("hw", "os", "driver", "docker", "toolkit", "storage", "stack", "net", "ssh", "nfs", "virt", "mon", "beyond")
CONTROLS = [control for control in controls.every() if control.id.partition(".")[0] in MINE]
NO = Unknown("denied")
NVML: Any = facts().nvml
LOST = Unknown("no answer within 5 s")


def look(**changes: Any) -> Facts:
    return replace(facts(), **changes)


def docker(**changes: Any) -> Facts:
    found: Any = facts().docker
    return look(docker=replace(found, **changes))


def gpu(**changes: Any) -> Facts:
    nvml: Any = facts().nvml
    return look(nvml=replace(nvml, gpus=(replace(nvml.gpus[0], **changes),)))


def release(**changes: Any) -> Facts:
    os: Any = facts().os
    return look(os=replace(os, **changes))


def with_(name: str, **changes: Any) -> Facts:
    return having(facts(), **{name: container(AUDITED, name, **changes)})


def also(name: str, **changes: Any) -> Facts:
    """A container of somebody else's besides."""
    made = {
        "image": "nginx:1",
        "image_id": "sha256:" + "9" * 64,
        "labels": {},
        "ports": (),
        "mounts": (),
        "networks": ("bridge",),
        **changes,
    }
    return having(facts(), **{name: replace(container(AUDITED, "ollama"), name=name, **made)})


def mounted(*more: Mount) -> Facts:
    there: Any = facts().mounts
    return look(mounts=(*there, *more))


def hears(*listeners: Listener) -> Facts:
    return look(listeners=listeners)


def path(name: str, **changes: Any) -> Facts:
    found = facts()
    directory = next(one for one in layout.directories(AUDITED) if one.name == name)
    about = {"uid": directory.uid, "gid": directory.gid, "mode": directory.mode} | changes
    return replace(found, paths={**found.paths, directory.path: entry(directory.path, **about)})


def without(name: str) -> Facts:
    found = facts()
    directory = next(one for one in layout.directories(AUDITED) if one.name == name)
    return replace(found, paths={**found.paths, directory.path: None})


def tree(name: str, value: Any) -> Facts:
    found = facts()
    directory = next(one for one in layout.directories(AUDITED) if one.name == name)
    return replace(found, trees={**found.trees, directory.path: value})


def root(**changes: Any) -> Facts:
    found = facts()
    at: Any = found.paths["/mnt/local/nvme"]
    return replace(found, paths={**found.paths, "/mnt/local/nvme": replace(at, **changes)})


def mounts(name: str, *changed: ContainerMount, drop: str = "") -> Facts:
    kept = tuple(m for m in container(AUDITED, name).mounts if m.target != drop)
    return with_(name, mounts=(*kept, *changed))


def env(name: str, **values: str | None) -> Facts:
    made = container(AUDITED, name)
    kept = {key: value for key, value in made.env.items() if key not in values}
    new = {key: replace(made.env["PATH"], value=value) for key, value in values.items() if value is not None}
    return with_(name, env=kept | new)


def bind(source: str, target: str, *, writable: bool = True) -> ContainerMount:
    return ContainerMount("bind", source, target, writable, "")


def volume(name: str, target: str) -> ContainerMount:
    return ContainerMount("volume", f"/var/lib/docker/volumes/{name}/_data", target, True, name)


def told(**settings: str) -> Any:
    return replace(SERVER, settings=SETTINGS | settings, root=SETTINGS | settings)


def machine(**changes: Any) -> Virtual:
    return Virtual((replace(VM, **changes),), 16, 65536)


def says(name: str, *lines: str) -> Facts:
    return with_(name, log_markers=lines)


def cdi(*specs: CdiSpec) -> Case:
    return well(look=docker(cdi=tuple(spec.path for spec in specs)), cdi=specs)


def asks(*sockets: Datagram, **more: Any) -> Case:
    return well(datagrams=sockets, **more)


ETC, RUN = (CdiSpec(f"{folder}/nvidia.yaml", ("580.95.05",)) for folder in ("/etc/cdi", "/var/run/cdi"))
OPEN_UDP = Datagram("0.0.0.0", 161, "", "snmpd")
ROOM = Room("/mnt/local/ssd", "/dev/sda1", "ext4", 1 << 20, 400 * GIB, 1000, 2000, ("ssd",))
PROXY = Listener("0.0.0.0", 8188, 900, "docker-proxy", "comfy")
OPEN = Port("8188/tcp", "0.0.0.0", 8188)

# control, what is so, the verdict, words of its evidence
Row = tuple[str, Callable[[], Case], str, str]
BARE_HOST = replace(fresh(AUDITED), docker=None, containers=None, nvml=None, toolkit=None)
ROWS: list[Row] = [
    ("hw.gpu", lambda: well(look=gpu(name="NVIDIA RTX A4000")), "fail", "not NVIDIA RTX 4000 Ada"),
    ("hw.gpu", lambda: well(look=gpu(memory_total_mib=12000)), "fail", "12000 MiB"),
    ("hw.nvidia-smi", lambda: well(look=look(nvidia_smi=None)), "fail", "not installed"),
    ("hw.nvidia-smi", lambda: well(look=look(nvidia_smi=Command(9, "x\nno device"))), "fail", ""),
    ("hw.nvidia-smi", lambda: well(look=look(nvidia_smi=LOST)), "unknown", "no answer"),
    ("hw.nvidia-smi", lambda: well(look=look(nvidia_smi=LOST, nvml=NO)), "unknown", "no answer"),
    ("hw.gpu-errors", lambda: well(look=gpu(ecc_uncorrected=2)), "fail", "2 uncorrected"),
    ("hw.gpu-errors", lambda: well(kernel_log=("NVRM: Xid (PCI:0000:01:00): 79, GPU lost",)), "fail", "Xid 79"),
    ("hw.gpu-errors", lambda: well(look=look(nvml=NO), kernel_log=("NVRM: Xid (PCI:0000:01:00): 79, lost",)), "fail",
     "Xid 79"),
    ("hw.gpu-errors", lambda: well(kernel_log=NO), "unknown", "denied"),
    ("hw.gpu-errors", lambda: well(kernel_log=NO, clock=Clock(True, (), "docker")), "not applicable", "container"),
    ("hw.gpu-errors", lambda: well(look=look(nvml=NO)), "unknown", "denied"),
    ("hw.disks", lambda: well(drives=(Drive("/mnt/local/nvme", "/dev/sdb1", "hdd"),)), "fail", "hdd"),
    ("hw.disks", lambda: well(drives=(Drive("/", "/dev/vda1", ""),)), "not checkable", "/dev/vda1"),
    ("hw.disks", lambda: well(drives=()), "not applicable", ""),
    ("os.release", lambda: well(look=release(version="22.04")),
     "fail", "22.04"),
    ("os.lts", lambda: well(look=release(pretty="Ubuntu 25.10")),
     "fail", "25.10"),
    ("os.desktop", lambda: well(desktop=Desktop(("gdm3",), "", "")), "fail", "gdm3"),
    ("os.display-manager", lambda: well(desktop=Desktop((), "gdm3.service", "graphical.target")), "fail", "gdm3"),
    ("driver.branch", lambda: well(look=look(nvml=replace(NVML, driver="595.1"))),
     "fail", "595"),
    ("driver.branch", lambda: well(look=look(nvml=None)), "fail", "no NVIDIA driver"),
    ("driver.module", lambda: well(look=look(module_version="590.1")), "fail", "590.1"),
    ("driver.module", lambda: well(look=look(module_version=None)), "fail", "not loaded"),
    ("driver.vendor", lambda: well(cards=Cards((CARD,), True, "")), "fail", "nouveau"),
    ("driver.vendor", lambda: well(cards=Cards((replace(CARD, driver="nouveau"),), False, "")), "fail", "nouveau"),
    ("driver.vendor", lambda: well(look=look(module_version=None)), "fail", "not loaded"),
    ("driver.running-kernel", lambda: well(look=look(module_version=None), kernels=replace(
        KERNELS, installed=(Kernel(KERNELS.running, None),))), "fail", "no NVIDIA module"),
    ("driver.running-kernel", lambda: well(look=look(module_version=None)), "unknown", "6.8.0-50"),
    ("driver.next-kernel", lambda: well(kernels=replace(KERNELS, installed=(Kernel("6.8.0-51-generic", None),))),
     "fail", "no NVIDIA module"),
    ("driver.next-kernel", lambda: well(kernels=replace(KERNELS, installed=(Kernel("6.8.0-51-generic", "580.1"),))),
     "fail", "580.1"),
    ("driver.next-kernel", lambda: well(kernels=replace(KERNELS, next=NO)), "unknown", "denied"),
    ("docker.engine", lambda: well(look=docker(engine=LOST)), "fail", "no answer"),
    ("docker.engine", lambda: well(look=docker(engine="24.0.7")), "fail", "older than 25"),
    ("docker.engine", lambda: well(look=look(docker=None)), "fail", "not installed"),
    ("docker.compose", lambda: well(look=docker(compose=None)), "fail", "not installed"),
    ("docker.compose", lambda: well(look=look(docker=None)), "fail", "not installed"),
    ("docker.snap", lambda: well(look=docker(snap="/snap/bin/docker")), "fail", "/snap/bin/docker"),
    ("docker.snap", lambda: well(look=docker(snap=NO)), "unknown", "denied"),
    ("docker.snap", lambda: well(look=look(docker=None)), "not applicable", ""),
    ("docker.apt", lambda: well(installed={"docker-ce": None, "docker.io": None}), "fail", "no package"),
    ("docker.apt", lambda: well(installed={"docker-ce": "5:29 (half-configured)"}), "fail", "half-configured"),
    ("docker.apt", lambda: well(installed={"docker-ce": NO, "docker.io": NO}), "unknown", "denied"),
    ("docker.apt", lambda: well(look=look(docker=None)), "not applicable", ""),
    ("docker.root", lambda: well(look=docker(root="/srv/docker")), "fail", "/srv/docker"),
    ("docker.root", lambda: well(look=docker(root=LOST)), "unknown", "no answer"),
    ("docker.api", lambda: well(look=docker(tcp=("tcp://0.0.0.0:2375 (/etc/docker/daemon.json)",))), "fail", "2375"),
    ("docker.api", lambda: well(look=hears(Listener("0.0.0.0", 2375, 9, "socat", ""))), "fail", "socat"),
    ("docker.api", lambda: well(look=look(listeners=NO)), "unknown", "denied"),
    ("docker.api", lambda: well(look=look(docker=None)), "not applicable", ""),
    ("docker.neighbours", lambda: well(look=docker(engine="27.5.1")), "fail", "27.5.1"),
    ("docker.neighbours", lambda: well(look=docker(engine="dev")), "unknown", "dev"),
    ("toolkit.installed", lambda: well(look=look(toolkit=None)), "fail", "not installed"),
    ("toolkit.runtime", lambda: well(look=docker(runtimes=("runc",))), "fail", "runc"),
    ("toolkit.runtime", lambda: well(look=replace(docker(runtimes=("runc",)), toolkit=None)), "fail", "runc"),
    ("toolkit.runtime", lambda: well(look=docker(engine=LOST)), "unknown", "no answer"),
    ("toolkit.hook", lambda: well(engine_has_hook=False), "fail", "without"),
    ("toolkit.hook", lambda: well(engine_has_hook=None), "unknown", "does not run"),
    ("toolkit.cdi", lambda: well(look=docker(cdi=())), "fail", "no CDI"),
    ("toolkit.cdi", lambda: well(look=docker(cdi=("/etc/cdi/amd.yaml",)), cdi=()), "fail", "none of NVIDIA's"),
    ("toolkit.cdi", lambda: cdi(ETC), "fail", "is for driver 580.95.05, and 590.48.01 is installed"),
    ("toolkit.cdi", lambda: cdi(replace(ETC, drivers=("590.48.01",)), RUN), "fail", "/var/run/cdi/nvidia.yaml is for"),
    ("toolkit.cdi", lambda: cdi(ETC, replace(RUN, drivers=("590.48.01",))), "pass", "/var/run/cdi/nvidia.yaml 590"),
    ("toolkit.cdi", lambda: cdi(replace(ETC, drivers=())), "pass", "/etc/cdi/nvidia.yaml"),
    ("toolkit.cdi", lambda: well(cdi=NO), "unknown", "denied"),
    ("toolkit.cdi", lambda: well(look=look(library_version=NO)), "unknown", "denied"),
    ("toolkit.comfy-gpu", lambda: well(look=with_("comfy", gpu_seen=Command(9, "no devices"))), "fail", "no devices"),
    ("toolkit.ollama-gpu", lambda: well(look=says("ollama", "inference compute library=cpu")), "fail", "CPU"),
    ("toolkit.ollama-gpu", lambda: well(look=having(facts(), ollama=None)), "not applicable", "no container"),
    ("storage.nvme-root", lambda: well(look=root(is_mount=False)), "fail", "not a mount point"),
    ("storage.nvme-root", lambda: well(look=root(mount=Mount("/mnt/local/nvme", "/dev/x", "ext4", "ro"))), "fail",
     "read-only"),
    ("storage.nvme-root", lambda: well(touched={"/mnt/local/nvme": Command(1, "Stale file handle")}), "fail", "stale"),
    ("storage.at-boot", lambda: well(fstab=()), "fail", "gone after the next boot"),
    ("storage.at-boot", lambda: well(fstab=(), look=look(mounts=())), "fail", "gone after the next boot"),
    ("storage.at-boot", lambda: well(fstab=(), look=look(mounts=tuple(
        Mount(path, f"tank{path}", "zfs", "rw") for path in ("/mnt/local/nvme", "/mnt/local/ssd")))), "pass", "by ZFS"),
    ("storage.at-boot", lambda: well(fstab=(FstabLine("LABEL=n", "/mnt/local/nvme", "ext4", "noauto"),
                                            FstabLine("LABEL=s", "/mnt/local/ssd", "ext4", ""))), "fail", "noauto"),
    ("storage.at-boot", lambda: well(fstab=(FstabLine("LABEL=n", "/mnt/local/nvme", "ext4", "", there=False),
                                            FstabLine("LABEL=s", "/mnt/local/ssd", "ext4", ""))), "fail", "LABEL=n"),
    ("storage.at-boot", lambda: well(host=replace(AUDITED, storage=replace(AUDITED.storage, require_mounts=False))),
     "not applicable", "require_mounts"),
    ("storage.models", lambda: well(look=path("models", gid=0)), "fail", "/mnt/local/nvme/ai/models: "),
    ("storage.comfy-mnt", lambda: well(look=path("comfy-mnt", uid=0, gid=0)), "fail", "0:0"),
    ("storage.comfy-mnt", lambda: well(look=path("comfy-mnt", mode=0o755)), "fail", "0755"),
    ("storage.comfy-mnt", lambda: well(look=tree("comfy-mnt", Tree("x", 9, True, 1, ("x (0:0)",)))), "fail", "inside"),
    ("storage.comfy-mnt", lambda: well(look=tree("comfy-mnt", NO)), "unknown", "denied"),
    ("storage.comfy-mnt", lambda: well(look=tree("comfy-mnt", Tree("x", 20000, False, 0, ()))), "pass", "too large"),
    ("storage.outputs-comfy", lambda: well(look=path("outputs/comfy", uid=1000)), "fail", "1000"),
    *((f"storage.{key}", lambda name=name: well(look=without(name)), "fail", "is missing")
      for name, key, *_ in storage.DIRECTORIES),
    ("storage.models-read-only", lambda: well(look=also("x", mounts=(bind("/mnt/local/nvme/ai/models/a", "/m"),))),
     "fail", "x: /mnt/local/nvme/ai/models/a"),
    ("storage.models-read-only", lambda: well(look=look(containers=())), "not applicable", ""),
    ("storage.local", lambda: well(look=look(mounts=(Mount("/mnt/local/nvme", "nas:/x", "nfs4", "rw"),))), "fail",
     "nfs4 from nas:/x"),
    ("storage.local", lambda: well(look=look(mounts=NO)), "unknown", "denied"),
    ("storage.state", lambda: well(look=mounts("ollama", volume("v", "/data"))), "fail", "/data is volume v"),
    ("storage.state", lambda: well(look=mounts("ollama", bind("/home/x", "/data"))), "fail", "/home/x"),
    ("storage.state", lambda: well(look=look(containers=())), "not applicable", ""),
    ("storage.pressure", lambda: well(rooms=(ROOM,)), "fail", "/mnt/local/ssd"),
    ("storage.uid", lambda: well(accounts=(Account("ann", 1024, "/bin/bash"),)), "fail", "ann"),
    ("storage.uid",
     lambda: well(accounts=(Account("comfy", 1024, "/usr/sbin/nologin"), Account("comfy", 1024, "", True))),
     "pass", "group comfy"),
    ("stack.comfy-up", lambda: well(look=with_("comfy", state="exited", exit_code=1, health=None)), "fail", "exited"),
    ("stack.comfy-up", lambda: well(look=having(facts(), comfy=None)), "fail", "not there"),
    ("stack.comfy-bind", lambda: well(look=with_("comfy", ports=(OPEN,))), "fail", "0.0.0.0:8188"),
    ("stack.comfy-bind", lambda: well(look=with_("comfy", ports=(replace(OPEN, address="::"),))), "fail", "[::]:8188"),
    ("stack.comfy-bind", lambda: well(look=with_("comfy", state="exited", ports=(OPEN,))), "fail", "will publish"),
    ("stack.comfy-bind", lambda: well(look=having(look(listeners=(PROXY,)), comfy=None)), "not applicable", "ComfyUI"),
    ("stack.ollama-bind", lambda: well(look=also("other", image="ollama/ollama:1", ports=(Port("1/tcp", "", 9),))),
     "fail", "other is reachable"),
    ("stack.comfy-answers", lambda: well(look=look(http={**facts().http, "comfy": Http("", 500, "x", "", "", 1.0)})),
     "fail", "500"),
    ("stack.comfy-answers", lambda: well(look=having(facts(), comfy=None)), "not applicable", ""),
    ("stack.comfy-log", lambda: well(look=says("comfy", "!! ERROR: x")), "fail", "!! ERROR"),
    ("stack.comfy-started", lambda: well(look=says("comfy")), "fail", "Starting server"),
    ("stack.compose-file", lambda: well(look=look(files={})), "fail", "is not there"),
    ("stack.compose-file", lambda: well(look=BARE_HOST), "fail", "is not there"),
    ("stack.declared", lambda: well(look=with_("comfy", restart_policy="no")), "fail", "comfy: restart policy"),
    ("stack.declared", lambda: well(look=with_("comfy", unread="gone")), "unknown", "comfy: gone"),
    ("stack.declared", lambda: well(look=look(containers=())), "not applicable", ""),
    ("stack.alone", lambda: well(look=also("ai-comfyui-1")), "fail", "ai-comfyui-1"),
    ("stack.comfy-mount", lambda: well(look=mounts("comfy", drop="/comfy/mnt")), "fail", "nothing is mounted"),
    ("stack.comfy-mount", lambda: well(look=mounts("comfy", volume("v", "/comfy/mnt"), drop="/comfy/mnt")), "fail",
     "volume v"),
    ("stack.comfy-mount", lambda: well(look=having(facts(), comfy=None)), "not applicable", ""),
    ("stack.comfy-mount", lambda: well(look=with_("comfy", unread="denied")), "unknown", "denied"),
    ("stack.comfy-sub-mounts", lambda: well(look=mounts("comfy", bind("/x", "/comfy/mnt/models"))), "fail", "/x ->"),
    ("stack.comfy-models", lambda: well(look=mounts("comfy", drop="/models")), "fail", "not mounted"),
    ("stack.comfy-models", lambda: well(look=env("comfy", BASE_DIRECTORY="/x")), "fail", "BASE_DIRECTORY"),
    ("stack.comfy-uid", lambda: well(look=env("comfy", WANTED_UID="1000")), "fail", "WANTED_UID is 1000"),
    ("stack.comfy-uid", lambda: well(look=env("comfy", WANTED_GID=None)), "fail", "WANTED_GID is not set"),
    ("stack.comfy-uid", lambda: well(look=with_("comfy", user="0:0")), "fail", "user 0:0"),
    ("stack.comfy-outputs", lambda: well(look=mounts("comfy", drop="/outputs")), "fail", "nothing is mounted"),
    ("stack.comfy-first-run", lambda: well(comfy=ComfyTree("empty", "missing")), "fail", "ComfyUI/ is empty"),
    ("stack.comfy-first-run", lambda: well(comfy=None), "not applicable", ""),
    ("stack.ollama-data", lambda: well(look=mounts("ollama", volume("o", "/root/.ollama"), drop="/root/.ollama")),
     "fail",
     "/root/.ollama is"),
    ("stack.ollama-local", lambda: well(look=env("ollama", OLLAMA_NO_CLOUD=None)), "fail", "OLLAMA_NO_CLOUD"),
    ("stack.openwebui-data", lambda: well(look=mounts("openwebui", bind("/mnt/atlas/appdata/w", "/app/backend/data"),
                                                      drop="/app/backend/data")), "fail", "/mnt/atlas/appdata/w"),
    ("stack.openwebui-ollama", lambda: well(look=env("openwebui", OLLAMA_BASE_URL="/ollama")), "fail", "wrong Ollama"),
    ("net.cards", lambda: well(addresses=(MGMT,)), "fail", "10.0.60.0/24"),
    ("net.cards", lambda: well(addresses=(MGMT, replace(SERVERS, interface="eno2"))), "fail", "both on eno2"),
    ("net.cards", lambda: well(host=HOST), "not applicable", ""),
    ("net.mgmt-address", lambda: well(addresses=(replace(MGMT, origin="dhcp", why="a lease: /x"),)), "fail", "dhcp"),
    ("net.mgmt-address", lambda: well(addresses=(replace(MGMT, origin="auto", why="a router"),)), "fail", "auto"),
    ("net.mgmt-address", lambda: well(addresses=(replace(MGMT, origin="unknown", why="x"),)), "unknown", "x"),
    ("net.mgmt-address", lambda: well(host=HOST), "not applicable", ""),
    ("net.dhcp", lambda: well(addresses=(MGMT, LEASED), look=hears(SSHD, Listener("10.0.60.5", 80, 1, "nginx", ""))),
     "fail",
     "nginx, port 80"),
    ("net.dhcp", lambda: well(addresses=(MGMT, LEASED), look=also("x", ports=(Port("1/tcp", "10.0.60.5", 81),))),
     "fail",
     "container x, port 81"),
    ("net.dhcp", lambda: well(look=hears(SSHD, Listener("10.0.60.5", 80, 1, "nginx", ""))), "pass", "static"),
    ("net.dhcp", lambda: well(addresses=(MGMT, LEASED)), "not applicable", "no service binds"),
    ("net.listeners", lambda: well(look=hears(SSHD, Listener("0.0.0.0", 9100, 1, "node_exporter", ""))), "fail",
     "0.0.0.0:9100: node_exporter"),
    ("net.listeners", lambda: well(look=hears(SSHD, Listener("::", 111, 1, "systemd", ""))), "fail", "[::]:111"),
    ("net.listeners", lambda: well(look=also("web", ports=(Port("80/tcp", "", 80),))), "fail", "container web"),
    ("net.listeners", lambda: well(look=hears(SSHD, Listener("10.0.99.10", 9000, 701, "sshd", ""))),
     "fail", "9000: sshd"),
    ("net.listeners", lambda: well(look=hears(SSHD, Listener("172.17.0.1", 53, 1, "dnsmasq", ""))), "pass", ""),
    ("net.listeners",
     lambda: well(host=replace(AUDITED, listeners=("9100", "10.0.60.5:80", "[fd00::1]:81")), look=hears(
        SSHD, Listener("::", 9100, 1, "x", ""), Listener("10.0.60.5", 80, 1, "y", ""),
        Listener("fd00::1", 81, 1, "z", ""))), "pass", "9100"),
    ("net.listeners", lambda: well(look=also("web", ports=(Port("80/tcp", "0.0.0.0", 2375),))), "fail",
     "0.0.0.0:2375: container web"),
    ("net.listeners", lambda: well(look=replace(BARE_HOST, listeners=(Listener("::", 2375, 9, "socat", ""),))), "fail",
     "[::]:2375: socat"),
    ("net.listeners", lambda: well(look=hears(SSHD, Listener("0.0.0.0", 2375, 9, "socat", ""))), "pass", ""),
    ("net.listeners", lambda: well(look=hears(SSHD, Listener("::", 38573, None, "", ""))), "fail", "the kernel itself"),
    ("net.datagrams", lambda: asks(OPEN_UDP), "fail", "0.0.0.0:161/udp: snmpd"),
    ("net.datagrams", lambda: asks(Datagram("0.0.0.0", 51820)), "fail", "the kernel itself"),
    ("net.datagrams", lambda: asks(Datagram("::", 5353, "eno1", "avahi-daemon")), "fail", "[::]:5353/udp"),
    ("net.datagrams", lambda: asks(replace(OPEN_UDP, device="lo")), "pass", ""),
    ("net.datagrams", lambda: asks(replace(OPEN_UDP, device="docker0")), "pass", ""),
    ("net.datagrams", lambda: asks(replace(OPEN_UDP, address="172.17.0.1")), "pass", ""),
    ("net.datagrams", lambda: asks(Datagram("fe80::1", 546, "eno1", "systemd-network")), "pass", ""),
    ("net.datagrams", lambda: asks(OPEN_UDP, host=replace(AUDITED, listeners=("161",))), "pass", ""),
    ("net.datagrams", lambda: asks(replace(OPEN_UDP, container=container(AUDITED, "comfy").id)), "fail",
     "container comfy"),
    ("net.datagrams", lambda: well(datagrams=NO), "unknown", "denied"),
    ("net.cards", lambda: well(host=replace(AUDITED, servers_network="")), "pass", "SERVERS was not looked for"),
    ("net.listeners", lambda: well(host=replace(AUDITED, listeners=("10.0.60.5:80",)), look=hears(
        SSHD, Listener("0.0.0.0", 80, 1, "y", ""))), "fail", "0.0.0.0:80"),
    ("ssh.root", lambda: well(ssh_server=told(permitrootlogin="yes")), "fail", "PermitRootLogin yes"),
    ("ssh.root", lambda: well(ssh_server=told(permitrootlogin="without-password")), "fail", "with a key"),
    ("ssh.root",
     lambda: well(ssh_server=replace(SERVER, lines=(line("permitrootlogin", "yes", "Address 10.0.0.0/8"),))),
     "fail", "Match Address 10.0.0.0/8"),
    ("ssh.root", lambda: well(ssh_server=replace(SERVER, root={})), "unknown", "does not say"),
    ("ssh.keys", lambda: well(ssh_server=told(passwordauthentication="yes")), "fail", "PasswordAuthentication yes"),
    ("ssh.keys", lambda: well(ssh_server=told(kbdinteractiveauthentication="yes")), "fail", "KbdInteractive"),
    ("ssh.keys", lambda: well(ssh_server=told(pubkeyauthentication="no")), "fail", "PubkeyAuthentication no"),
    ("ssh.keys", lambda: well(ssh_server=told(permitemptypasswords="yes")), "fail", "PermitEmptyPasswords yes"),
    ("ssh.keys", lambda: well(ssh_server=replace(SERVER, lines=(line("passwordauthentication", "yes", "User x"),))),
     "fail", "Match User x"),
    ("ssh.keys", lambda: well(ssh_server=told(passwordauthentication="yes", authenticationmethods="publickey")),
     "pass", "AuthenticationMethods publickey"),
    ("ssh.keys", lambda: well(ssh_server=told(passwordauthentication="yes", pubkeyauthentication="no",
                                              authenticationmethods="publickey")), "fail", "PubkeyAuthentication no"),
    ("ssh.keys", lambda: well(ssh_server=told(passwordauthentication="yes",
                                              authenticationmethods="publickey,password password")), "fail", "yes"),
    ("ssh.keys", lambda: well(ssh_server=replace(
        told(passwordauthentication="yes", authenticationmethods="publickey"),
        lines=(line("authenticationmethods", "any", "User x"),))), "fail", "PasswordAuthentication yes"),
    ("ssh.keys", lambda: well(ssh_server=None), "unknown", "no sshd"),
    ("ssh.only", lambda: well(look=hears(SSHD, Listener("0.0.0.0", 5901, 1, "Xtigervnc", ""))), "fail", "VNC"),
    ("ssh.only", lambda: well(look=hears(SSHD, Listener("::", 9090, 1, "systemd", "")), sockets=(
        SocketUnit("[::]:9090", "cockpit.socket", "cockpit.service"),)), "fail", "Cockpit"),
    ("ssh.only", lambda: well(look=hears(SSHD, Listener("127.0.0.1", 5901, 1, "Xtigervnc", ""))), "pass", ""),
    ("ssh.listen", lambda: well(look=hears(replace(SSHD, address="0.0.0.0"))), "fail", "10.0.60.5:22 on eno1"),
    ("ssh.listen", lambda: well(look=hears(replace(SSHD, address="::"))), "fail", "10.0.60.5:22 on eno1"),
    ("ssh.listen", lambda: well(look=hears(replace(SSHD, address="::", process="systemd")), sockets=(
        SocketUnit("*:22", "ssh.socket", "ssh.service"),)), "fail", "eno1"),
    ("ssh.listen", lambda: well(look=hears(SSHD, replace(SSHD, address="100.64.0.9")), addresses=(
        MGMT, replace(SERVERS, interface="tailscale0", address="100.64.0.9", kind="vpn"))), "fail", "tailscale0"),
    ("ssh.listen", lambda: well(look=hears(replace(SSHD, address="0.0.0.0")), addresses=(
        MGMT, replace(SERVERS, interface="eno2"))), "fail", "10.0.60.5:22 on eno2"),
    ("ssh.listen", lambda: well(look=hears(replace(SSHD, address="::")), addresses=(
        MGMT, replace(MGMT, address="fd00::9", prefix=64))), "pass", "[fd00::9]:22 on eno2"),
    ("ssh.listen", lambda: well(look=hears()), "unknown", "no sshd"),
    ("ssh.listen", lambda: well(host=HOST), "not applicable", ""),
    ("nfs.mounted", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[0], rows=(), at="missing"))),
     "fail", "/mnt/atlas/data"),
    ("nfs.mounted", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[0], rows=(), waits=True))), "pass", "first use"),
    ("nfs.type", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[0], rows=(
        Mount("/mnt/atlas/data", "tmpfs", "tmpfs", "rw"),)))), "fail", "tmpfs"),
    ("nfs.type", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[0], rows=(
        Mount("/mnt/atlas/data", "old:/data", "nfs4", "rw"),)))), "fail", "old:/data"),
    ("nfs.type", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[0], rows=()))), "not applicable", ""),
    ("nfs.modes", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[1], rows=(
        Mount("/mnt/atlas/media", "atlas:/media", "nfs4", "rw"),)))), "fail", "mounted rw, not ro"),
    ("nfs.answers", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[0], answers=LOST))), "fail", "no answer"),
    ("nfs.answers", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[0], answers=Command(1, "Stale file handle")))),
     "fail", "Stale"),
    ("nfs.at-boot", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[0], lines=()))), "fail", "neither"),
    ("nfs.at-boot", lambda: well(WITH_ATLAS, atlas=atlas(share(WANT[0], lines=(replace(
        share(WANT[0]).lines[0], options="rw"),)))), "fail", "nofail"),
    ("nfs.unused", lambda: well(look=mounts("ollama", bind("/mnt/atlas/appdata/o", "/x"))),
     "fail", "/mnt/atlas/appdata/o"),
    ("nfs.unused", lambda: well(look=look(containers=())), "not applicable", ""),
    ("nfs.owners", lambda: well(WITH_ATLAS), "not checkable", "writes nothing"),
    *((f"nfs.{name}", well, "not applicable", "names no mount")
      for name in ("mounted", "type", "modes", "answers", "at-boot", "owners")),
    ("virt.kvm", lambda: well(virtual=machine(type="qemu")), "fail", "type qemu"),
    ("nfs.intent", lambda: well(replace(AUDITED, atlas=(replace(WANT[0], mount="/mnt/atlas/shared-media"),))), "fail",
     "the page ro"),
    ("nfs.intent", lambda: well(replace(AUDITED, atlas=AS_PAGE.atlas[:3])), "fail",
     "the page names /mnt/atlas/shared-media (ro), and hosts.toml does not"),
    ("nfs.intent", lambda: well(WITH_ATLAS), "fail", "the page names /mnt/atlas/appdata (rw)"),
    *((name, lambda: well(look=BARE_HOST), "not applicable", "") for name in (
        "docker.root", "docker.neighbours", "docker.apt", "docker.snap", "docker.api", "toolkit.runtime",
        "toolkit.hook", "toolkit.cdi", "toolkit.comfy-gpu", "stack.comfy-bind", "stack.comfy-answers",
        "stack.comfy-log", "stack.comfy-mount", "stack.declared", "storage.state", "nfs.unused")),
    *((name, lambda: well(look=BARE_HOST), "fail", "") for name in ("stack.comfy-up", "docker.engine",
        "driver.branch")),
    ("nfs.intent", well, "not applicable", "names no mount"),
    ("nfs.intent", lambda: well(look=mounted(
        Mount("/mnt/atlas/managed-media", "atlas:/media", "nfs4", "rw,relatime"))), "fail",
     "/mnt/atlas/managed-media is mounted (atlas:/media, rw), and hosts.toml does not name it"),
    ("nfs.intent", lambda: well(AS_PAGE, look=mounted(
        Mount("/mnt/atlas/appdata", "nas:/mnt/atlas/appdata", "nfs4", "rw"),
        Mount("/mnt/atlas", "systemd-1", "autofs", "rw"))), "pass", ""),
    ("stack.containerised", lambda: well(look=hears(SSHD, Listener("127.0.0.1", 11500, 9, "ollama", ""))), "fail",
     "127.0.0.1:11500"),
    ("stack.containerised", lambda: well(look=hears(SSHD, Listener("127.0.0.1", 8188, 9, "python3", ""))), "fail",
     "ComfyUI?"),
    ("virt.cpu-mode", lambda: well(virtual=machine(cpu_mode="host-model")), "fail", "host-model"),
    ("virt.cpu-overcommit", lambda: well(virtual=machine(vcpus=17)), "fail", "17"),
    ("virt.cpu-overcommit", lambda: well(virtual=Virtual((VM, replace(VM, name="b", vcpus=14)), 16, 65536)), "fail",
     "together 18"),
    ("virt.cpu-overcommit", lambda: well(virtual=Virtual((VM, replace(
        VM, name="b", vcpus=14, running=False, autostart=False)), 16, 65536)), "pass", "4 vCPUs"),
    ("virt.memory-overcommit", lambda: well(virtual=machine(memory_mib=70000)), "fail", "70000"),
    ("virt.gpu", lambda: well(virtual=machine(devices=("0000:01:00.0",))), "fail", "0000:01:00.0"),
    ("virt.gpu", lambda: well(virtual=machine(devices=("0000:05:00.0",))), "pass", ""),
    ("virt.gpu", lambda: well(cards=Cards((replace(CARD, driver="vfio-pci"),), False, "")), "fail", "vfio-pci"),
    ("virt.gpu", lambda: well(cards=Cards((CARD,), False, "", ("/etc/modprobe.d/v.conf:1: options",))),
     "fail", "v.conf"),
    ("virt.libvirt", lambda: well(virtual=Virtual((), 16, 1, (), ("qemu-system-x86 (pid 9)",))), "fail",
     "qemu-system-x86 (pid 9) is no machine of libvirt's"),
    ("virt.libvirt", lambda: well(virtual=None), "not applicable", ""),
    *((f"virt.{name}", lambda: well(virtual=None), "not applicable", "libvirt")
      for name in ("kvm", "cpu-mode", "cpu-overcommit", "memory-overcommit")),
    *((f"virt.{name}", lambda: well(virtual=Virtual((), 16, 1, ("/x.xml: broken",))), "unknown", "broken")
      for name in ("cpu-mode", "cpu-overcommit", "memory-overcommit")),
    ("mon.dcgm", lambda: well(host=replace(AUDITED, monitoring=Monitoring(True))), "fail", "no container"),
    ("mon.dcgm", lambda: well(replace(AUDITED, monitoring=Monitoring(True)), also("m", image="nvidia/dcgm-exporter:4")),
     "pass", "dcgm-exporter"),
    ("mon.dcgm", lambda: well(replace(AUDITED, monitoring=Monitoring(True)), also(
        "m", image="nvidia/dcgm-exporter:4", state="exited")), "fail", "exited"),
    ("mon.dcgm", well, "not applicable", ""),
]  # fmt: skip

# What need not pass on a host that is well: it cannot, or there is nothing to judge.
BESIDES = {"mon.dcgm", "mon.metrics", "mon.alerts", "net.dhcp", "nfs.owners"}


@pytest.mark.parametrize(
    "row", ROWS, ids=[f"{control}-{status}-{at}" for at, (control, _, status, _) in enumerate(ROWS)]
)
def test_each(row: Row) -> None:
    control, about, status, words = row
    verdict = judged(control, about())
    assert verdict.status == status, verdict
    assert words in verdict.evidence, verdict
    if status in ("fail", "not checkable"):
        assert verdict.mend, "what is wrong comes with what to do"


@pytest.mark.parametrize(
    ("control", "about", "mend"),
    [
        ("docker.neighbours", lambda: well(look=docker(engine="27.5.1")), "--only-upgrade docker-ce docker-ce-cli"),
        ("docker.neighbours", lambda: well(look=docker(engine="27.5.1"), installed={"docker.io": "27.5.1"}),
         "--only-upgrade docker.io'"),
        ("docker.neighbours", lambda: well(look=docker(engine="27.5.1"), installed={}), "as it was installed"),
        ("docker.apt", lambda: well(installed={"docker-ce": None, "docker.io": None}), "remove it as it was installed"),
        ("docker.apt", lambda: well(look=docker(snap="/snap/bin/docker"), installed={"docker-ce": None,
         "docker.io": None}), "--remove-snap"),
        ("storage.at-boot", lambda: well(fstab=()), '"UUID=$uuid /mnt/local/nvme ext4 defaults,nofail,x-systemd'),
        ("storage.at-boot", lambda: well(replace(AUDITED, storage=replace(AUDITED.storage, nvme_source="LABEL=n v")),
         fstab=()), "LABEL=n\\040v /mnt/local/nvme ext4 "),
        ("storage.at-boot", lambda: well(fstab=(), look=look(mounts=())), "invoke fix.mounts-missing"),
        ("ssh.root", lambda: well(ssh_server=told(permitrootlogin="yes")), "tee -a /etc/ssh/sshd_config.d/"),
        ("ssh.root", lambda: well(ssh_server=replace(told(permitrootlogin="without-password"), lines=(
            first("permitrootlogin", "prohibit-password"),))), "sudoedit /etc/ssh/sshd_config.d/00-a.conf  (line 7;"),
        ("ssh.root", lambda: well(ssh_server=replace(told(permitrootlogin="yes"), lines=(
            line("permitrootlogin", "yes"),))), "tee -a /etc/ssh/sshd_config.d/"),
        ("ssh.keys", lambda: well(ssh_server=replace(SERVER, lines=(
            line("passwordauthentication", "yes", "User x", 3),))), "sudoedit /etc/ssh/sshd_config  (line 3;"),
        ("ssh.keys", lambda: well(ssh_server=replace(told(passwordauthentication="yes"), lines=(
            first("passwordauthentication", "yes"),))), "sudoedit /etc/ssh/sshd_config.d/00-a.conf"),
        ("toolkit.cdi", lambda: cdi(ETC), "invoke prereqs --install --host prometheus"),
        ("net.listeners", lambda: well(look=hears(SSHD, Listener("::", 111, 1, "rpcbind", ""))), "mask --now rpcbind."),
        ("net.datagrams", lambda: asks(replace(OPEN_UDP, port=111, process="rpcbind")), "mask --now rpcbind.socket"),
        ("net.datagrams", lambda: asks(replace(OPEN_UDP, port=111, process="rpcbind"), host=replace(
            AUDITED, atlas=(replace(WANT[0], type="nfs"),))), 'hosts.toml, [hosts.prometheus]: listeners = ["111"]'),
        ("net.datagrams", lambda: asks(OPEN_UDP, host=replace(AUDITED, listeners=("9100",))), '["9100", "161"]'),
        ("hw.gpu", lambda: well(look=gpu(memory_total_mib=12282)), "[hosts.prometheus.gpu]: min_memory_mib = 12000"),
        ("hw.gpu", lambda: well(look=gpu(name="NVIDIA L4")), '[hosts.prometheus.gpu]: name = "NVIDIA L4"'),
        ("storage.models-read-only", lambda: well(look=also("x", mounts=(bind("/mnt/local/nvme/ai/models", "/m"),))),
         "make x again without that"),
        ("storage.models-read-only", lambda: well(look=also("x", image="ollama/ollama:1", mounts=(
            bind("/mnt/local/nvme/ai/models", "/m"),))), "invoke bringup --adopt --host prometheus"),
        ("storage.state", lambda: well(look=mounts("ollama", volume("v", "/data"))), "invoke bringup --host prome"),
        ("nfs.unused", lambda: well(look=also("x", image="ollama/ollama:1", mounts=(bind("/mnt/atlas/o", "/m"),))),
         "invoke bringup --adopt --host prometheus"),
        ("stack.ollama-bind", lambda: well(look=also("x", image="ollama/ollama:1", state="exited", ports=(
            Port("11434/tcp", "", 21434),))), "invoke bringup --adopt --host prometheus"),
        ("virt.cpu-mode", lambda: well(virtual=machine(name="a b", cpu_mode="")), "virsh edit 'a b'"),
        ("nfs.intent", lambda: well(replace(AUDITED, atlas=AS_PAGE.atlas[:3])),
         'export = "nas:/shared-media"\nmount = "/mnt/atlas/shared-media"\nmode = "ro"'),
    ],
)  # fmt: skip
def test_the_mend_is_one_that_helps_there(control: str, about: Callable[[], Case], mend: str) -> None:
    verdict = judged(control, about())
    assert verdict.status == "fail"
    assert mend in verdict.mend


def first(keyword: str, value: str) -> SshdLine:
    """In a file that is read before the one that a mend writes to."""
    return SshdLine("/etc/ssh/sshd_config.d/00-a.conf", 7, keyword, value)


COMMAND = re.compile(r"\binvoke [a-z][^;,()\n]*")


def test_every_command_is_one_that_there_is() -> None:
    """With its options: what is typed at two in the morning must be understood."""
    parser = Parser(contexts=tasks.ns.to_contexts(), initial=ParserContext())
    typed = {found for control, about, status, _ in ROWS if status in ("fail", "unknown")
             for found in COMMAND.findall(judged(control, about()).mend)}  # fmt: skip
    assert len(typed) > 10
    for text in typed:
        parser.parse_argv(shlex.split(text)[1:])


@pytest.mark.parametrize("control", [one.id for one in CONTROLS])
def test_holds_on_a_host_that_is_as_the_documents_say(control: str) -> None:
    verdict = judged(control, well(AS_PAGE if control == "nfs.intent" else WITH_ATLAS))
    expected = {"pass", "not checkable", "not applicable"} if control in BESIDES else {"pass"}
    expected = {"not checkable"} if control.startswith("beyond.") else expected
    assert verdict.status in expected, verdict


@pytest.mark.parametrize("control", [one.id for one in CONTROLS])
def test_is_failed_by_something(control: str) -> None:
    """But those that nothing on a host can decide."""
    alike = re.sub(r"^(stack|toolkit)\.(ollama|openwebui)-(up|bind|answers|tunnel|gpu)$", r"\1.comfy-\3", control)
    alike = {"stack.comfy-tunnel": "stack.comfy-answers", "storage.ssd-root": "storage.nvme-root"}.get(alike, alike)
    decided = {row[0] for row in ROWS if row[2] == "fail"} | {
        "ssh.forwarding",
        "nfs.owners",
        "mon.metrics",
        "mon.alerts",
    }
    assert alike in decided or control.startswith("beyond.")


def denied(kind: type, value: Any) -> Any:
    """A dataclass with every field that may be Unknown so."""
    hints = get_type_hints(kind)
    said: dict[str, Any] = {}
    for field in fields(kind):
        if "Unknown" in str(hints[field.name]):
            has = getattr(value, field.name)
            said[field.name] = dict.fromkeys(has, NO) if isinstance(has, dict) else NO
    return replace(value, **said)


BARE = Case(WITH_ATLAS, denied(Facts, facts()), denied(Evidence, well().evidence), Here(), Choices())
EMPTY = Case(WITH_ATLAS, fresh(WITH_ATLAS), Evidence(), Here(), Choices())


@pytest.mark.parametrize("control", CONTROLS, ids=[one.id for one in CONTROLS])
@pytest.mark.parametrize("about", [BARE, EMPTY], ids=["denied", "empty"])
def test_what_is_not_known_never_passes(control: Control, about: Case) -> None:
    verdict = control.judge(about)
    if about is BARE:
        assert verdict.status in ("unknown", "fail", "not checkable", "not applicable"), verdict
        applies = control.id not in ("mon.dcgm", "nfs.intent") and not control.id.startswith(("beyond.", "mon."))
        assert verdict.status != "not applicable" or not applies, verdict
    assert verdict.status in STATUSES


SEEN = well(WITH_ATLAS)
OF_FACTS = [field.name for field in fields(Facts) if field.name not in ("schema", "nonce", "took_s")]
OF_EVIDENCE = [field.name for field in fields(Evidence) if field.name not in ("schema", "took_s")]


@pytest.mark.parametrize("name", OF_FACTS)
def test_no_judge_breaks_on_a_part_that_is_not_known(name: str) -> None:
    has = getattr(SEEN.facts, name)
    for said in unsaid(has):
        changed: dict[str, Any] = {name: said}
        about = replace(SEEN, facts=replace(SEEN.facts, **changed))
        for control in CONTROLS:
            control.judge(about)


@pytest.mark.parametrize("name", OF_EVIDENCE)
def test_no_judge_breaks_on_evidence_that_is_not_known(name: str) -> None:
    for said in unsaid(getattr(SEEN.evidence, name)):
        changed: dict[str, Any] = {name: said}
        about = replace(SEEN, evidence=replace(SEEN.evidence, **changed))
        for control in CONTROLS:
            control.judge(about)


def unsaid(has: object) -> list[Any]:
    """What a look may give in place of that."""
    return [{}, dict.fromkeys(has, NO)] if isinstance(has, dict) else [NO, None]


def test_ids_are_in_order_and_each_has_a_source() -> None:
    assert len({control.id for control in CONTROLS}) == len(CONTROLS)
    for control in CONTROLS:
        assert re.fullmatch(r"[a-z]+\.[a-z0-9-]+", control.id)
        assert re.search(r"procedure §\d|system page, [A-Z]", control.source), control.id
        assert control.severity in SEVERITIES
        assert not control.title.endswith(".")


@pytest.mark.parametrize(
    "control",
    [
        "hw.gpu",
        "stack.comfy-bind",
        "stack.openwebui-data",
        "storage.uid",
        "stack.comfy-uid",
        "nfs.unused",
        "storage.local",
    ],
)
def test_where_the_documents_disagree_the_control_says_which_rules(control: str) -> None:
    rules = next(one.rules for one in CONTROLS if one.id == control)
    assert "rules" in rules
    assert "procedure" in rules


def test_forwarding_that_sshd_refuses_from_its_next_reload_on() -> None:
    from pantheon.evidence import Sshd

    sshd = Sshd({"allowtcpforwarding": "no", "disableforwarding": "no"})
    verdict = judged("ssh.forwarding", well(sshd=sshd))
    assert verdict.status == "fail"
    assert "forbid it" in verdict.evidence
    assert judged("ssh.forwarding", replace(well(), here=Here())).status == "unknown"
