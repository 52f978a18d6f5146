"""The storage model: mounts, directories, their owners, and that what matters is kept nowhere else (procedure §3)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from pantheon import attaching, layout
from pantheon.control import Control, Severity, Verdict
from pantheon.controls.verdicts import command, containers, missing, not_applicable, of, passed, remade, unknown
from pantheon.evidence import FstabLine, Room
from pantheon.facts import Container, Entry, Mount, Tree, Unknown
from pantheon.fixes import disk_pressure, mounts_missing
from pantheon.incident import Case
from pantheon.inventory import SERVICES
from pantheon.sections import storage

REMOTE = re.compile(r"nfs4?|cifs|smb3|smbfs|ceph|afs|glusterfs|9p|fuse\.(nfs.*|sshfs|glusterfs|cephfs|rclone|s3fs)")
UID_RULES = (
    "The procedure says that 1024:1024 cannot be bypassed. The image can be told otherwise (WANTED_UID), so it is a "
    "rule by policy; the procedure rules, and pantheon sets both to 1024."
)
LOCAL_RULES = (
    "The system page keeps the state of containers on /mnt/atlas/appdata, the procedure says local storage only. The "
    "procedure rules for the AI stack: it must run with Atlas down. Other services may use appdata."
)
HARMLESS_SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false", "")


def _root(name: str) -> Callable[[Case], Verdict]:
    def judge(case: Case) -> Verdict:
        verdict = of(case, storage.roots(case.host, case.facts), f"storage.{name}-root")
        if verdict.status != "pass":
            return verdict
        found = [f for f in mounts_missing.diagnose(case) if f.id == f"mounts-missing.{name}" and f.level == "fail"]
        return of(case, found, f"mounts-missing.{name}", otherwise=verdict)

    return judge


def at_boot(case: Case) -> Verdict:
    """A disk that somebody mounted by hand is gone after the next boot, and Docker makes empty directories there."""
    lines, host = case.evidence.fstab, case.host
    if not host.storage.require_mounts:
        return not_applicable("hosts.toml: storage.require_mounts = false")
    if not isinstance(lines, tuple):
        return unknown(lines)
    wrong: list[str] = []
    told: list[str] = []
    mend = ""
    for path, source in ((host.storage.nvme, host.storage.nvme_source), (host.storage.ssd, host.storage.ssd_source)):
        mine = [line for line in lines if line.target == path]
        line = next((one for one in mine if one.unit), mine[-1] if mine else None)
        by_pool = None if line else _by_its_pool(case, path)
        said = "" if by_pool else _at_boot(path, line)
        (wrong if said else told).append(said or f"{path}: {by_pool or _where(line)}")
        mend = mend or (_into_fstab(case, path, source, line) if said else "")
    if wrong:
        return Verdict("fail", "\n".join(wrong), mend)
    return passed("\n".join(told))


def _by_its_pool(case: Case, path: str) -> str:
    """ZFS mounts its file systems itself, at the boot too."""
    mounts = case.facts.mounts if isinstance(case.facts.mounts, tuple) else ()
    row = next((one for one in reversed(mounts) if one.target == path), None)
    return f"{row.source} by ZFS" if row and row.fstype == "zfs" else ""


def _into_fstab(case: Case, path: str, source: str, line: FstabLine | None) -> str:
    """What is mounted now, and nothing mounts at a boot, gets a line by hand: `invoke storage` writes those of disks
    that it mounts."""
    mounts = case.facts.mounts if isinstance(case.facts.mounts, tuple) else ()
    row = next((one for one in mounts if one.target == path), None)
    if line is not None:
        return case.host.ssh("sudoedit /etc/fstab") if line.there is not False else command(case, "fix.mounts-missing")
    if row is None:
        return command(case, "storage") if source else command(case, "fix.mounts-missing")
    write = "sudo tee -a /etc/fstab && sudo systemctl daemon-reload"
    if source:
        return case.host.ssh(f"echo {shlex.quote(attaching.line(source, path, row.fstype))} | {write}")
    tail = attaching.line("", path, row.fstype).lstrip()
    uuid = f"uuid=$(findmnt -no UUID --mountpoint {shlex.quote(path)})"
    return case.host.ssh(f'{uuid} && [ -n "$uuid" ] && echo "UUID=$uuid {tail}" | {write}')


def _where(line: FstabLine | None) -> str:
    return f"{line.source} by {line.unit or '/etc/fstab'}" if line else "nowhere"


def _at_boot(path: str, line: FstabLine | None) -> str:
    if line is None:
        return f"{path} is neither in /etc/fstab nor a mount unit: it is gone after the next boot"
    if line.there is False:
        return f"{path}: {line.source} ({line.unit or '/etc/fstab'}) is not there"
    if not line.comes:
        return f"{path}: /etc/fstab says noauto: it is not mounted at the boot"
    return ""


def _directory(name: str) -> Callable[[Case], Verdict]:
    key = f"storage.{name}"

    def judge(case: Case) -> Verdict:
        verdict = of(case, [f for f in storage.check(case.host, case.facts) if f.id == key], key)
        directory = next(one for one in layout.directories(case.host) if one.name == name)
        tree = case.facts.trees.get(directory.path)
        if verdict.status == "fail" and directory.path not in verdict.evidence:
            return Verdict("fail", f"{directory.path}: {verdict.evidence}", verdict.mend)
        if verdict.status != "pass" or not directory.tree_owner:
            return verdict
        if isinstance(tree, Unknown) or tree is None:
            return unknown(missing(tree, f"what is in {directory.path} was not looked at"))
        return passed(f"{_owner(case, directory.path)}; {_seen(tree)}")

    return judge


def _owner(case: Case, path: str) -> str:
    entry = case.facts.paths.get(path)
    return f"{path} {entry.uid}:{entry.gid} {entry.mode:o}" if isinstance(entry, Entry) else path


def _seen(tree: Tree) -> str:
    whole = "all in it belongs to the same" if tree.complete else "the beginning of what is in it belongs to the same"
    return whole + ("" if tree.complete else " (it is too large to be looked through whole)")


def models_read_only(case: Case) -> Verdict:
    everything, path = containers(case), layout.models(case.host)
    if everything is None:
        return unknown(case.facts.containers)
    at = [(c, m) for c in everything for m in c.mounts
          if m.type == "bind" and f"{m.source}/".startswith(f"{path}/")]  # fmt: skip
    wrong = [(one, mount) for one, mount in at if mount.writable]
    if wrong:
        told = "\n".join(f"{one.name}: {mount.source} at {mount.target} is writable" for one, mount in wrong)
        return Verdict("fail", told, remade(case, (one for one, _ in wrong)))
    if not at:
        return not_applicable(f"no container has {path} mounted")
    return passed("no container can write to the shared models")


def local(case: Case) -> Verdict:
    """§3: AI workloads use local storage only."""
    everything, mounts = containers(case), case.facts.mounts
    host, places = case.host, []
    if not isinstance(mounts, tuple):
        return unknown(mounts)
    if everything is None:
        return unknown(case.facts.containers)
    for path in (host.storage.nvme, host.storage.ssd, *(d.path for d in layout.directories(host))):
        places.append(("the storage model", path))
    for container in (c for c in everything if _of_the_stack(case, c)):
        places += [(container.name, mount.source) for mount in container.mounts if mount.source.startswith("/")]
    found = {(who, lies.target, lies.source, lies.fstype) for who, path in places
             if (lies := mount_of(mounts, path)) and REMOTE.fullmatch(lies.fstype)}  # fmt: skip
    if found:
        told = "\n".join(f"{who}: {target} is {fstype} from {source}" for who, target, source, fstype in sorted(found))
        return Verdict("fail", told, command(case, "bringup"))
    return passed("the storage model and all that the services mount lie on local disks")


def mount_of(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """The mount that `path` lies on; of two at one place the later."""
    above = [one for one in mounts if f"{path}/".startswith(f"{one.target.rstrip('/')}/")]
    return max(reversed(above), key=lambda one: len(one.target), default=None)


def _of_the_stack(case: Case, container: Container) -> bool:
    return container.name in SERVICES or container.labels.get("pantheon.project") == case.host.project


def state(case: Case) -> Verdict:
    """Prometheus can be rebuilt because nothing that a service writes lies outside the storage model."""
    everything = containers(case)
    if everything is None:
        return unknown(case.facts.containers)
    mine = [c for c in everything if _of_the_stack(case, c)]
    if not mine:
        return not_applicable("there is no container of the stack")
    inside = tuple(f"{root}/ai/" for root in (case.host.storage.nvme, case.host.storage.ssd))
    wrong: list[tuple[Container, str]] = []
    for container in mine:
        for mount in container.mounts:
            if mount.type == "volume":
                what = f"volume {mount.name[:12]}" if mount.name else "a volume"
                wrong.append((container, f"{mount.target} is {what}, in Docker's own directory"))
            elif mount.type == "bind" and mount.writable and not f"{mount.source}/".startswith(inside):
                wrong.append((container, f"{mount.target} is {mount.source}, outside the storage model"))
    if wrong:
        told = "\n".join(f"{one.name}: {text}" for one, text in wrong)
        return Verdict("fail", told, remade(case, (one for one, _ in wrong)))
    return passed("what the services write lies in the storage model")


def pressure(case: Case) -> Verdict:
    rooms = case.evidence.rooms
    if not isinstance(rooms, tuple):
        return unknown(rooms, mend=command(case, "fix.disk-pressure"))
    found = disk_pressure.diagnose(case)
    if found:  # one that is only tight is the time to be told
        told = [finding.text for finding in found]
        return Verdict("fail", "\n".join(dict.fromkeys(told)), command(case, "fix.disk-pressure"))
    return passed("; ".join(_free(room) for room in rooms))


def _free(room: Room) -> str:
    """In steps: two audits are compared by what they say."""
    share = 100 * room.free_bytes // room.total_bytes if room.total_bytes else 0
    return f"{room.mount} has more than {share // 10 * 10} % free" if share >= 10 else f"{room.mount} is tight"


def uid(case: Case) -> Verdict:
    """Who logs in under the number of ComfyUI's files can change them, and what he makes passes for ComfyUI's."""
    found = case.evidence.accounts
    if not isinstance(found, tuple):
        return unknown(found)
    mine = [one for one in found if one.number == layout.COMFY]
    people = [one for one in mine if not one.group and one.shell not in HARMLESS_SHELLS]
    if people:
        names = ", ".join(f"{one.name} ({one.shell})" for one in people)
        text = f"UID {layout.COMFY}, which owns ComfyUI's files, is the login of {names}"
        first = people[0].name
        return Verdict("fail", text, f"on {case.host.name}: give {first} another UID (sudo usermod -u NUMBER {first})")
    if mine:
        told = ", ".join(f"{'group' if one.group else 'user'} {one.name}" for one in mine)
        return passed(f"{layout.COMFY} is {told}, without a login")
    return passed(f"no user and no group of the host has the number {layout.COMFY}")


DIRECTORIES: tuple[tuple[str, str, str, Severity, str], ...] = (
    ("nvme", "nvme-ai", "The directory ai/ is on the NVMe root", "medium", "§3.1"),
    ("cache", "cache", "cache/ is there", "low", "§3.1"),
    ("models", "models", "models/ belongs to root and the group docker", "medium", "§3.1"),
    ("services", "services", "services/ is there", "medium", "§3.1"),
    ("comfy-mnt", "comfy-mnt", "comfy-mnt and all in it belong to 1024:1024, mode 775", "high", "§3.1, §6"),
    ("ollama", "ollama", "Ollama's directory is there", "medium", "§3.1"),
    ("ssd", "ssd-ai", "The directory ai/ is on the SSD root", "medium", "§3.2"),
    ("outputs", "outputs", "outputs/ is there", "medium", "§3.2"),
    ("outputs/comfy", "outputs-comfy", "ComfyUI's outputs belong to 1024:1024", "medium", "§3.2"),
    ("projects", "projects", "projects/ is there", "medium", "§3.2"),
    ("projects/openwebui", "projects-openwebui", "Open WebUI's directory is there", "medium", "§3.2"),
)

CONTROLS = (
    Control("storage.nvme-root", "The NVMe root is mounted, local and writable", "high",
            "procedure §3.1", _root("nvme")),
    Control("storage.ssd-root", "The SSD root is mounted, local and writable", "high", "procedure §3.2", _root("ssd")),
    Control("storage.at-boot", "Both roots are mounted again at the next boot", "high", "procedure §3", at_boot),
    *(
        Control(f"storage.{key}", title, severity, f"procedure {section}", _directory(name),
                UID_RULES if name == "comfy-mnt" else "")
        for name, key, title, severity, section in DIRECTORIES
    ),
    Control("storage.models-read-only", "The shared models are read-only to services", "medium",
            "procedure §3.1; system page, Security Posture", models_read_only),
    Control("storage.local", "The AI stack uses local storage only", "high", "procedure §3", local,
            LOCAL_RULES),
    Control("storage.state", "What services write lies in the storage model, so that the host can be rebuilt", "medium",
            "procedure §1, §3; system page, Role in Pantheon", state, LOCAL_RULES),
    Control("storage.pressure", "No disk of the stack is short of room", "high", "system page, Monitoring", pressure),
    Control("storage.uid", "The number 1024 is nobody's login", "medium",
            "procedure §6.1; system page, Known Limitations", uid, UID_RULES),
)  # fmt: skip
