"""A lab host: a container that is a whole machine, with systemd, sshd and a Docker Engine of its own.

    lab = up("lab", port=2222)      start it, or find it running
    lab.ssh("docker compose ls")    as an operator would
    lab.exec("systemctl", "status") from underneath, as root, with no network in between
    reset("lab"); down("lab")

Each lab has a name; its container, volumes and keys carry that name. Nothing without the lab's label is ever touched.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import socket
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import image as images
from lab import keys, registry
from lab.outer import LabError, Say, docker, explain, run, silent, text

LABEL = "pantheon.lab"
USER = "ops"
READY_S = 90
DEFAULT_PORT = 2222
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
ATLAS = "atlas"  # the NFS server's name on the host (lab/atlas.py)
REGISTRIES = ("registry-1.docker.io", "ghcr.io")
SITES = ("download.docker.com", "nvidia.github.io", "archive.lab.test")  # package sites, on a bare host
COMFY_STEPS = 14  # how often the stand-in ComfyUI waits in a first run
Settings = dict[str, float]
REGISTRY_STORAGE = "/var/lib/lab-registry"

# Where each volume of a lab is mounted. Both of the engine's stores are volumes: an overlay file system cannot lie on
# another, and Engine 29 keeps images with containerd. The disks are bound to /mnt/local by /etc/fstab inside.
VOLUMES = {
    "docker": "/var/lib/docker",
    "containerd": "/var/lib/containerd",
    "nvme": "/var/lib/lab/disks/nvme",
    "ssd": "/var/lib/lab/disks/ssd",
}

# Capabilities by name and not --privileged, for two reasons. That flag asks for all of them, which fails where root
# itself lacks one (CAP_SYS_RESOURCE on some virtual machines), and a lab is to behave the same everywhere. And it hands
# over what a guest must not have: SYS_MODULE, SYS_RAWIO and SYS_TIME act on the workstation's kernel, disks and clock.
# fmt: off
CAPABILITIES = (
    "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER",
    "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE",
    "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE",
    "SYS_TTY_CONFIG",
)
# fmt: on


@dataclass(frozen=True)
class Lab:
    """A lab host that has been started."""

    name: str
    port: int
    os_id: str
    os_version: str
    keys: keys.Keys
    bare: bool = False
    docker_key: str = ""  # fingerprints of what signs a bare lab's package sites
    toolkit_key: str = ""

    @property
    def container(self) -> str:
        return container_name(self.name)

    @property
    def is_as_shipped(self) -> bool:
        """Whether [hosts.lab] of the hosts.toml that ships with the project is this lab; its keys lie where
        $XDG_STATE_HOME says, which that file cannot know."""
        usual = Path("~/.local/state/pantheon/lab/lab").expanduser()
        shipped = ("lab", DEFAULT_PORT, "ubuntu", usual, False)
        return (self.name, self.port, self.os_id, self.keys.directory, self.bare) == shipped

    @property
    def address(self) -> str:
        """The container's own address, for an engine on this machine. It can change when the lab is restarted.

        Faults of the network show here as on a real link; the published port has the outer engine's proxy between.
        """
        return text("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.container)

    def exec(
        self, *argv: str, stdin: bytes | None = None, timeout: float = 60, check: bool = True, user: str = "root"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the lab host from underneath. With `check`, a non-zero status is a LabError."""
        interactive = ["-i"] if stdin is not None else []
        argv_all = ["exec", *interactive, "-u", user, self.container, *argv]
        done = docker(*argv_all, stdin=stdin, timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise LabError(f"on lab {self.name}: {explain(argv_all, done)}")
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        return subprocess.CompletedProcess(argv, done.returncode, out, err)

    def sh(self, script: str, *args: str, timeout: float = 60, check: bool = True) -> str:
        """Run a shell script as root and return what it printed."""
        return self.exec("sh", "-ceu", script, "sh", *args, timeout=timeout, check=check).stdout

    def ssh(self, command: str, *, timeout: float = 60, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as `ops` over SSH, by OpenSSH and through the published port."""
        argv = [*self.ssh_argv(), command]
        done = run(argv, timeout=timeout)
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        if check and done.returncode != 0:
            said = " / ".join((err or out).strip().splitlines()[-8:])
            raise LabError(f"on lab {self.name}: `{command}` over SSH ended with {done.returncode}: {said}")
        return subprocess.CompletedProcess(argv, done.returncode, out, err)

    def ssh_argv(self, *options: str) -> list[str]:
        """The ssh command that reaches this lab and nothing else, whatever the user's configuration says."""
        strict = {
            "BatchMode": "yes",
            "ConnectTimeout": "5",
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f'"{self.keys.known_hosts}"',  # a list of files to ssh: quotes keep a space
            "GlobalKnownHostsFile": "/dev/null",
            "ControlPath": "none",
            "LogLevel": "ERROR",
        }
        settings = [f"-o{name}={value}" for name, value in strict.items()]
        target = ["-i", str(self.keys.identity), "-p", str(self.port), f"{USER}@127.0.0.1"]
        return ["ssh", "-F", "/dev/null", *settings, *options, *target]

    def started_at(self) -> str:
        """When the outer engine last started the container. The boot id tells less in the first moment of a boot."""
        return text("inspect", "--format", "{{.State.StartedAt}}", self.container)

    def boot_id(self) -> str:
        return self.exec("cat", "/proc/sys/kernel/random/boot_id").stdout.strip()

    def reboot(self) -> str:
        """`sudo reboot` as an operator types it, waited for. Returns the new boot id."""
        before = self.started_at()
        self.ssh("sudo reboot", check=False)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.started_at() != before:
                self.wait_ready()
                return self.boot_id()
            time.sleep(0.1)
        raise LabError(f"lab {self.name} did not come back within {READY_S} s of `sudo reboot`.")

    def wait_ready(self, deadline_s: float = READY_S) -> None:
        """Wait until systemd has finished booting, the engine and the registry answer, and sshd says hello."""
        end = time.monotonic() + deadline_s
        while True:
            left = max(1, int(end - time.monotonic()))
            done = self.exec("timeout", str(left), "sh", "-c", READY_SCRIPT, timeout=left + 5, check=False)
            if done.returncode == 0 and ssh_answers(self.port):
                return
            if time.monotonic() > end:
                raise LabError(f"lab {self.name} was not ready within {deadline_s:.0f} s. {self.last_words()}")
            time.sleep(0.05)

    def last_words(self) -> str:
        """What the container, its units and its engine said last; for a message about a lab that did not start."""
        said = docker("logs", "--tail", "5", self.container, timeout=20, check=False)
        script = "systemctl --failed --no-legend --plain; journalctl -b -p err -n 8 --no-pager -o cat"
        inside = self.exec("sh", "-c", script, timeout=20, check=False).stdout
        lines = (said.stdout + said.stderr).decode(errors="replace") + inside
        return "It said: " + " / ".join(line.strip() for line in lines.splitlines() if line.strip())

    def push(self, reference: str, local_image: str) -> None:
        """Let the lab's registries serve an image of the outer engine under a reference, until the lab is reset."""
        with tempfile.NamedTemporaryFile(prefix="pantheon-lab-", suffix=".tar") as storage:
            registry.write(Path(storage.name), {reference: local_image})
            argv = ["exec", "-i", self.container, "tar", "-x", "-C", REGISTRY_STORAGE, "--no-same-owner"]
            docker(*argv, stdin=storage, timeout=300)

    def set_stand_in(self, **settings: float) -> None:
        """Change settings of the stand-in services until the lab is reset: comfy_step_seconds, ollama_pull_seconds, ..

        lab/services has the names. Containers that use the card read them anew, even while they run.
        """
        # Written in place: the containers have this very file mounted.
        content = json.dumps(settings) + "\n"
        self.exec("sh", "-c", "cat >/etc/lab/stand-in.json", stdin=content.encode())

    def hosts_file(self, path: Path | None = None, *, direct: bool = False) -> Path:
        """Write a hosts.toml whose default host is this lab, and return where it is.

        With `direct` the host is the container's own address instead of the published port.
        """
        target = path or self.keys.directory / ("hosts-direct.toml" if direct else "hosts.toml")
        target.write_text(self.inventory(direct=direct))
        return target

    def inventory(self, *, direct: bool = False) -> str:
        address, port = (self.address, 22) if direct else ("127.0.0.1", self.port)
        lines = [
            f"# The lab host {self.name}, as lab.up made it.",
            'default = "lab"',
            "",
            "[hosts.lab]",
            f'address = "{address}"',
            f"port = {port}",
            f'user = "{USER}"',
            f'identity = "{self.keys.identity}"',
        ]
        # The stand-in images are small: the room that a host must have is too.
        lines += [f"{service} = {{ image_gib = 0.2, data_gib = 0.1 }}" for service in ("comfy", "ollama", "openwebui")]
        if self.os_id != "ubuntu":
            lines += ["", "[hosts.lab.os]", f'id = "{self.os_id}"', f'version = "{self.os_version}"']
        if self.bare:
            keys = [f'docker_key = "{self.docker_key}"', f'toolkit_key = "{self.toolkit_key}"']
            lines += ["", "[hosts.lab.install]", *keys]
        return "\n".join(lines) + "\n"

    def trust(self, file: Path, *, direct: bool = False) -> str | None:
        """Record the lab's host key in a known_hosts file. Returns a sentence if another line stands in the way."""
        address, port = (self.address, 22) if direct else ("127.0.0.1", self.port)
        return keys.record(self.name, self.keys, address, port, file)


READY_SCRIPT = """
until s=$(systemctl is-system-running 2>/dev/null); [ "$s" = running ] || [ "$s" = degraded ]; do sleep 0.2; done
# A bare host has no engine until one is installed; what a fault keeps from starting is not waited for.
if [ ! -e /var/lib/lab-vendors ] || systemctl is-enabled -q docker.service 2>/dev/null; then
    until docker version >/dev/null 2>&1; do
        if [ -e /var/lib/lab-vendors ] && systemctl is-failed -q docker.service; then break; fi
        sleep 0.2
    done
fi
until curl -fsS -o /dev/null https://registry-1.docker.io/v2/ 2>/dev/null; do sleep 0.05; done
if [ -e /var/lib/lab-vendors ]; then
    until curl -sS -o /dev/null https://download.docker.com/ 2>/dev/null; do sleep 0.05; done
fi
"""


@dataclass(frozen=True)
class Status:
    """One line of lab.status."""

    name: str
    state: str
    port: int
    os: str
    current: bool  # whether it runs on the image that the sources make now
    bare: bool = False


def up(
    name: str = "lab",
    *,
    port: int | None = None,
    base: str = "auto",
    bare: bool = False,
    comfy_first_run: float | None = None,
    stand_in: Mapping[str, float] | None = None,
    known_hosts: Path | None = None,
    say: Say = silent,
) -> Lab:
    """Start a lab, or find it running. The image is built if the cache has none. The port is 2222 unless given.

    A `bare` one is what an installer leaves: no engine, no driver, no toolkit, and sites to install them from.

    `comfy_first_run` is about how long the stand-in's first run takes, in seconds; `stand_in` has further settings of
    the stand-in services (see Lab.set_stand_in). `known_hosts` is where to record the host key; the project's file
    unless given. Raises LabError.
    """
    check_name(name)
    settings = dict(stand_in or {})
    if comfy_first_run is not None:
        settings["comfy_step_seconds"] = round(comfy_first_run / COMFY_STEPS, 3)
    with keys.lab_lock(name, say):
        found = find(name)
        if found:
            lab = revive(found, port, base, bare, say)
        else:
            port = DEFAULT_PORT if port is None else port
            check_port(port, name)
            lab = create(name, port, images.ensure(base, say, bare=bare), base, settings, say)
    complaint = lab.trust(known_hosts or keys.project_known_hosts())
    if complaint:
        say(complaint)
    return lab


def revive(found: Found, port: int | None, base: str, bare: bool, say: Say) -> Lab:
    """The lab that is there, running again if it was not. What it is cannot be changed without starting anew."""
    lab = found.lab()
    differs = ""
    if port not in (None, lab.port):
        differs = f"on port {lab.port}, not {port}"
    elif base not in ("auto", found.base, lab.os_id):
        differs = f"on {found.os}, not {base}"
    elif bare and not found.bare:
        differs = "and ready, not bare"
    if differs:
        raise LabError(
            f"lab {lab.name} is up {differs}. Next: invoke lab.down --name {lab.name}, then lab.up again; or another "
            f"lab beside it: invoke lab.up --name {lab.name}2 --port {(port or lab.port) + 1}"
        )
    if found.state == "running":
        say(f"lab {lab.name} is already up on port {lab.port}")
        return lab
    say(f"lab {lab.name} is {found.state}; starting it")
    docker("unpause" if found.state == "paused" else "start", lab.container)
    lab.wait_ready()
    return lab


def create(name: str, port: int, image: images.Image, base: str, settings: Settings, say: Say) -> Lab:
    """Make the volumes and the container, give it its keys, start it and wait for it."""
    own = keys.ensure(name)
    say(f"starting {'bare ' if image.bare else ''}lab {name} on 127.0.0.1:{port}")
    labels = {
        LABEL: name,
        f"{LABEL}.port": str(port),
        f"{LABEL}.os": f"{image.os_id} {image.os_version}",
        f"{LABEL}.base": base,
        f"{LABEL}.bare": "yes" if image.bare else "no",
        f"{LABEL}.host-key": own.public(own.host_key),
        f"{LABEL}.stand-in": json.dumps(settings),
    }
    try:
        for volume in VOLUMES:
            docker("volume", "create", "--label", f"{LABEL}={name}", f"{container_name(name)}-{volume}")
        docker("create", *create_options(name, port, labels), image.tag)
        found = find(name)
        assert found is not None
        lab = found.lab()
        docker("cp", "-", f"{lab.container}:/", stdin=personal_files(lab, settings))
        docker("start", lab.container)
        lab.trust(lab.keys.known_hosts)
        lab.wait_ready()
    except BaseException:
        # Half a lab would be found as one by the next lab.up.
        remove(name)
        raise
    return lab


def create_options(name: str, port: int, labels: dict[str, str]) -> list[str]:
    container = container_name(name)
    options = ["--name", container, "--hostname", name]
    # systemd's reboot ends the container; this is what brings it back.
    options += ["--restart", "unless-stopped", "--stop-timeout", "10"]
    options += ["--env", "container=docker", "--cgroupns", "private", "--device-cgroup-rule", "a *:* rwm"]
    options += ["--publish", f"127.0.0.1:{port}:22"]
    for label, value in labels.items():
        options += ["--label", f"{label}={value}"]
    for capability in CAPABILITIES:
        options += ["--cap-add", capability]
    for security in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
        options += ["--security-opt", security]
    for registry_name in REGISTRIES:
        options += ["--add-host", f"{registry_name}:127.0.0.2"]
    options += ["--add-host", f"{ATLAS}:127.0.0.9"]
    if labels[f"{LABEL}.bare"] == "yes":
        for site in SITES:
            options += ["--add-host", f"{site}:127.0.0.3"]
    for volume, target in VOLUMES.items():
        options += ["--volume", f"{container}-{volume}:{target}"]
    return options


def personal_files(lab: Lab, settings: Settings) -> bytes:
    """A tar file with what makes this host itself: its keys, its machine id, and the stand-in's settings."""
    private, public = lab.keys.host_key, lab.keys.public(lab.keys.host_key)
    files = [
        ("etc/ssh/ssh_host_ed25519_key", private.read_text(), 0o600, 0),
        ("etc/ssh/ssh_host_ed25519_key.pub", f"{public} root@{lab.name}\n", 0o644, 0),
        (f"home/{USER}/.ssh/authorized_keys", f"{lab.keys.public(lab.keys.identity)} pantheon-lab\n", 0o600, 1000),
        # Without one systemd takes this for the first boot ever and resets which units are enabled.
        ("etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444, 0),
        ("etc/lab/stand-in.json", json.dumps(settings) + "\n", 0o644, 0),
    ]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        for path, content, mode, owner in files:
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.uid, info.gid = len(content), mode, owner, owner
            info.mtime = int(time.time())
            out.addfile(info, io.BytesIO(content.encode()))
    return packed.getvalue()


def down(name: str = "lab", *, forget: bool = False, known_hosts: Path | None = None, say: Say = silent) -> bool:
    """Remove a lab with its volumes. Returns whether there was one. Its keys stay for the next, unless `forget`."""
    check_name(name)
    with keys.lab_lock(name, say):
        found = find(name)
        removed = remove(name)
    if forget:
        directory = keys.state_root() / name
        if found:
            keys.forget("127.0.0.1", found.port, known_hosts or keys.project_known_hosts(), name)
        for path in sorted(directory.glob("*")) + sorted(directory.glob(".*")):
            path.unlink(missing_ok=True)
        if directory.is_dir():
            directory.rmdir()
    say(f"lab {name} is gone" if removed else f"there is no lab {name}")
    return removed


def reset(name: str = "lab", *, say: Say = silent) -> Lab:
    """A fresh host under the same name, port, base and keys. What was on it is lost."""
    check_name(name)
    with keys.lab_lock(name, say):
        found = find(name)
        if not found:
            raise LabError(f"there is no lab {name} to reset. Next: invoke lab.up --name {name}")
        image = images.ensure(found.base, say, bare=found.bare)
        remove(name)
        return create(name, found.port, image, found.base, found.settings, say)


def get(name: str = "lab") -> Lab:
    """A lab that exists. Raises LabError when it does not."""
    check_name(name)
    found = find(name)
    if not found:
        raise LabError(f"there is no lab {name}. Next: invoke lab.up --name {name}")
    return found.lab()


def running(name: str = "lab") -> Lab:
    """A lab that can be reached. Raises LabError when it does not exist, or stands still."""
    lab, found = get(name), find(name)
    if found and found.state != "running":
        raise LabError(f"lab {name} is {found.state}. Next: invoke lab.up --name {name}")
    return lab


def status() -> list[Status]:
    """All labs on this machine, by name."""
    names = text("ps", "-a", "--filter", f"label={LABEL}", "--format", '{{.Label "' + LABEL + '"}}').split()
    found = [one for name in sorted(names) if (one := find(name))]
    return [Status(one.name, one.state, one.port, one.os, one.current(), one.bare) for one in found]


@dataclass(frozen=True)
class Found:
    """A lab's container as the engine describes it."""

    name: str
    state: str
    port: int
    os: str
    base: str
    settings: Settings
    image: str
    host_key: str
    bare: bool
    docker_key: str
    toolkit_key: str

    def lab(self) -> Lab:
        """Raises LabError for one that does not know our keys: the engine is everybody's, keys are each home's."""
        os_id, _, os_version = self.os.partition(" ")
        own = keys.ensure(self.name)
        if self.host_key and self.host_key != own.public(own.host_key):
            raise LabError(
                f"lab {self.name} does not know the keys in {own.directory}: another user of this machine started it, "
                "or you did with another HOME. Next: one of your own beside it: "
                f"invoke lab.up --name {self.name}2 --port {self.port + 1}; or make this one fresh, and yours: "
                f"invoke lab.reset --name {self.name}"
            )
        return Lab(
            self.name,
            self.port,
            os_id,
            os_version,
            own,
            self.bare,
            docker_key=self.docker_key,
            toolkit_key=self.toolkit_key,
        )

    def current(self) -> bool:
        return images.is_current(self.image)


def find(name: str) -> Found | None:
    """The container of that lab, if there is one. A container of that name that is no lab of ours is refused."""
    done = docker("container", "inspect", container_name(name), timeout=20, check=False)
    if done.returncode != 0:
        if b"o such container" not in done.stderr:
            raise LabError(explain(["container", "inspect", container_name(name)], done))
        return None
    described = json.loads(done.stdout)[0]
    labels = described["Config"]["Labels"] or {}
    if labels.get(LABEL) != name:
        raise LabError(f"a container called {container_name(name)} exists and is not a lab of ours; it is left alone.")
    return Found(
        name=name,
        state=described["State"]["Status"],
        port=int(labels[f"{LABEL}.port"]),
        os=labels[f"{LABEL}.os"],
        base=labels[f"{LABEL}.base"],
        settings=json.loads(labels.get(f"{LABEL}.stand-in") or "{}"),
        image=described["Config"]["Image"],
        host_key=labels.get(f"{LABEL}.host-key", ""),
        bare=labels.get(f"{LABEL}.bare") == "yes",
        docker_key=labels.get(f"{LABEL}.key.docker", ""),
        toolkit_key=labels.get(f"{LABEL}.key.toolkit", ""),
    )


def remove(name: str) -> bool:
    """Remove the container and volumes that carry the lab's label. Returns whether there were any."""
    wanted = f"label={LABEL}={name}"
    containers = text("ps", "-aq", "--filter", wanted).split()
    for container in containers:
        retried("rm", "-f", container)
    volumes = text("volume", "ls", "-q", "--filter", wanted).split()
    for volume in volumes:
        retried("volume", "rm", volume)
    return bool(containers or volumes)


def retried(*argv: str) -> None:
    """Remove something; it can fail for a moment while the engine lets go of mounts."""
    for _ in range(20):
        done = docker(*argv, check=False)
        if done.returncode == 0 or b"o such " in done.stderr:
            return
        time.sleep(0.25)
    raise LabError(explain(argv, done))


def container_name(name: str) -> str:
    return f"pantheon-lab-{name}"


def check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise LabError(f"{shlex.quote(name)} cannot name a lab: small letters, digits and hyphens, 30 at most.")


def check_port(port: int, name: str = "lab") -> None:
    """Refuse a port that something on this machine holds, before lab `name` is built."""
    if not 1 <= port <= 65535:
        raise LabError(f"{port} is not a port number (1 to 65535).")
    option = "" if name == "lab" else f" --name {name}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LabError(
                f"port {port} on 127.0.0.1 is taken ({error.strerror}). Next: invoke lab.status shows other labs; "
                f"another port: invoke lab.up{option} --port {port + 1}"
            ) from None


def free_port() -> int:
    """A port that is free now; for tests, which run labs of their own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ssh_answers(port: int) -> bool:
    """Whether an SSH server says hello. The outer engine accepts connections before there is one."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
