from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pantheon import layout
from pantheon.evidence import ComfyTree
from pantheon.facts import Facts, Space, Unknown
from pantheon.finding import Finding
from pantheon.fixes import comfy_first_run as fix
from pantheon.plan import Mend, SectionPlan, Write
from tests.unit.world import HOST, case, container, entry, finished, having, text_file

GOOD = ComfyTree("complete", "complete", venv_python="3.12", venv_cuda="13.0", torch=("torch 2.9.1+cu130",))
NOT_GIT = "fatal: not a git repository (or any parent up to mount point /comfy)"
FAILED = "!! ERROR: ComfyUI failed or exited with an error"
MIXED = "RuntimeError: Detected that PyTorch and torchvision were compiled with different CUDA major versions."
LOOP: dict[str, Any] = {"state": "restarting", "health": "starting", "restarts": 4}
ENDED: dict[str, Any] = {"state": "exited", "health": None, "exit_code": 137}
OFFLINE = (
    "fatal: unable to access 'https://github.com/Comfy-Org/ComfyUI.git/': Could not resolve host: github.com",
    "!! ERROR: ComfyUI clone failed",
)


def failing(*log: str, **changes: Any) -> Facts:
    return having(finished(), comfy=container(HOST, "comfy", **{**LOOP, "log": log, "log_markers": log, **changes}))


def tree(**changes: Any) -> ComfyTree:
    return replace(GOOD, **changes)


def found(facts: Facts, comfy: object) -> list[Finding]:
    return fix.diagnose(case(facts, comfy=comfy))


def ids(facts: Facts, comfy: object) -> list[str]:
    return [finding.id.partition(".")[2] for finding in found(facts, comfy)]


def plan(facts: Facts, comfy: object) -> SectionPlan:
    return fix.plan(case(facts, comfy=comfy))


def arguments(facts: Facts, comfy: object) -> dict[str, Any]:
    steps = [step for change in plan(facts, comfy).changes for step in change.steps if isinstance(step, Mend)]
    assert len(steps) <= 1
    return {k: v for k, v in steps[0].arguments.items() if k in ("clone", "venv", "modules") and v} if steps else {}


CAUSES: dict[str, tuple[Facts, object, list[str], dict[str, Any]]] = {
    "healthy": (finished(), GOOD, [], {}),
    "healthy, in spite of what it looks like": (finished(), tree(clone="broken", venv_cuda="12.8"), [], {}),
    "an empty clone": (failing(NOT_GIT), tree(clone="empty"), ["clone-empty"], {"clone": "empty"}),
    "between two starts": (failing(), tree(clone="empty"), ["clone-empty"], {"clone": "empty"}),
    "a broken clone": (failing(NOT_GIT), tree(clone="broken"), ["clone"], {"clone": "aside"}),
    "a broken clone, stopped": (
        having(finished(), comfy=container(HOST, "comfy", **ENDED)),
        tree(clone="broken"),
        ["clone"],
        {"clone": "aside"},
    ),
    "a broken venv": (failing(), tree(venv="broken", venv_detail="no bin/activate"), ["venv"], {"venv": "aside"}),
    "another Python": (
        failing("/comfy/mnt/venv/bin/pip3: bad interpreter: No such file or directory"),
        GOOD,
        ["venv"],
        {"venv": "aside"},
    ),
    "a user script of DOS": (failing("/userscripts_dir/x.sh: cannot execute: required file not found"), GOOD, [], {}),
    "two CUDAs": (
        failing(MIXED, FAILED),
        tree(torch=("torch 2.10.0+cu128", "torchvision 0.24.1+cu130")),
        ["venv-cuda"],
        {"venv": "aside"},
    ),
    "two CUDAs, between two starts": (
        failing(),
        tree(torch=("torch 2.10.0+cu128", "torchvision 0.24.1+cu130")),
        ["venv-cuda"],
        {"venv": "aside"},
    ),
    "one major version of CUDA": (failing(), tree(torch=("torch 2.9+cu128", "torchvision 0.2+cu126")), [], {}),
    "a library of another CUDA": (
        failing("ImportError: libcudart.so.12: cannot open shared object file: No such file or directory", FAILED),
        GOOD,
        ["venv-cuda"],
        {"venv": "aside"},
    ),
    "a library of something else": (failing("ImportError: libGL.so.1: cannot open shared object file"), GOOD, [], {}),
    "a CUDA newer than the driver's": (failing(), tree(venv_cuda="14.0"), ["venv-cuda"], {"venv": "aside"}),
    "an older CUDA": (failing(), tree(venv_cuda="12.8"), [], {}),
    "a package half there": (
        failing("ModuleNotFoundError: No module named 'aiohttp'", FAILED),
        tree(missing_modules=("aiohttp",)),
        ["modules"],
        {"modules": ["aiohttp"]},
    ),
    "a package that the log names": (
        failing("== Running ComfyUI", "Traceback", "ModuleNotFoundError: No module named 'torch.utils'", FAILED),
        GOOD,
        ["modules"],
        {"modules": ["torch.utils"]},
    ),
    "no pip": (
        failing("/comfy/mnt/venv/bin/python3: No module named pip", "!! ERROR: Pip upgrade failed"),
        GOOD,
        ["modules"],
        {"modules": ["pip"]},
    ),
    "a custom node that lacks something": (
        failing("Cannot import /comfy/mnt/ComfyUI/custom_nodes/x module for custom nodes: No module named 'x'", FAILED),
        GOOD,
        [],
        {},
    ),
    "something lacking, long before another end": (
        failing("ModuleNotFoundError: No module named 'x'", *"abcdef", FAILED),
        GOOD,
        [],
        {},
    ),
    "offline": (failing(*OFFLINE), tree(clone="missing", venv="missing"), ["network"], {}),
    "gave up": (failing("x", "!! ERROR: Torch installation failed"), GOOD, ["gave-up"], {}),
    "cut short": (
        having(finished(), comfy=container(HOST, "comfy", **ENDED)),
        tree(clone="complete", venv="missing"),
        ["cut-short"],
        {},
    ),
    "could not be started at all": (
        having(finished(), comfy=container(HOST, "comfy", **ENDED, error="could not select device driver")),
        tree(clone="missing", venv="missing"),
        [],
        {},
    ),
    "stopped by somebody": (having(finished(), comfy=container(HOST, "comfy", **ENDED)), GOOD, [], {}),
    "under way": (
        having(finished(), comfy=container(HOST, "comfy", health="starting", log=("Downloading torch",))),
        tree(venv="missing"),
        [],
        {},
    ),
    "under way, git at work": (
        having(finished(), comfy=container(HOST, "comfy", health="starting", log=("== Cloning ComfyUI",))),
        tree(clone="broken", venv="missing"),
        [],
        {},
    ),
    "ownership": (failing("!! ERROR: Directory /comfy/mnt not writeable"), GOOD, [], {}),
    "no card": (failing("!! ERROR: Failed to run nvidia-smi"), tree(clone="missing", venv="missing"), [], {}),
    "a user's script": (failing("!! ERROR: User script (/comfy/mnt/user_script.bash) failed"), GOOD, [], {}),
    "not looked into": (failing("x"), Unknown("hangs"), [], {}),
    "a link": (failing("x"), tree(clone="link", venv="link"), [], {}),
    "no comfy-mnt": (failing("x"), None, [], {}),
    "nothing there": (having(finished(), comfy=None), None, [], {}),
    "not ours": (failing(NOT_GIT, labels={}), tree(clone="empty"), [], {}),
}


@pytest.mark.parametrize(("facts", "comfy", "expected", "does"), CAUSES.values(), ids=CAUSES)
def test_causes_are_told_apart(facts: Facts, comfy: object, expected: list[str], does: dict[str, Any]) -> None:
    assert ids(facts, comfy) == expected
    assert arguments(facts, comfy) == does
    section = plan(facts, comfy)
    assert not section.blocked
    assert bool(section.changes) is bool(expected)
    assert section.starts == (("comfy",) if expected else ())


def test_one_that_does_not_run_is_not_said_to_be_stopped() -> None:
    section = plan(having(finished(), comfy=container(HOST, "comfy", **ENDED)), tree(venv="missing"))
    assert [change.stops for change in section.changes] == [()]
    assert section.starts == ("comfy",)


def test_a_disk_that_is_not_mounted_is_another_entrys() -> None:
    facts = failing(NOT_GIT)
    facts = replace(facts, paths={**facts.paths, HOST.storage.nvme: entry(HOST.storage.nvme)})
    assert ids(facts, tree(clone="empty")) == []


def test_what_it_does_in_order() -> None:
    facts = failing(NOT_GIT)
    path = f"{layout.comfy_mnt(HOST)}/ComfyUI"
    facts = replace(facts, paths={**facts.paths, path: entry(path, uid=1024, gid=1024)})
    steps = [step for change in plan(facts, tree(clone="broken")).changes for step in change.steps]
    assert [step.show().split()[0] for step in steps] == ["docker", "write", f"{layout.comfy_mnt(HOST)}:", "docker"]
    assert isinstance(steps[1], Write)
    assert steps[1].path == layout.kept_script(HOST)
    assert [guard.reading for guard in steps[2].guards] == ["dir 1024:1024 0755"]
    assert "--force-recreate comfy" in steps[3].show()


def test_a_hook_that_is_there_is_not_written_again() -> None:
    facts, path = failing(NOT_GIT), layout.kept_script(HOST)
    facts = replace(facts, files={**facts.files, path: text_file(path, fix.KEPT_SCRIPT, 0o755)})
    steps = [step for change in plan(facts, tree(clone="broken")).changes for step in change.steps]
    assert not any(isinstance(step, Write) for step in steps)


def test_no_room_for_a_second_environment() -> None:
    facts = failing(MIXED, FAILED)
    facts = replace(facts, spaces={**facts.spaces, HOST.storage.nvme: Space(1 << 30, 1 << 40, 10, 10)})
    section = plan(facts, GOOD)
    assert not section.changes
    assert section.blocked[0].mend == "invoke fix.disk-pressure --host prometheus"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (OFFLINE[0], "name server"),
        ("ProxyError('Unable to connect to proxy')", "HTTPS_PROXY"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "clock"),
        ("ReadTimeoutError: Read timed out.", "way to the internet"),
    ],
)
def test_what_to_look_at_when_nothing_can_be_downloaded(said: str, advice: str) -> None:
    (finding,) = found(failing(said, "!! ERROR: Torch installation failed"), GOOD)
    assert advice in finding.text
    assert said in finding.evidence


@pytest.mark.parametrize(
    "said",
    [
        "fatal: unable to access 'https://github.com/x.git/': Received HTTP code 407 from proxy after CONNECT",
        "OSError('Tunnel connection failed: 407 Proxy Authentication Required')",
        "error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502",
        "error: RPC failed; curl 56 GnuTLS recv error (-9): Error decoding the received TLS packet.",
        "fatal: the remote end hung up unexpectedly",
        "fatal: unable to access 'https://github.com/x.git/': gnutls_handshake() failed: Error in the pull function.",
        "TimeoutError: The read operation timed out",
        "ConnectionResetError(104, 'Connection reset by peer')",
        "ERROR: HTTP error 503 while getting https://download.pytorch.org/whl/cu130/torch.whl",
        "error sending request for url (https://example.test/torch/): operation timed out",
        "http.client.RemoteDisconnected: Remote end closed connection without response",
    ],
)
def test_the_network_in_many_words(said: str) -> None:
    facts = failing(said, "!! ERROR: ComfyUI clone failed")
    assert ids(facts, tree(clone="missing", venv="missing")) == ["network"]


def test_pip_of_the_image_is_a_venv_that_is_not_found() -> None:
    facts = failing("error: externally-managed-environment", "!! ERROR: Pip upgrade failed")
    assert ids(facts, GOOD) == ["venv"]


def test_where_nothing_is_installed_nothing_is_set_aside() -> None:
    host = replace(HOST, comfy=replace(HOST.comfy, env={"DISABLE_UPGRADES": "True"}))
    facts = failing("ModuleNotFoundError: No module named 'torch'", FAILED)
    section = fix.plan(case(facts, host=host, comfy=GOOD))
    assert not section.changes
    assert "DISABLE_UPGRADES" in section.blocked[0].text
    assert plan(facts, GOOD).changes


def test_a_package_that_lacks_is_not_why_the_card_is_gone() -> None:
    lacks = tree(missing_modules=("einops",))
    assert ids(failing("!! ERROR: Failed to run nvidia-smi"), lacks) == []
    assert ids(failing("ModuleNotFoundError: No module named 'einops'", FAILED), lacks) == ["modules"]
    assert ids(failing(), lacks) == ["modules"]


def bring_back(mnt: Path) -> str:
    script = fix.KEPT_SCRIPT.replace("/comfy/mnt", str(mnt))
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def put(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_hook_brings_back_what_the_new_one_lacks(tmp_path: Path) -> None:
    mnt = tmp_path
    old, new = mnt / "ComfyUI.broken-20261121-230000", mnt / "ComfyUI"
    put(old / "custom_nodes" / "my node" / "__init__.py")
    put(old / "custom_nodes" / ".disabled" / "x")
    put(old / "user" / "default" / "workflows" / "-n \n*.json")
    put(old / "models" / "loras" / "mine.safetensors")
    put(old / "input" / "example.png", "old")
    put(old / "extra_model_paths.yaml")
    put(old / "nodes.py", "old")
    (old / "output").symlink_to("/etc")
    put(new / "input" / "example.png", "new")
    put(new / "models" / "loras" / "put_loras_here")
    put(new / "custom_nodes" / "example.py")
    bring_back(mnt)
    assert (new / "custom_nodes" / "my node" / "__init__.py").exists()
    assert (new / "custom_nodes" / ".disabled" / "x").exists()
    assert (new / "user" / "default" / "workflows" / "-n \n*.json").exists()
    assert (new / "models" / "loras" / "mine.safetensors").exists()
    assert (new / "extra_model_paths.yaml").exists()
    assert (new / "input" / "example.png").read_text() == "new"
    assert (old / "input" / "example.png").read_text() == "old"
    assert not (new / "nodes.py").exists()
    assert not (new / "output").exists()


def test_the_hook_goes_through_each_once(tmp_path: Path) -> None:
    put(tmp_path / "ComfyUI.broken-1" / "user" / "a")
    put(tmp_path / "ComfyUI" / "user" / "a")
    bring_back(tmp_path)
    (tmp_path / "ComfyUI" / "user" / "a").unlink()  # by its owner, who wants it gone
    assert bring_back(tmp_path) == ""
    assert not (tmp_path / "ComfyUI" / "user" / "a").exists()


def test_the_hook_has_nothing_to_do(tmp_path: Path) -> None:
    assert bring_back(tmp_path) == ""


def test_between_two_starts_the_one_before_tells() -> None:
    """Docker has started it again already, and this start has not come as far yet."""
    before = ("== Starting script", "== Cloning ComfyUI", *OFFLINE)
    now: dict[str, Any] = {"state": "running", "health": "starting", "restarts": 2}
    missing = tree(clone="missing", venv="missing")

    def ids_after(*log: str) -> list[str]:
        facts = failing(*log, **now)
        return [finding.id for finding in fix.diagnose(case(facts, comfy=missing, comfy_before=before))]

    assert ids_after() == ["comfy-first-run.network"]
    assert ids_after("=== Starting script", "== Testing write access") == ["comfy-first-run.network"]
    assert ids_after("== Starting script", "== Cloning ComfyUI") == ["comfy-first-run.network"]
    assert ids_after("== Starting script", "== Creating virtualenv") == []  # it has got over it
    assert ids(failing("== Starting script", **now), missing) == []


def test_a_tree_that_could_not_be_looked_into() -> None:
    (finding,) = found(failing(NOT_GIT), Unknown("no answer within 5 s"))
    assert (finding.level, finding.evidence) == ("unknown", "no answer within 5 s")
    assert not plan(failing(NOT_GIT), Unknown("no answer within 5 s")).changes
