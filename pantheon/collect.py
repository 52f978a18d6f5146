"""The evidence of a diagnosis, gathered on the host beside the look (probe.py). Reads and never writes.

PARTS below is the table of what is gathered: each part has a deadline of its own, and one that fails or hangs is
Unknown without taking the others with it (looks/work.py). A part is `part(spec, root)` and gives what evidence.Evidence
says under its name.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

from pantheon.collecting import (
    accounts,
    apt,
    belongings,
    busy,
    cards,
    comfy,
    desktop,
    disks,
    dockerd,
    exposure,
    history,
    holder,
    inside,
    kernel,
    kernels,
    network,
    nfs,
    nodes,
    packages,
    sources,
    sshd,
    sshserver,
    units,
    upkeep,
    usage,
    virtual,
    webui,
)
from pantheon.looks import work
from pantheon.looks.files import widen_path
from pantheon.looks.text import Json, Object
from pantheon.looks.work import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO, TextIO

SCHEMA = 1

PARTS: dict[str, Callable[[Object, str], Json]] = {
    "units": units.units,
    "kept": units.kept,
    "engine_log": units.engine_log,
    "engine_config": units.engine_config,
    "kernel_log": kernel.log,
    "killed": kernel.killed,
    "memory": kernel.memory,
    "installed": packages.installed,
    "reboot_required": packages.reboot_required,
    "logged_in": packages.logged_in,
    "installing": packages.installing,
    "next_module": packages.next_module,
    "belongings": belongings.belongings,
    "packages": apt.packages,
    "kernels": kernels.kernels,
    "driver_offer": kernels.driver_offer,
    "engine_has_hook": packages.engine_has_hook,
    "sshd": sshd.settings,
    "dockerd": dockerd.dockerd,
    "fstab": disks.fstab,
    "beneath": disks.beneath,
    "stacked": disks.stacked,
    "touched": disks.touched,
    "displaced": disks.displaced,
    "devices": disks.devices,
    "rooms": usage.rooms,
    "usage": usage.usage,
    "unfinished": history.unfinished,
    "owed": history.owed,
    "webui": webui.settings,
    "login": webui.login,
    "comfy": comfy.tree,
    "comfy_before": comfy.before,
    "others_before": comfy.others_before,
    "overrides": comfy.overrides,
    "inside": inside.commands,
    "busy": busy.busy,
    "holder": holder.holder,
    "atlas": nfs.atlas,
    "sources": sources.sources,
    "clock": upkeep.clock,
    "journal": upkeep.journal,
    "upgrades": upkeep.upgrades,
    "custom_nodes": nodes.custom_nodes,
    "open_trees": exposure.open_trees,
    "secret_files": exposure.secret_files,
    "namespaces": exposure.namespaces,
    "addresses": network.addresses,
    "sockets": network.sockets,
    "datagrams": network.datagrams,
    "ssh_server": sshserver.server,
    "desktop": desktop.desktop,
    "virtual": virtual.virtual,
    "cards": cards.cards,
    "cdi": cards.cdi,
    "accounts": accounts.accounts,
    "drives": cards.drives,
}

# What only some commands ask for, by name: the others need not wait for it.
MORE: tuple[str, ...] = (
    *("packages", "kernels", "driver_offer", "atlas", "sources", "belongings"),
    *("addresses", "sockets", "datagrams", "ssh_server", "desktop", "virtual", "cards", "cdi", "accounts", "drives"),
    *("clock", "journal", "upgrades", "custom_nodes", "open_trees", "secret_files", "namespaces"),
)

SLOW = {"driver_offer": 9.0, "belongings": 24.0}  # seconds, for a part that needs more than work.PART_S

TABLES = ("units", "installed", "beneath", "stacked", "touched", "inside", "overrides", "others_before", "open_trees")


def main(spec: Object, stdin: BinaryIO, stdout: TextIO) -> int:
    """Gathers and prints one frame. Returns the exit status; on a host it ends the process itself, since a thread may
    be stuck."""
    del stdin
    stdout.write(json.dumps({"frame": "evidence", "evidence": collect(spec)}, separators=(",", ":")) + "\n")
    stdout.flush()
    work.end_commands()
    if work.is_own(stdout):
        os._exit(0)
    return 0


def collect(spec: Object) -> Object:
    """The document: see evidence.Evidence for its shape and questions.matters for `spec`."""
    began = time.monotonic()
    root = str(spec.get("root") or "")
    end = began + float(spec.get("deadline_s") or 10)
    if not root:
        widen_path()
    wanted = spec.get("parts") or [name for name in PARTS if name not in MORE or name in (spec.get("more") or ())]
    parts = {name: Part(name, PARTS[name], spec, root, deadline_s=SLOW.get(name)) for name in wanted}
    document: Object = {"schema": SCHEMA, **{name: part.result(end) for name, part in parts.items()}}
    for name in TABLES:  # one that failed as a whole says nothing of any entry in it
        value = document.get(name)
        if isinstance(value, dict) and set(value) == {"unknown"}:
            document[name] = dict.fromkeys(spec.get(name) or (), value)
    document["took_s"] = round(time.monotonic() - began, 4)
    return document
