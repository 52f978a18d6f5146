"""ComfyUI's first run broke off, or what it made is of no use any more: the clone, the virtual environment, a package.

Procedure §7. The least is mended: what can be made again is set aside, never deleted, and made again by the image; what
people have put into ComfyUI is brought back by a hook at the next start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pantheon import firstrun, layout, service, starting
from pantheon.evidence import ComfyTree
from pantheon.facts import Container, Entry, Nvml, Space, TextFile, Unknown
from pantheon.finding import Finding
from pantheon.incident import Case, command
from pantheon.plan import Change, Guard, Mend, SectionPlan, Step, Write

ID = "comfy-first-run"
CAUSE = (
    "The image clones ComfyUI and fills a virtual environment when it starts for the first time. When that is cut "
    "short, half of it is left, and every later start trips over it; so does one over an environment that was made for "
    "another CUDA or another Python."
)
RISK = (
    "Stops ComfyUI, which is failing, and starts it again: 1-2 minutes, or 10-20 where the environment is made anew. A "
    "broken clone or environment is renamed, never deleted; custom nodes, user, models, input and output come back."
)
SOURCE = "procedure §7, §9"
GIB = 1 << 30

NETWORK = re.compile(
    r"Could not resolve (host|proxy)|Temporary failure in name resolution|Name or service not known|ProxyError"
    r"|NewConnectionError|ConnectTimeoutError|ReadTimeoutError|[Rr]ead(ing)? (operation )?timed out"
    r"|[Cc]onnection (timed out|refused|reset|was reset|aborted)|Network is unreachable|No route to host"
    r"|ConnectionResetError|RemoteDisconnected|Remote end closed connection|remote end hung up unexpectedly"
    r"|SSLError|CERTIFICATE_VERIFY_FAILED|server certificate verification failed|SSL certificate problem"
    r"|gnutls_handshake\(\) failed|TLS connection was non-properly terminated|(code|error:) 407|Tunnel connection fail"
    r"|RPC failed; |fatal: early EOF|invalid index-pack output|The requested URL returned error: (429|5\d\d)"
    r"|HTTP error (429|5\d\d)|incomplete-download|IncompleteRead|Failed to connect to \S+ port"
    r"|error sending request for url|dns error:|failed to lookup address information|operation timed out"  # uv's words
)
ADVICE = (
    (
        re.compile(r"resolv|Name or service|name resolution|dns error|lookup address"),
        "the host's name server (resolvectl query github.com)",
    ),
    (re.compile(r"proxy|407|Tunnel connection", re.IGNORECASE), "the proxy: HTTPS_PROXY in hosts.toml, comfy.env"),
    (
        re.compile(r"SSL|TLS|certificate", re.IGNORECASE),
        "the host's clock (timedatectl) and what stands between it and TLS",
    ),
)
CUDA = re.compile(
    r"compiled with different CUDA major versions|Torch not compiled with CUDA enabled"
    r"|\blib(cudart|cublas|cudnn|nccl|cusparse|nvrtc)\w*\.so\S*: cannot open shared object file"
    r"|torchvision::nms does not exist"
)
NO_MODULE = re.compile(r"No module named '?([A-Za-z_][\w.]*)")
DEAD_VENV = re.compile(
    r"virtualenv not created, please erase|Virtualenv activation failed"
    r"|error: externally-managed-environment"  # pip of the image itself: the venv's own is not found
    r"|/comfy/mnt/venv/bin/\S*: ?(bad interpreter|cannot execute|No such file)|venv/bin/\S+: .*bad interpreter"
)
PYTHON_ENDED = "ComfyUI failed or exited with an error"
SIGNS = re.compile("|".join(("fatal: not a git repository", CUDA.pattern, NO_MODULE.pattern, DEAD_VENV.pattern)))
GAVE_UP = re.compile(
    r"!! ERROR: (ComfyUI(-Manager)? clone failed|Virtualenv creation failed|Pip upgrade failed"
    r"|Torch installation failed|Failed to (un)?install|ComfyUI requirements|HuggingFace Hub"
    r"|ComfyUI Manager requirements|ComfyUI-Manager CLI requirements|uv not found)"
)

KEPT_SCRIPT = """\
#!/bin/bash
# Written by pantheon (fix.comfy-first-run). Brings back what people had put into a ComfyUI that was set aside as
# broken: whatever the new one does not have. Runs at every start; each ComfyUI set aside is gone through once.
shopt -s nullglob dotglob
new=/comfy/mnt/ComfyUI

bring() { # from, to
    local one to
    for one in "$1"/*; do
        to=$2/${one##*/}
        if [ ! -e "$to" ] && [ ! -L "$to" ]; then
            mv -n -- "$one" "$to" && echo "kept files: ${to#/comfy/mnt/}"
        elif [ -d "$one" ] && [ ! -L "$one" ] && [ -d "$to" ] && [ ! -L "$to" ]; then
            bring "$one" "$to"
        fi
    done
}

for old in /comfy/mnt/ComfyUI.broken-*/; do
    old=${old%/}
    [ ! -L "$old" ] && [ ! -e "$old/.brought-back" ] && [ -d "$new" ] || continue
    for name in custom_nodes user models input output; do
        [ -d "$old/$name" ] && [ ! -L "$old/$name" ] && mkdir -p -- "$new/$name" && bring "$old/$name" "$new/$name"
    done
    for name in extra_model_paths.yaml .env; do
        [ -f "$old/$name" ] && [ ! -e "$new/$name" ] && mv -n -- "$old/$name" "$new/$name"
    done
    : >"$old/.brought-back"
done
exit 0
"""


@dataclass(frozen=True)
class Trouble:
    """A cause and what is set aside for it. `by_hand`: a human must do something first."""

    finding: Finding
    clone: str = ""  # "empty", "aside"
    venv: bool = False
    modules: tuple[str, ...] = field(default_factory=tuple)


def diagnose(case: Case) -> list[Finding]:
    return [trouble.finding for trouble in _troubles(case)]


def plan(case: Case) -> SectionPlan:
    troubles = [trouble for trouble in _troubles(case) if trouble.finding.level == "fail"]
    container = starting.ours(case)
    if not troubles or container is None:
        return SectionPlan(ID, reason="ComfyUI's first run is done, or under way")
    host, facts = case.host, case.facts
    modules = tuple(dict.fromkeys(name for trouble in troubles for name in trouble.modules))
    clone = next((trouble.clone for trouble in troubles if trouble.clone), "")
    venv = any(trouble.venv for trouble in troubles)
    if (venv or modules) and (frozen := _frozen(case)):
        return SectionPlan(ID, blocked=(frozen,))
    if venv and (full := _no_room(case)):
        return SectionPlan(ID, blocked=(full,))
    files, start = service.common(host, facts), service.plan(host, facts, "comfy", anew="to go on with its first run")
    if files.blocked or start.blocked:
        return SectionPlan(ID, blocked=tuple(dict.fromkeys(files.blocked + start.blocked)))
    changes: list[Change] = []
    if container.state in ("running", "restarting", "paused"):
        changes.append(service.stop(container))
    changes += [*_keep(case), *_set_aside(case, clone, venv, modules)] if clone or venv or modules else []
    return SectionPlan(ID, (*changes, *files.changes, *start.changes), starts=("comfy",))


# ---- what is wrong


def _troubles(case: Case) -> list[Trouble]:
    container, tree = starting.ours(case), case.evidence.comfy
    if container is None or starting.is_well(container) or not _is_mounted(case):
        return []
    lines = starting.lines(case, container)
    failing, cut_short = starting.is_failing(case, container), _cut_short(container, tree)
    if not failing and not cut_short:
        return []  # under way, or stopped by somebody who may start it again
    words = starting.last_words(case, container)
    found: list[Trouble] = []
    if isinstance(tree, ComfyTree):
        found = [*_clone(case, tree), *_venv(case, tree, lines), *_modules(case, tree, words)]
        found = [t for t in found if not t.modules] if any(t.venv for t in found) else found
    if not found and (said := next((line for line in lines if NETWORK.search(line)), "")) and _gave_up(lines):
        found = [_network(case, said)]
    if not found and (gave_up := _gave_up(lines)):
        text = "ComfyUI's first run gave up; nothing broken is left of it, and it can be tried again"
        found = [_trouble(case, "gave-up", text, "; ".join((*words[-2:-1], gave_up)))]
    if not found and isinstance(tree, Unknown) and any(SIGNS.search(line) for line in lines):
        text = "whether ComfyUI's clone and virtual environment are whole: not known"
        found = [Trouble(Finding(f"{ID}.tree", "unknown", text, tree.reason, source=SOURCE))]
    if not found and cut_short:
        assert isinstance(tree, ComfyTree)
        text = "ComfyUI's first run was cut short, and its container does not run"
        found = [_trouble(case, "cut-short", text, f"clone {tree.clone}, venv {tree.venv}")]
    return found


def _clone(case: Case, tree: ComfyTree) -> list[Trouble]:
    place = f"{layout.comfy_mnt(case.host)}/ComfyUI"
    if tree.clone == "empty":
        text = "ComfyUI/ is empty, so the image does not clone into it, and takes it for no git repository"
        return [_trouble(case, "clone-empty", text, place, clone="empty")]
    if tree.clone == "broken":
        text = "ComfyUI/ is no complete clone: it was cut short, or something in it was removed"
        return [_trouble(case, "clone", text, f"{place}: {tree.clone_detail or 'no directory'}", clone="aside")]
    return []


def _venv(case: Case, tree: ComfyTree, lines: list[str]) -> list[Trouble]:
    place = f"{layout.comfy_mnt(case.host)}/venv"
    dead = next((line for line in lines if DEAD_VENV.search(line)), "")
    if tree.venv == "broken" or (dead and tree.venv == "complete"):
        text = "the virtual environment is broken: cut short, or made for another Python than the image has now"
        return [_trouble(case, "venv", text, f"{place}: {tree.venv_detail or dead}", venv=True)]
    said = next((line for line in lines if CUDA.search(line)), "")
    if tree.venv == "complete" and (said or _mixed(tree) or _too_new(case, tree)):
        text = "the virtual environment is of another CUDA than the image and the driver"
        nvml = case.facts.nvml
        driver = f", driver CUDA {nvml.cuda}" if isinstance(nvml, Nvml) else ""
        evidence = f"{', '.join(tree.torch)}; image {case.host.comfy.image.rpartition(':')[2]}{driver}"
        return [_trouble(case, "venv-cuda", text, "; ".join(part for part in (evidence, said) if part), venv=True)]
    return []


def _mixed(tree: ComfyTree) -> bool:
    """Packages of torch that were built for CUDAs of different major versions."""
    return len({found[1][:-1] for version in tree.torch if (found := re.search(r"\+cu(\d+)", version))}) > 1


def _too_new(case: Case, tree: ComfyTree) -> bool:
    """torch is built for a CUDA whose major version the driver does not have, while the image would fit."""
    nvml, image = case.facts.nvml, re.search(r"cuda(\d+)", case.host.comfy.image)
    if not tree.venv_cuda or not isinstance(nvml, Nvml) or not nvml.cuda or not image:
        return False
    has, driver = int(tree.venv_cuda.split(".")[0]), int(nvml.cuda.split(".")[0])
    return has > driver and int(image[1]) <= driver


def _modules(case: Case, tree: ComfyTree, words: list[str]) -> list[Trouble]:
    # What a custom node lacks is said long before the end, and ComfyUI runs without that node.
    said = [found[1] for line in words if "custom_nodes" not in line and (found := NO_MODULE.search(line))]
    other = firstrun.read(words)  # an end of another kind: what lacks is not why
    gone = tree.missing_modules if said or not other.fatal or PYTHON_ENDED in other.fatal else ()
    names = tuple(dict.fromkeys((*gone, *said[-1:])))
    if tree.venv != "complete" or not names:
        return []
    text = f"the virtual environment lacks {', '.join(names)}, which pip takes for installed"
    line = next((line for line in words if NO_MODULE.search(line)), f"{layout.comfy_mnt(case.host)}/venv")
    return [_trouble(case, "modules", text, line, modules=names)]


def _network(case: Case, said: str) -> Trouble:
    what = next((advice for pattern, advice in ADVICE if pattern.search(said)), "the host's way to the internet")
    text = f"ComfyUI's first run could not download what it needs: look at {what}; then the fix tries again"
    return _trouble(case, "network", text, said)


def _trouble(
    case: Case,
    name: str,
    text: str,
    evidence: str,
    *,
    clone: str = "",
    venv: bool = False,
    modules: tuple[str, ...] = (),
) -> Trouble:
    explains = ("comfy.*", "browser-access.comfy*", "wrong-version-number.comfy*")
    finding = Finding(f"{ID}.{name}", "fail", text, evidence, command(case, ID), SOURCE, explains)
    return Trouble(finding, clone, venv, modules)


# ---- what is there


def _is_mounted(case: Case) -> bool:
    """Else what lies there is not comfy-mnt but what stands in its place: mounts-missing."""
    entry = case.facts.paths.get(case.host.storage.nvme)
    return isinstance(entry, Entry) and (entry.is_mount or not case.host.storage.require_mounts)


def _cut_short(container: Container, tree: object) -> bool:
    """It has been started, does not run, and has not come to the end of its first run."""
    stopped = container.state == "exited" and not container.error
    return stopped and isinstance(tree, ComfyTree) and {tree.clone, tree.venv} & {"missing", "empty", "broken"} != set()


def _gave_up(lines: list[str]) -> str:
    return next((line for line in lines if GAVE_UP.search(line)), "")


# ---- what mends it


def _frozen(case: Case) -> Finding | None:
    """The image is told to install nothing: what is set aside would not come back."""
    if case.host.comfy.env.get("DISABLE_UPGRADES", "").strip().lower() != "true":
        return None
    text = "hosts.toml has DISABLE_UPGRADES = true (comfy.env), so the image installs nothing that lacks"
    mend = f"take it out of hosts.toml, then: {command(case, ID)}; when ComfyUI runs it can go back in"
    return Finding(f"{ID}.disable-upgrades", "fail", text, "", mend, SOURCE)


def _no_room(case: Case) -> Finding | None:
    """A new environment needs as much room as the old one, which is kept."""
    space, need = case.facts.spaces.get(case.host.storage.nvme), case.host.comfy.data_gib
    if not isinstance(space, Space) or space.free_bytes >= need * GIB:
        return None
    text = f"a new virtual environment needs {need:g} GiB, and {space.free_bytes / GIB:.1f} GiB are free"
    mend = command(case, "disk-pressure")
    return Finding(f"{ID}.room", "fail", text, case.host.storage.nvme, mend, SOURCE)


def _set_aside(case: Case, clone: str, venv: bool, modules: tuple[str, ...]) -> list[Change]:
    mnt = layout.comfy_mnt(case.host)
    does = {"empty": "the empty ComfyUI/ goes", "aside": "ComfyUI/ becomes ComfyUI.broken-DATE"}
    parts = [does[clone]] if clone else []
    parts += ["venv/ becomes venv-broken-DATE"] if venv else []
    parts += [f"pip's record of {', '.join(modules)} is set aside"] if modules and not venv else []
    guards = tuple(
        Guard("path", f"{mnt}/{name}", case.facts.reading("path", f"{mnt}/{name}"))
        for name, applies in (("ComfyUI", clone), ("venv", venv or modules))
        if applies
    )
    arguments: dict[str, object] = {"path": mnt, "uid": layout.COMFY, "gid": layout.COMFY, "clone": clone}
    arguments |= {"venv": "aside" if venv else "", "modules": list(modules)}
    what = "; ".join(parts)
    step = Mend("comfy_tree", arguments, f"{mnt}: {what}; nothing that holds anything is deleted", guards=guards)
    return [Change(what, "the image makes it again at its start (§7)", (step,))]


def _keep(case: Case) -> list[Change]:
    """The hook that brings back what people had put into a ComfyUI that is set aside; written ahead of that."""
    tree, path = case.evidence.comfy, layout.kept_script(case.host)
    if not isinstance(tree, ComfyTree) or tree.clone != "broken":
        return []
    file = case.facts.files.get(path)
    before = file.text or "" if isinstance(file, TextFile) else ""
    if isinstance(file, TextFile) and (before, file.mode, file.uid) == (KEPT_SCRIPT, 0o755, 0):
        return []
    guard = Guard("sha256", path, case.facts.reading("sha256", path))
    step: Step = Write(path, KEPT_SCRIPT, 0o755, before=before, guards=(guard,))
    why = "custom nodes, user, models, input and output come back into the new clone at its first start"
    return [Change("a hook that brings back kept files", why, (step,), sign="+")]
