"""Faults planted on a lab host for real, and a slow link; each is a context manager that mends what it broke.

    with faults.blackhole(lab): ...        with faults.small_disk(lab, "/mnt/local/ssd", mib=48): ...

A fault counts as planted when the vendor's own command fails with the real text; nothing is simulated above that. Every
function also has a pair to call by hand where a test wants the fault to outlive a block. Network faults are to be met
over the container's own address (`Lab.address`, `Lab.hosts_file(direct=True)`): at the published port the outer
engine's proxy still answers.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath

from lab.machine import USER, Lab
from lab.outer import LabError, docker

DISKS = {"nvme": "/mnt/local/nvme", "ssd": "/mnt/local/ssd"}
GPU_FAULTS = ("mismatch", "nodevice", "nocomm", "lost", "unknown", "hang", "hookfail")
MOST_MIB = 512  # a small disk is filled to the brim, so nobody gets to make a large one
DELAY_UNIT = "lab-delay"
QUEUE = "5"
KEPT = "/var/lib/lab/kept"  # what a fault has put aside
LOGIN_KEYS = f"/home/{USER}/.ssh/authorized_keys"


# ---- the link


@contextlib.contextmanager
def blackhole(lab: Lab) -> Iterator[None]:
    """SSH packets vanish both ways: new connections time out, sessions that are open hear nothing more."""
    start_blackhole(lab)
    try:
        yield
    finally:
        heal(lab)


def start_blackhole(lab: Lab) -> None:
    for chain, port in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
        rule = (chain, "-p", "tcp", port, "22", "-j", "DROP")
        if lab.exec("iptables", "-w", "-C", *rule, check=False).returncode != 0:
            lab.exec("iptables", "-w", "-I", *rule)


def heal(lab: Lab) -> None:
    """Let SSH packets through again."""
    for chain, port in (("INPUT", "--dport"), ("OUTPUT", "--sport")):
        rule = (chain, "-p", "tcp", port, "22", "-j", "DROP")
        while lab.exec("iptables", "-w", "-D", *rule, check=False).returncode == 0:
            pass


@contextlib.contextmanager
def paused(lab: Lab) -> Iterator[None]:
    """The machine stands still: connections open (the kernel answers) and no banner comes."""
    pause(lab)
    try:
        yield
    finally:
        unpause(lab)


def pause(lab: Lab) -> None:
    docker("pause", lab.container)


def unpause(lab: Lab) -> None:
    docker("unpause", lab.container, check=False)


@contextlib.contextmanager
def without_sshd(lab: Lab) -> Iterator[None]:
    """sshd is down: refused over the container's own address, closed at once through the published port."""
    stop_sshd(lab)
    try:
        yield
    finally:
        start_sshd(lab)


def stop_sshd(lab: Lab) -> None:
    """Stop sshd and the socket that would start it again (Ubuntu has one). Sessions that are open go on."""
    lab.sh("systemctl stop ssh.socket 2>/dev/null || true; systemctl stop ssh.service")


def start_sshd(lab: Lab) -> None:
    start = "if systemctl is-enabled -q ssh.socket 2>/dev/null; then systemctl start ssh.socket; "
    lab.sh(start + "else systemctl start ssh.service; fi")
    lab.wait_ready()


def restart_sshd(lab: Lab) -> None:
    """What an upgrade does. Sessions that are open go on. systemd's count of starts is reset, so tests may do more."""
    lab.sh("systemctl reset-failed ssh.service 2>/dev/null || true; systemctl restart ssh.service")


def end_sessions(lab: Lab) -> None:
    """kill -9 of the sshd of each session of `ops`; the one that listens goes on."""
    lab.exec("pkill", "-KILL", "-f", f"^sshd[a-z-]*: {USER}", check=False)


# ---- who may log in, and whom a client may trust


@contextlib.contextmanager
def other_host_keys(lab: Lab) -> Iterator[None]:
    """sshd has other host keys, as after a new installation. Sessions that are open go on."""
    swap_host_keys(lab)
    try:
        yield
    finally:
        restore_host_keys(lab)


def swap_host_keys(lab: Lab) -> None:
    lab.sh(
        'mkdir -p "$1"; [ -e "$1/keys" ] || { mkdir "$1/keys.new"; cp -a /etc/ssh/ssh_host_* "$1/keys.new/"; '
        'mv "$1/keys.new" "$1/keys"; }; rm /etc/ssh/ssh_host_*; ssh-keygen -qA',
        KEPT,
    )
    restart_sshd(lab)


def restore_host_keys(lab: Lab) -> None:
    lab.sh('rm -f /etc/ssh/ssh_host_*; cp -a "$1"/keys/* /etc/ssh/; rm -r "$1/keys"', KEPT)
    restart_sshd(lab)


@contextlib.contextmanager
def without_login_keys(lab: Lab) -> Iterator[None]:
    """No key opens the account of `ops` any more. Sessions that are open go on."""
    empty_login_keys(lab)
    try:
        yield
    finally:
        restore_login_keys(lab)


def empty_login_keys(lab: Lab) -> None:
    lab.sh('mkdir -p "$1"; [ -e "$1/login" ] || cp -a "$2" "$1/login"; : >"$2"', KEPT, LOGIN_KEYS)


def restore_login_keys(lab: Lab) -> None:
    lab.sh('cp -a "$1/login" "$2"; rm "$1/login"', KEPT, LOGIN_KEYS)


@contextlib.contextmanager
def no_logins(lab: Lab) -> Iterator[None]:
    """Nobody but root is let in, as in the first seconds of a boot and the last before a shutdown (pam_nologin)."""
    forbid_logins(lab)
    try:
        yield
    finally:
        allow_logins(lab)


def forbid_logins(lab: Lab) -> None:
    lab.sh("echo 'System is booting up. Unprivileged users are not permitted to log in yet.' >/run/nologin")


def allow_logins(lab: Lab) -> None:
    lab.sh("rm -f /run/nologin")


# ---- a slow link


@contextlib.contextmanager
def delay(lab: Lab, milliseconds: float) -> Iterator[str]:
    """Add to the round trip with this host. Yields by what means: netem, or nfqueue where the kernel has none."""
    means = start_delay(lab, milliseconds)
    try:
        yield means
    finally:
        stop_delay(lab)


def start_delay(lab: Lab, milliseconds: float) -> str:
    """Hold packets back by that much, once per round trip; measure over the container's own address.

    All of it is on the way in with nfqueue: delaying the way out confuses the sender's own queue limits and ruins
    throughput. About 1.5 ms come on top with nfqueue.
    """
    if milliseconds <= 0:
        raise LabError(f"a delay of {milliseconds} ms is none.")
    stop_delay(lab)
    netem = ("tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", f"{milliseconds}ms", "limit", "20000")
    if lab.exec(*netem, check=False).returncode == 0:
        return "netem"
    unit = ("systemd-run", "-q", f"--unit={DELAY_UNIT}", "--property=CPUSchedulingPolicy=other", "--nice=-10")
    lab.exec(*unit, "/usr/lib/lab/delay.py", str(milliseconds), QUEUE)
    lab.exec("iptables", "-w", "-t", "mangle", "-A", *delay_rule())
    return "nfqueue"


def stop_delay(lab: Lab) -> None:
    while lab.exec("iptables", "-w", "-t", "mangle", "-D", *delay_rule(), check=False).returncode == 0:
        pass
    lab.sh(f"systemctl stop {DELAY_UNIT} 2>/dev/null || true; tc qdisc del dev eth0 root 2>/dev/null || true")


def delay_rule() -> tuple[str, ...]:
    # With --queue-bypass packets pass when nobody listens, so a dead helper is a fast link and not a dead one.
    return ("INPUT", "-i", "eth0", "-j", "NFQUEUE", "--queue-num", QUEUE, "--queue-bypass")


@contextlib.contextmanager
def rate(lab: Lab, kbit: int) -> Iterator[None]:
    """Limit what the host sends, in kilobits a second."""
    limit = ("tbf", "rate", f"{kbit}kbit", "burst", "32kbit", "latency", "400ms")
    lab.exec("tc", "qdisc", "replace", "dev", "eth0", "root", *limit)
    try:
        yield
    finally:
        lab.exec("tc", "qdisc", "del", "dev", "eth0", "root", check=False)


# ---- disks


@contextlib.contextmanager
def unmounted(lab: Lab, disk: str) -> Iterator[None]:
    """The disk (nvme or ssd) is not mounted; its mount point is an empty directory of the root file system."""
    unmount(lab, disk)
    try:
        yield
    finally:
        mount(lab, disk)


def unmount(lab: Lab, disk: str) -> None:
    lab.exec("umount", DISKS[disk])


def mount(lab: Lab, disk: str) -> None:
    """Mount it again by its line in /etc/fstab, as an operator would."""
    lab.sh('mountpoint -q "$1" || mount "$1"', DISKS[disk])


@contextlib.contextmanager
def small_disk(lab: Lab, path: str, *, mib: int, kind: str = "tmpfs", full: bool = False) -> Iterator[None]:
    """A disk of a few MiB lies over a directory of the host; with `full` nothing more fits on it.

    What the directory held is out of sight until the end. Owner and mode are kept. `kind` is tmpfs or ext4 (on a loop
    device). Containers that run see the directory they were started with.
    """
    lay_small_disk(lab, path, mib=mib, kind=kind)
    try:
        if full:
            fill(lab, path)
        yield
    finally:
        lift_small_disk(lab, path)


def lay_small_disk(lab: Lab, path: str, *, mib: int, kind: str = "tmpfs") -> None:
    plain = PurePosixPath(path)
    if not plain.is_absolute() or ".." in plain.parts or len(plain.parts) < 3:
        raise LabError(f"a small disk lies over a directory two levels down or more, not {path!r}.")
    if not 1 <= mib <= MOST_MIB or kind not in ("tmpfs", "ext4"):
        raise LabError(f"a small disk is a tmpfs or ext4 of 1 to {MOST_MIB} MiB, not a {kind} of {mib}.")
    lab.sh(
        """
        path=$1 mib=$2 kind=$3
        owner=$(stat -c %u:%g "$path"); mode=$(stat -c %a "$path")
        if [ "$kind" = tmpfs ]; then
            mount -t tmpfs -o "size=${mib}m" lab-small-disk "$path"
        else
            mkdir -p /var/lib/lab/small; image=$(mktemp /var/lib/lab/small/XXXXXX)
            truncate -s "${mib}M" "$image"
            mkfs.ext4 -q -m 0 "$image"
            mount -o loop "$image" "$path"
            rm "$image"      # the loop device keeps it until it is unmounted
        fi
        chown "$owner" "$path"; chmod "$mode" "$path"
        """,
        path,
        str(mib),
        kind,
    )


def fill(lab: Lab, path: str) -> None:
    """Fill the small disk that lies over `path`; anything else there is refused, and the write is capped besides."""
    lab.sh(
        """
        path=$1
        mountpoint -q "$path"
        free=$(df -BM --output=avail "$path" | tail -1 | tr -dc 0-9)
        [ "$free" -le "$2" ]
        head -c "$((free + 1))M" /dev/zero >"$path/.filled-by-the-lab" 2>/dev/null || true
        sync -f "$path"
        """,
        path,
        str(MOST_MIB),
    )


def lift_small_disk(lab: Lab, path: str) -> None:
    """Take the small disk away, whoever is still using it."""
    lab.sh('if mountpoint -q "$1"; then umount "$1" 2>/dev/null || umount -l "$1"; fi', path)


@contextlib.contextmanager
def small_image_store(lab: Lab, mib: int) -> Iterator[None]:
    """Docker has room for that many MiB of images, so a pull ends in `no space left on device`.

    The engine is restarted on the way in and out, and sees none of its containers and images in between.
    """
    stores = ("/var/lib/docker", "/var/lib/containerd")
    stop_engine(lab)
    lab.sh("systemctl stop containerd")
    try:
        for store in stores:
            lay_small_disk(lab, store, mib=mib)
        start_engine(lab)
        yield
    finally:
        stop_engine(lab)
        lab.sh("systemctl stop containerd")
        for store in stores:
            lift_small_disk(lab, store)
        start_engine(lab)


# ---- the engine and the card


@contextlib.contextmanager
def without_engine(lab: Lab) -> Iterator[None]:
    """Docker is stopped: `Cannot connect to the Docker daemon`."""
    stop_engine(lab)
    try:
        yield
    finally:
        start_engine(lab)


def stop_engine(lab: Lab) -> None:
    lab.sh("systemctl stop docker.socket docker.service")


def start_engine(lab: Lab) -> None:
    """Start Docker. systemd allows three starts a minute; the count is reset so that tests may do more."""
    lab.sh("systemctl reset-failed docker.service docker.socket containerd.service 2>/dev/null || true")
    lab.sh("systemctl start containerd docker.socket docker.service")
    lab.wait_ready()


def kill_engine(lab: Lab) -> None:
    """kill -9 of dockerd. systemd starts it again about two seconds later; `unless-stopped` containers stay down."""
    lab.sh("systemctl reset-failed docker.service; systemctl kill -s KILL --kill-whom=main docker.service")


@contextlib.contextmanager
def gpu(lab: Lab, fault: str) -> Iterator[None]:
    """A fault of the card or its driver (GPU_FAULTS), for nvidia-smi, NVML and starting containers alike."""
    set_gpu_fault(lab, fault)
    try:
        yield
    finally:
        clear_gpu_fault(lab)


def set_gpu_fault(lab: Lab, fault: str) -> None:
    if fault not in GPU_FAULTS:
        raise LabError(f"{shlex.quote(fault)} is no fault of the card; there are {', '.join(GPU_FAULTS)}.")
    lab.sh('mkdir -p /run/lab; printf "%s\\n" "$1" >/run/lab/gpu-fault', fault)


def clear_gpu_fault(lab: Lab) -> None:
    lab.sh("rm -f /run/lab/gpu-fault")


@contextlib.contextmanager
def card(lab: Lab, **values: str) -> Iterator[None]:
    """Another card or driver: the keys of /run/lab/gpu.conf (see lab/gpu), until the end or a reboot."""
    content = "".join(f"{key}={value}\n" for key, value in values.items())
    lab.exec("sh", "-c", "mkdir -p /run/lab; cat >/run/lab/gpu.conf", stdin=content.encode())
    try:
        yield
    finally:
        lab.sh("rm -f /run/lab/gpu.conf")
