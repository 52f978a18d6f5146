"""Whether the host is looked after: its clock, its journal, what apt does by itself, ComfyUI's custom nodes."""

from __future__ import annotations

import re

from pantheon import layout
from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import on
from pantheon.facts import Unknown
from pantheon.incident import Case
from pantheon.upkeep import Clock, CustomNode, Journal, Upgrades

SOURCE = "practice"
JOURNAL_SHARE = 5  # a journal may take a fifth of its file system; journald's own default is a tenth, 4 GiB at most
JOURNAL_LEAST = 4 << 30
DRIVER = re.compile(r"(?:lib)?nvidia-(?!container)|linux-modules-nvidia")
# What `prereqs --install` holds (`holds` in install/docker.py, toolkit.py and driver.py): the rest comes with these.
HELD = (
    r"docker-ce(-cli)?|docker\.io|containerd(\.io)?|nvidia-container-toolkit"
    r"|(nvidia-driver|nvidia-dkms|libnvidia-compute)-{branch}(-[a-z-]+)?"
)


def _unknown(case: Case, reason: str) -> Verdict:
    return Verdict("unknown", reason, f"invoke diagnose --host {case.host.name}")


def clock(case: Case) -> Verdict:
    seen = case.evidence.clock
    if not isinstance(seen, Clock):
        return _unknown(case, seen.reason if isinstance(seen, Unknown) else "it was not looked at")
    kept_by = ", ".join(seen.services)
    if seen.container:
        return Verdict("not applicable", f"this host is a container ({seen.container}): its clock is another machine's")
    if seen.synchronised:
        return Verdict("pass", f"synchronised{f' by {kept_by}' if kept_by else ''}")
    said = (
        f"{kept_by} runs, and the clock is not in step yet" if kept_by else "nothing keeps it: no service for that runs"
    )
    what = ("systemctl", "status", seen.services[0]) if seen.services else ("sudo", "timedatectl", "set-ntp", "true")
    return Verdict("fail", f"the kernel says that the clock is not synchronised; {said}", on(case, *what))


def reboot(case: Case) -> Verdict:
    text = case.evidence.reboot_required
    if isinstance(text, Unknown):
        return _unknown(case, text.reason)
    if text is None:
        return Verdict("pass", "no package asks for one")
    return Verdict("fail", text, f"invoke reboot --host {case.host.name}")


def journal(case: Case) -> Verdict:
    seen = case.evidence.journal
    if not isinstance(seen, Journal):
        return _unknown(case, seen.reason if isinstance(seen, Unknown) else "it was not looked at")
    if seen.storage in ("none", "volatile"):
        at = seen.storage_at or "/etc/systemd/journald.conf"
        mend = f"{on(case, 'sudoedit', at)}  (Storage=persistent)"
        lost = (
            "nothing that the host says is kept" if seen.storage == "none" else "what led to a reboot is gone with it"
        )
        return Verdict("fail", f"Storage={seen.storage} in {at}: {lost}", mend)
    if not seen.most:
        return Verdict("pass", "bounded by default: a tenth of its file system, 4 GiB at most")
    size = _size(seen.most, seen.total_bytes)
    most = max(JOURNAL_LEAST, seen.total_bytes // JOURNAL_SHARE)
    if size <= most:
        return Verdict("pass", f"SystemMaxUse={seen.most} ({seen.at})")
    said = f"SystemMaxUse={seen.most} in {seen.at}: more than a fifth of its file system ({seen.total_bytes >> 30} GiB)"
    return Verdict("fail", said, on(case, "sudoedit", seen.at))


def _size(text: str, total: int) -> int:
    """systemd's size in bytes; what cannot be read counts as no bound at all."""
    if text.endswith("%") and text[:-1].isdigit():
        return total * int(text[:-1]) // 100
    if text.isdigit():
        return int(text)
    found = re.fullmatch(r"(\d{1,12})([KMGTPE])", text)
    return int(found[1]) << 10 * ("KMGTPE".index(found[2]) + 1) if found else 1 << 80


def unattended(case: Case) -> Verdict:
    """unattended-upgrades takes Ubuntu's security pocket by default, and the driver comes from there; the engine and
    the toolkit of the vendors only where their origins were added."""
    seen = case.evidence.upgrades
    if isinstance(seen, Unknown):
        return _unknown(case, seen.reason)
    if seen is None or not seen.runs:
        return Verdict("pass", "nothing is upgraded without being asked for")
    touched = [name for name in seen.ours if name not in seen.held and not _listed(name, seen) and _reaches(name, seen)]
    if not touched:
        return Verdict("pass", "what the stack depends on is held, kept out, or comes from where it does not look")
    names = ", ".join(touched[:8]) + (f" and {len(touched) - 8} more" if len(touched) > 8 else "")
    origins = ", ".join(seen.origins)
    said = f"it may upgrade {names}: the running stack loses its engine or its GPU in the night (origins: {origins})"
    return Verdict("fail", said, on(case, "sudo", "apt-mark", "hold", *touched))


def _listed(name: str, seen: Upgrades) -> bool:
    """Its blacklist is of regular expressions, matched at the beginning of a name."""
    for pattern in seen.blacklist:
        try:
            if re.match(pattern, name):
                return True
        except re.error:
            if name.startswith(pattern):
                return True
    return False


def _reaches(name: str, seen: Upgrades) -> bool:
    origins = " ".join(seen.origins).lower()
    if "*" in origins:
        return True
    if name in ("docker.io", "containerd") or DRIVER.match(name):
        return "ubuntu" in origins or "distro_id" in origins or "debian" in origins
    return ("docker" in origins and name.startswith(("docker-", "containerd.io"))) or (
        "nvidia" in origins and "nvidia" in name
    )


def hold(case: Case) -> Verdict:
    if not case.host.install.hold:
        return Verdict("not applicable", "hosts.toml does not ask for it (install.hold)")
    seen = case.evidence.upgrades
    if isinstance(seen, Unknown):
        return _unknown(case, seen.reason)
    pattern = HELD.format(branch=re.escape(case.host.gpu.driver))
    wanted = [name for name in seen.ours if re.fullmatch(pattern, name)] if seen else []
    if seen is None or not wanted:
        return Verdict("not applicable", "none of them is a package of dpkg's")
    loose = [name for name in wanted if name not in seen.held]
    if loose:
        mend = f"invoke prereqs --install --host {case.host.name}"
        return Verdict("fail", f"not on hold: {', '.join(loose)}", mend)
    return Verdict("pass", f"on hold: {', '.join(wanted)}")


def custom_nodes(case: Case) -> Verdict:
    seen = case.evidence.custom_nodes
    if isinstance(seen, Unknown):
        return _unknown(case, seen.reason)
    if not seen:
        return Verdict("not applicable", "there are none")
    wrong = [f"{node.name}: {text}" for node in seen if (text := _loose(node))]
    if not wrong:
        return Verdict("pass", "\n".join(f"{node.name}: {node.commit[:10] or node.version}" for node in seen))
    places = f"{layout.comfy_mnt(case.host)}/ComfyUI/custom_nodes"
    first = next((node.name for node in seen if node.git and node.branch and _loose(node)), "")
    if not first:
        return Verdict("fail", "\n".join(wrong), "write down where each is from, or install it through ComfyUI-Manager")
    as_comfy = ("sudo", "setpriv", f"--reuid={layout.COMFY}", f"--regid={layout.COMFY}", "--clear-groups")
    command = (*as_comfy, "git", "-C", f"{places}/{first}", "checkout", "--detach")
    return Verdict("fail", "\n".join(wrong), on(case, *command))


def _loose(node: CustomNode) -> str:
    if not node.git:
        return "" if node.version else "neither a git checkout nor a version: nobody can say what it is"
    if isinstance(node.changed, int) and node.changed:
        files = f"{node.changed} file{'' if node.changed == 1 else 's'}"
        return f"{files} changed since its commit {node.commit[:10]}".rstrip()
    if node.branch:
        return f"on branch {node.branch} ({node.commit[:10] or 'no commit'}): the next update changes it"
    return "" if node.commit else "its commit cannot be told"


CONTROLS = (
    Control("upkeep.clock", "The clock is in step", "medium", SOURCE, clock),
    Control("upkeep.reboot", "No reboot is pending", "medium", SOURCE, reboot),
    Control("upkeep.journal", "The journal is kept, and bounded", "low", SOURCE, journal),
    Control(
        "upkeep.unattended", "Nothing upgrades the driver or the engine in the night", "medium", SOURCE, unattended
    ),
    Control("upkeep.hold", "What hosts.toml wants held is held", "medium", SOURCE, hold),
    Control(
        "upkeep.custom-nodes",
        "Each of ComfyUI's custom nodes is pinned to a commit or a version",
        "low",
        SOURCE,
        custom_nodes,
    ),
)
