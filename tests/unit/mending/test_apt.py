"""Packages put in and out by the real apt and dpkg, in a root of their own with a repository of small packages."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pantheon.mending import apt
from pantheon.mending.words import Failed
from tests.unit import programs


class Root:
    """A root of apt's and dpkg's with nothing in it, beside the machine's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in ("etc/apt/sources.list.d", "etc/apt/preferences.d", "var/lib/dpkg/info", "var/lib/dpkg/updates"):
            (path / "root" / folder).mkdir(parents=True)
        for folder in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/log/apt"):
            (path / "root" / folder).mkdir(parents=True)
        self.root = path / "root"
        (self.root / "var/lib/dpkg/status").touch()
        self.repository = path / "repository"
        self.repository.mkdir()
        (path / ".dpkg.cfg").write_text("force-script-chrootless\nforce-not-root\n")
        (path / "apt.conf").write_text(
            f'Dir "{self.root}";\nDir::State::status "{self.root}/var/lib/dpkg/status";\n'
            f'DPkg::Options:: "--root={self.root}";\nAPT::Sandbox::User "root";\nDPkg::Path "";\n'
            'Dir::Bin::Methods "/usr/lib/apt/methods";\n#clear DPkg::Pre-Install-Pkgs;\n#clear DPkg::Post-Invoke;\n'
            "#clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Post-Invoke;\n"
        )
        (self.root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{self.repository} ./\n")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "TMPDIR")},
            "APT_CONFIG": str(path / "apt.conf"),
            "DPKG_ROOT": str(self.root),
            "HOME": str(path),
        }

    def package(self, name: str, version: str = "1.0", *, postinst: str = "", **fields: str) -> None:
        """A package for the repository. `postinst` is shell."""
        tree = self.path / "build" / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "usr/share" / name).mkdir(parents=True)
        (tree / "usr/share" / name / "version").write_text(version)
        control = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "a <a@invalid>", **fields}
        (tree / "DEBIAN/control").write_text(
            "".join(f"{key}: {value}\n" for key, value in control.items()) + "Description: a test\n"
        )
        if postinst:
            (tree / "DEBIAN/postinst").write_text(f"#!/bin/sh\nset -e\n{postinst}\n")
            (tree / "DEBIAN/postinst").chmod(0o755)
        file = self.repository / f"{name}_{version.rpartition(':')[2]}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, file], check=True, stdout=subprocess.DEVNULL
        )
        size, digest = file.stat().st_size, hashlib.sha256(file.read_bytes()).hexdigest()
        with (self.repository / "Packages").open("a") as index:
            about = "".join(f"{key}: {value}\n" for key, value in control.items())
            index.write(f"{about}Filename: ./{file.name}\nSize: {size}\nSHA256: {digest}\nDescription: a test\n\n")

    def program(self, name: str, text: str) -> Path:
        """A program of shell, ahead of the machine's own; a file in which it may leave notes."""
        folder = self.path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
        self.environment["PATH"] = f"{folder}:{self.environment['PATH']}"
        return self.path / "stopped"

    def start(self, do: str, *packages: str, **more: Any) -> subprocess.Popen[str]:
        told = {"do": do, "packages": packages, "lock_s": 20, "fetch_s": 30, "dpkg_s": 30, "update_s": 30, "need": []}
        told |= {"stop": [], "expect": {}, "may_remove": [], "pin": {}, "recommends": True, **more}
        return subprocess.Popen(
            programs.argv(apt, told),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
            start_new_session=True,
        )

    def run(self, do: str, *packages: str, **more: Any) -> tuple[int, str]:
        process = self.start(do, *packages, **more)
        output, _ = process.communicate(timeout=60)
        assert "Traceback" not in output, output
        return process.returncode, output

    def status(self, name: str) -> str:
        """`install ok installed`, or "" for a package that dpkg does not know."""
        argv = ["dpkg-query", "-W", "-f=${Status}", name]
        done = subprocess.run(argv, capture_output=True, text=True, env=self.environment, check=False)
        return done.stdout

    def version(self, name: str) -> str:
        return (self.root / "usr/share" / name / "version").read_text()


@pytest.fixture(name="host")
def made(tmp_path: Path) -> Root:
    return Root(tmp_path)


@pytest.fixture(name="ready")
def updated(host: Root) -> Root:
    host.package("engine", "5:29.1.3", Depends="runtime")
    host.package("runtime", "2.2")
    status, output = host.run("update")
    assert status == 0, output
    return host


def waits_for(path: Path) -> str:
    """Shell, which ends some day even if nobody comes."""
    return f"for i in $(seq 600); do test -e {path} && break; sleep 0.05; done"


def until(true: Callable[[], object], deadline_s: float = 30) -> None:
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def test_it_is_installed_and_then_there_is_nothing_to_do(ready: Root) -> None:
    status, output = ready.run("install", "engine")
    assert status == 0, output
    assert "2 packages: runtime 2.2, engine 29.1.3" in output
    assert output.splitlines()[-1] == "installed engine 29.1.3"
    assert ready.status("engine") == ready.status("runtime") == "install ok installed"
    assert ready.run("install", "engine") == (0, "installed already: engine\n")


def test_what_is_there_is_not_upgraded_by_the_way(ready: Root) -> None:
    ready.run("install", "runtime")
    ready.package("runtime", "2.3")
    ready.run("update")
    assert ready.run("install", "engine")[0] == 0
    assert ready.version("runtime") == "2.2"


def test_what_apt_does_not_know_is_said_in_its_own_words(ready: Root) -> None:
    status, output = ready.run("install", "nonesuch")
    assert status == 1
    assert "E: Unable to locate package nonesuch" in output


def test_another_branch_than_expected_is_refused_before_anything_is_done(ready: Root) -> None:
    ready.package("nvidia-driver-590-server", "595.71.05-0ubuntu1", Depends="runtime")
    ready.run("update")
    status, output = ready.run("install", "nvidia-driver-590-server", expect={"nvidia-*": "590."})
    assert status == 1
    assert "nvidia-driver-590-server would bring 595.71.05-0ubuntu1, not 590.*" in output
    assert "nothing was installed" in output
    assert not ready.status("runtime")


def test_an_older_version_is_taken_where_only_that_is_of_the_branch(ready: Root) -> None:
    for version in ("590.48.01-0ubuntu1", "595.71.05-0ubuntu1"):
        ready.package("libnvidia-compute-590", version)
        ready.package("nvidia-driver-590", version, Depends=f"libnvidia-compute-590 (= {version})")
    ready.run("update")
    asked = {"expect": {"*nvidia*": "590."}, "pin": {"*nvidia*": "590.*"}}
    status, output = ready.run("install", "nvidia-driver-590", **asked)
    assert status == 0, output
    assert "apt of itself would not do: libnvidia-compute-590 would bring 595.71.05-0ubuntu1" in output
    assert ready.version("nvidia-driver-590") == ready.version("libnvidia-compute-590") == "590.48.01-0ubuntu1"


def test_a_newer_version_of_the_same_package_gives_way_to_the_branch(ready: Root) -> None:
    """A package that is called 590 has become 595 in the archive, and was upgraded."""
    for version in ("590.48.01-0ubuntu1", "595.71.05-0ubuntu1"):
        ready.package("libnvidia-compute-590", version)
        ready.package("nvidia-driver-590", version, Depends=f"libnvidia-compute-590 (= {version})")
    ready.run("update")
    assert ready.run("install", "nvidia-driver-590")[0] == 0
    assert ready.version("nvidia-driver-590") == "595.71.05-0ubuntu1"
    asked = {"expect": {"*nvidia*": "590."}, "pin": {"*nvidia*": "590.*"}}
    status, output = ready.run("install", "nvidia-driver-590", **asked)
    assert status == 0, output
    assert ready.version("nvidia-driver-590") == ready.version("libnvidia-compute-590") == "590.48.01-0ubuntu1"


def test_what_is_newer_is_in_the_way_of_apt_itself_alone(ready: Root) -> None:
    """The module's package is asked for as well, and cannot be beside the newer driver that is installed."""
    one = {"Provides": "dkms-kernel", "Conflicts": "dkms-kernel"}
    ready.package("nvidia-dkms-590", "590.48.01-0ubuntu1", **one)
    ready.package("nvidia-dkms-595", "595.71.05-0ubuntu1", **one)
    ready.package("nvidia-driver-590", "590.48.01-0ubuntu1", Depends="nvidia-dkms-590")
    ready.package("nvidia-driver-590", "595.71.05-0ubuntu1", Depends="nvidia-dkms-595")
    ready.run("update")
    assert ready.run("install", "nvidia-driver-590")[0] == 0
    asked = {"expect": {"*nvidia*": "590."}, "pin": {"*nvidia*": "590.*"}, "may_remove": ["nvidia-dkms-*"]}
    status, output = ready.run("install", "nvidia-driver-590", "nvidia-dkms-590", **asked)
    assert status == 0, output
    assert ready.version("nvidia-driver-590") == ready.version("nvidia-dkms-590") == "590.48.01-0ubuntu1"
    status, output = ready.run("install", "nonesuch", **asked)
    assert status == 1
    assert "E: Unable to locate package nonesuch" in output


def test_nothing_else_is_taken_back_with_it(ready: Root) -> None:
    """The older driver wants an older library of somebody else's, which others may need as it is."""
    ready.package("nvidia-driver-590", "590.48", Depends="common (= 1.0)")
    ready.package("nvidia-driver-590", "595.71", Depends="common")
    ready.package("common", "1.0")
    ready.package("common", "2.0")
    ready.run("update")
    assert ready.run("install", "nvidia-driver-590")[0] == 0
    asked = {"expect": {"nvidia-*": "590."}, "pin": {"*nvidia*": "590.*"}}
    status, output = ready.run("install", "nvidia-driver-590", **asked)
    assert (status, ready.version("common"), ready.version("nvidia-driver-590")) == (1, "2.0", "595.71"), output
    assert "E: " in output


def test_what_a_package_has_lost_comes_back(ready: Root) -> None:
    assert ready.run("install", "runtime")[0] == 0
    lost = ready.root / "usr/share/runtime/version"
    lost.unlink()
    assert ready.run("install", "runtime") == (0, "installed already: runtime\n")
    status, output = ready.run("install", "runtime", again=True)
    assert status == 0, output
    assert lost.read_text() == "2.2"
    (ready.repository / "Packages").write_text("")
    ready.run("update")
    for file in ready.repository.glob("*.deb"):
        file.unlink()
    for file in (ready.root / "var/cache/apt/archives").glob("*.deb"):
        file.unlink()
    status, output = ready.run("install", "runtime", again=True)
    assert status == 1
    assert "apt has no longer what is installed of runtime" in output, output


def test_nothing_goes_that_was_not_agreed_to(ready: Root) -> None:
    ready.package("docker.io", "24.0")
    ready.package("of-somebody", Depends="docker.io")
    ready.package("docker-ce", "5:29.1", Conflicts="docker.io")
    ready.run("update")
    assert ready.run("install", "of-somebody")[0] == 0
    noted = ready.program("systemctl", f'echo "$*" >>{ready.path}/stopped')
    for asked in (("fetch", "docker-ce"), ("install", "docker-ce"), ("remove", "docker.io")):
        status, output = ready.run(*asked, may_remove=["docker.io"], stop=["docker.socket"])
        assert status == 1
        assert "apt would also remove of-somebody: nothing was done" in output
        assert ready.status("docker.io") == "install ok installed"
    assert not noted.exists()
    assert ready.run("remove", "of-somebody", "docker.io", "containerd", stop=["docker.socket"])[0] == 0
    assert noted.read_text() == "stop docker.socket\n"
    assert ready.run("install", "docker-ce", stop=["docker.socket"])[0] == 0
    assert noted.read_text() == "stop docker.socket\n" * 2
    assert ready.run("remove", "docker.io") == (0, "gone already: docker.io\n")


def test_what_was_fetched_needs_no_repository(ready: Root) -> None:
    assert ready.run("fetch", "engine")[0] == 0
    assert not ready.status("engine")
    assert ready.run("fetch", "nonesuch")[0] == 1


def test_held_and_let_go(ready: Root) -> None:
    ready.run("install", "runtime")
    assert ready.run("hold", "runtime", "engine") == (0, "on hold: runtime\n")
    assert ready.status("runtime") == "hold ok installed"
    assert ready.run("unhold", "runtime")[0] == 0
    assert ready.status("runtime") == "install ok installed"


def test_when_the_lists_were_fetched_is_noted(ready: Root) -> None:
    stamp = ready.root / "run/pantheon/apt-updated"
    assert stamp.exists()
    stamp.unlink()
    assert ready.run("update", need=["https://example.invalid/debian"])[0] == 1
    assert not stamp.exists()


def test_a_repository_that_is_not_needed_may_be_out_of_order(ready: Root) -> None:
    other = ready.root / "etc/apt/sources.list.d/other.list"
    other.write_text("deb [trusted=yes] file:/nonesuch ./\n")
    status, output = ready.run("update", need=[f"file:{ready.repository}"])
    assert status == 0
    assert "another repository: " in output
    status, output = ready.run("update", need=["file:/nonesuch"])
    assert status == 1
    assert "nothing could be had from file:/nonesuch" in output


def test_sources_that_contradict_one_another_fail_in_apts_words(ready: Root) -> None:
    (ready.root / "etc/apt/sources.list.d/again.list").write_text(
        f"deb [signed-by=/k.asc] file:{ready.repository} ./\n"
    )
    status, output = ready.run("update")
    assert status == 1
    assert "E: Conflicting values set for option" in output


# ---- locks


@pytest.fixture(name="lock")
def locked(ready: Root) -> Iterator[subprocess.Popen[bytes]]:
    """Somebody who has the lock of dpkg's front ends until it is killed."""
    path = ready.root / "var/lib/dpkg/lock-frontend"
    program = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\nprint()\n"
        "sys.stdout.flush()\ntime.sleep(60)\n"
    )
    script = ready.path / "unattended-upgrade"
    script.write_text(program)
    with subprocess.Popen([sys.executable, str(script), str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_whoever_has_the_lock_is_named_and_waited_for(ready: Root, lock: subprocess.Popen[bytes]) -> None:
    process = ready.start("install", "runtime")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(f"waiting for unattended-upgrade (pid {lock.pid}, since "), line
    lock.kill()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert ready.status("runtime") == "install ok installed"


def test_nobody_is_waited_for_for_ever(ready: Root, lock: subprocess.Popen[bytes]) -> None:
    status, output = ready.run("install", "runtime", lock_s=0.5)
    assert status == 1
    assert f"unattended-upgrade (pid {lock.pid}" in output.splitlines()[1]
    assert "the same command again" in output


def test_a_lock_that_is_taken_between_two_looks_is_waited_for_too(ready: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    del ready, monkeypatch
    with pytest.raises(apt.Busy):
        apt.errors(["E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 12 (apt-get)"])
    with pytest.raises(apt.Busy):
        apt.errors(["E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend)"])


# ---- cut short


def test_an_installation_that_was_cut_short_is_finished_first(ready: Root) -> None:
    flag = ready.path / "flag"
    ready.package("slow", postinst=f"test -e {flag}")
    ready.run("update")
    status, output = ready.run("install", "slow")
    assert status == 1
    assert "half-way: slow" in output
    status, output = ready.run("install", "runtime")
    assert status == 1, "it fails still"
    assert "an installation was cut short: slow; finishing it" in output
    assert "still half-way: slow" in output
    assert "sudo dpkg --configure -a" in output
    flag.touch()
    status, output = ready.run("install", "runtime")
    assert status == 0, output
    assert ready.status("slow") == "install ok installed"
    assert ready.run("configure") == (0, "nothing is half-way: dpkg is done with every package\n")


def test_a_dpkg_that_was_ended_while_it_wrote_is_recognised(ready: Root) -> None:
    ready.run("install", "runtime")
    status = (ready.root / "var/lib/dpkg/status").read_text()
    (ready.root / "var/lib/dpkg/updates/0001").write_text(status.rstrip("\n") + "\n")
    status_code, output = ready.run("configure")
    assert status_code == 0, output
    assert "an installation was cut short; finishing it" in output
    assert not list((ready.root / "var/lib/dpkg/updates").glob("0*"))


def test_dpkg_goes_on_when_the_run_is_ended(ready: Root) -> None:
    go, began = ready.path / "go", ready.path / "began"
    ready.package("slow", postinst=f"touch {began}\n{waits_for(go)}")
    ready.run("update")
    process = ready.start("install", "slow")
    until(began.exists)
    os.killpg(process.pid, signal.SIGTERM)  # as the runner does when its client is gone
    process.wait(5)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout is not None
    process.stdout.close()
    again = ready.start("install", "slow")
    assert again.stdout is not None
    assert "waiting for apt-get (pid" in again.stdout.readline()
    go.touch()
    output, _ = again.communicate(timeout=30)
    assert again.returncode == 0, output
    assert output.splitlines()[-1] == "installed already: slow"
    assert ready.status("slow") == "install ok installed"


def test_dpkg_is_left_to_finish_at_the_deadline(ready: Root) -> None:
    go = ready.path / "go"
    ready.package("slow", postinst=waits_for(go))
    ready.run("update")
    status, output = ready.run("install", "slow", dpkg_s=1)
    assert status == 1
    assert "still at work after 1 s, and is left to finish" in output
    go.touch()
    until(lambda: ready.status("slow") == "install ok installed")
    until(lambda: not is_locked(ready.root / "var/lib/dpkg/lock-frontend"))


def is_locked(path: Path) -> bool:
    with path.open("r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# ---- lines for people


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("dlstatus:3:45.2:Retrieving file 3 of 5 (2min 1s remaining)", "fetching 3/5 (45 %)"),
        ("pmstatus:docker-ce:62.5:Unpacking docker-ce (amd64)", "unpacking docker-ce 1/5 (62 %)"),
        ("pmstatus:libc6:amd64:8.0:Preparing to configure libc6:amd64", "setting up libc6 1/5 (8 %)"),
        ("pmstatus:docker.io:20.0:Preparing for removal of docker.io (amd64)", "removing docker.io 1/5 (20 %)"),
        ("pmstatus:man-db:99.0:Running post-installation trigger man-db", "triggers of man-db 1/5 (99 %)"),
        ("pmstatus:dpkg-exec:0:Running dpkg", ""),
        ("pmerror:x:1:no", ""),
        ("", ""),
        ("pmstatus", ""),
    ],
)
def test_progress_in_short_lines(line: str, said: str, tmp_path: Path) -> None:
    with (tmp_path / "status").open("w+b") as file:
        assert apt.Progress(file.fileno(), 5).text(line) == said


def test_what_comes_along_where_apt_knows_it(ready: Root) -> None:
    status, output = ready.run("install", "runtime", also={"engine": "engine-6.8", "nothere": "runtime"})
    assert status == 0, output
    assert ready.status("engine") == ""
    status, output = ready.run("install", "runtime", also={"engine": "runtime"})
    assert status == 0, output
    assert ready.status("engine") == "install ok installed"


def test_what_went_wrong_is_picked_out() -> None:
    lines = ["Reading package lists...", "dpkg: error processing package x (--configure):", "E: Sub-process failed", ""]
    assert apt.errors(lines) == lines[1:3]
    assert apt.errors(["only this"]) == ["only this"]
    built = [
        "Setting up nvidia-dkms-590-server (590.48.01-0ubuntu0.24.04.1) ...",
        "Building module:",
        "Error! Bad return status for module build on kernel: 6.8.0-45-generic (x86_64)",
        "Consult /var/lib/dkms/nvidia/590.48.01/build/make.log for more information.",
        "dpkg: error processing package nvidia-dkms-590-server (--configure):",
        " installed nvidia-dkms-590-server package post-installation script subprocess returned error exit status 10",
        "Errors were encountered while processing:",
        " nvidia-dkms-590-server",
        "E: Sub-process /usr/bin/dpkg returned an error code (1)",
    ]
    assert apt.errors(built) == [line.strip() for line in (*built[2:6], built[8])], "why the script failed is said"
    assert apt.errors([]) == []


def test_why_a_repository_could_not_be_had_is_said_with_it() -> None:
    lines = [
        "Hit:1 https://archive.example.test/ubuntu noble InRelease",
        "Err:2 https://download.example.test/linux/ubuntu noble InRelease",
        "  The following signatures were invalid: EXPKEYSIG 7EA0A9C3F273FCD8 Docker Release (CE deb)",
        "Reading package lists...",
        "W: Some index files failed to download. They have been ignored, or old ones used instead.",
    ]
    assert apt.errors(lines) == [lines[1], lines[2].strip()]


def test_a_lock_that_cannot_be_made_is_nobodys() -> None:
    """Waited for, it would be for ever."""
    held = "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812 (unattended-upgr)"
    front = "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), are you root?"
    with pytest.raises(apt.Busy):
        apt.errors([held, front])
    read_only = "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (30: Read-only file system)"
    assert apt.errors([read_only, front]) == [read_only, front]


def test_a_key_that_has_expired_is_fetched_anew_when_its_file_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "ROOT", str(tmp_path))
    uri = "https://download.example.test/linux/ubuntu"
    lines = [
        "Hit:1 https://archive.example.test/ubuntu noble InRelease",
        f"Err:2 {uri} noble InRelease",
        "  The following signatures were invalid: EXPKEYSIG 7EA0A9C3F273FCD8 Docker Release (CE deb)",
    ]
    monkeypatch.setattr(apt, "run", lambda *_, **__: (0, lines))
    with pytest.raises(Failed) as failed:
        apt.update({"update_s": 9, "need": [uri]})
    assert failed.value.args[-1] == apt.EXPIRED
    apt.update({"update_s": 9, "need": []})
