"""The lab host itself: that it is the machine README.md says it is, and that its faults are real ones."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from lab import base, cache, commands, engine, faults, keys, machine
from lab.machine import Lab
from lab.outer import LabError, docker
from pantheon import inventory

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def known_hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("known-hosts") / "known_hosts"


@pytest.fixture(scope="module")
def lab(known_hosts: Path) -> Iterator[Lab]:
    """A lab of this module's own; `lab` on port 2222 may be in use."""
    name = f"t-host-{os.getpid()}"
    try:
        yield machine.up(name, port=machine.free_port(), known_hosts=known_hosts)
    finally:
        machine.down(name, forget=True, known_hosts=known_hosts)


def direct_ssh(lab: Lab, tmp_path: Path, *, timeout: float = 15) -> subprocess.CompletedProcess[str]:
    """One ssh to the container's own address, where the outer engine's proxy does not answer for it."""
    trusted = tmp_path / "direct"
    lab.trust(trusted, direct=True)
    options = ["-oBatchMode=yes", "-oConnectTimeout=2", "-oIdentitiesOnly=yes", f"-oUserKnownHostsFile={trusted}"]
    argv = ["ssh", "-F", "/dev/null", *options, "-i", str(lab.keys.identity), f"ops@{lab.address}", "true"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)


def until(question: Callable[[], bool], deadline_s: float = 20) -> bool:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if question():
            return True
        time.sleep(0.1)
    return False


class TestMachine:
    def test_boots_without_a_failed_unit(self, lab: Lab) -> None:
        assert lab.ssh("systemctl is-system-running").stdout.strip() == "running"
        assert lab.ssh("ps -o comm= 1").stdout.strip() == "systemd"

    def test_is_the_base_it_says(self, lab: Lab) -> None:
        release = lab.ssh(". /etc/os-release; echo $ID $VERSION_ID").stdout.split()
        assert release == [lab.os_id, lab.os_version]

    def test_the_user_is_unprivileged_and_sudo_asks_nothing(self, lab: Lab) -> None:
        assert lab.ssh("id -u").stdout.strip() == "1000"
        assert lab.ssh("sudo -n id -u").stdout.strip() == "0"
        assert "docker" in lab.ssh("id -nG").stdout.split()

    def test_sshd_takes_keys_alone_and_keeps_its_own_limits(self, lab: Lab) -> None:
        settings = dict(line.split(" ", 1) for line in lab.ssh("sudo sshd -T").stdout.splitlines())
        assert settings["permitrootlogin"] == "no"
        assert settings["passwordauthentication"] == "no"
        assert settings["kbdinteractiveauthentication"] == "no"
        assert settings["maxsessions"] == "10"
        refused = subprocess.run(
            [*lab.ssh_argv()[:-1], "root@127.0.0.1", "true"], capture_output=True, text=True, timeout=20, check=False
        )
        assert refused.returncode == 255
        assert "Permission denied (publickey)" in refused.stderr

    def test_is_published_on_loopback_only(self, lab: Lab) -> None:
        assert docker("port", lab.container).stdout.decode().split() == ["22/tcp", "->", f"127.0.0.1:{lab.port}"]

    def test_has_an_engine_of_its_own_that_is_no_snap(self, lab: Lab) -> None:
        version = lab.ssh("docker version --format '{{.Server.Version}}'").stdout.strip()
        assert int(version.split(".")[0]) >= 26
        assert "v2." in "v" + lab.ssh("docker compose version --short").stdout.strip().removeprefix("v")
        assert not lab.ssh("command -v snap", check=False).stdout
        assert lab.ssh("docker info --format '{{.Name}} {{.DockerRootDir}}'").stdout.split() == [
            lab.name,
            "/var/lib/docker",
        ]
        assert '"nvidia"' in lab.ssh("docker info --format '{{json .Runtimes}}'").stdout

    def test_has_nothing_from_pip(self, lab: Lab) -> None:
        assert lab.ssh("python3 -c 'import pynvml'", check=False).returncode == 1
        assert not lab.ssh("ls /usr/local/lib/python3*/*-packages 2>/dev/null", check=False).stdout

    @pytest.mark.parametrize("disk", ["nvme", "ssd"])
    def test_disks_are_mount_points(self, lab: Lab, disk: str) -> None:
        assert lab.ssh(f"findmnt -rno TARGET --mountpoint /mnt/local/{disk}").stdout.strip() == f"/mnt/local/{disk}"

    def test_does_not_act_on_the_workstation(self, lab: Lab) -> None:
        held = lab.sh("sed -n 's/^CapBnd:\t//p' /proc/1/status").strip()
        for number, name in ((16, "SYS_MODULE"), (17, "SYS_RAWIO"), (25, "SYS_TIME")):
            assert not int(held, 16) >> number & 1, name


class TestEngine:
    def test_pulls_the_real_names_offline(self, lab: Lab) -> None:
        for image in (
            "mmartial/comfyui-nvidia-docker:ubuntu24_cuda13.1-latest",
            "ollama/ollama:0.13.5",
            "ghcr.io/open-webui/open-webui:main",
        ):
            lab.ssh(f"docker pull -q {image}", timeout=120)

    def test_a_missing_tag_fails_as_in_the_world(self, lab: Lab) -> None:
        failed = lab.ssh("docker pull ollama/ollama:no-such-tag", check=False)
        assert failed.returncode == 1
        assert "not found" in failed.stderr

    def test_tests_can_add_tags(self, lab: Lab) -> None:
        tiny = f"{lab.container}-tiny"
        docker("import", "-", tiny, stdin=lab.sh("tar -c -C /etc hostname").encode())
        try:
            lab.push("ghcr.io/open-webui/open-webui:v9", tiny)
        finally:
            docker("image", "rm", tiny)
        lab.ssh("docker pull -q ghcr.io/open-webui/open-webui:v9")

    def test_a_raised_memlock_limit_does_not_fail(self, lab: Lab) -> None:
        run = "docker run --rm --ulimit memlock=-1 --entrypoint sh ollama/ollama:latest -c 'echo ran'"
        assert lab.ssh(run, timeout=120).stdout.strip() == "ran"

    def test_exec_works_in_a_container_with_raised_limits(self, lab: Lab) -> None:
        lab.ssh("docker run -d --name lim --ulimit memlock=-1 ollama/ollama:latest", timeout=120)
        try:
            assert lab.ssh("docker exec lim echo ran").stdout.strip() == "ran"
        finally:
            lab.ssh("docker rm -f lim")

    def test_containers_get_the_card(self, lab: Lab) -> None:
        run = "docker run --rm --gpus all --entrypoint nvidia-smi ollama/ollama:latest -L"
        assert "NVIDIA RTX 4000 Ada Generation" in lab.ssh(run, timeout=120).stdout

    def test_survives_a_power_cut(self, lab: Lab) -> None:
        lab.ssh("docker run -d --name keeps --restart unless-stopped ollama/ollama:latest", timeout=120)
        try:
            docker("kill", lab.container)
            docker("start", lab.container)
            lab.wait_ready()
            running = "docker inspect -f '{{.State.Running}}' keeps"
            assert until(lambda: lab.ssh(running).stdout.strip() == "true")
        finally:
            lab.ssh("docker rm -f keeps")


class TestReboot:
    def test_reboot_is_a_new_boot_with_the_same_disks(self, lab: Lab) -> None:
        before = lab.boot_id()
        lab.ssh("sudo touch /mnt/local/ssd/kept /var/tmp/kept")
        lab.ssh("sudo umount /mnt/local/nvme")
        after = lab.reboot()
        assert after != before
        assert lab.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip() == after
        lab.ssh("ls /mnt/local/ssd/kept /var/tmp/kept && mountpoint -q /mnt/local/nvme")
        assert lab.ssh("systemctl is-system-running").stdout.strip() == "running"
        assert lab.ssh("uname -n; nvidia-smi -L").stdout.startswith(lab.name)


class TestFaults:
    def test_blackhole_is_a_connect_timeout(self, lab: Lab, tmp_path: Path) -> None:
        assert direct_ssh(lab, tmp_path).returncode == 0
        with faults.blackhole(lab):
            assert "Connection timed out" in direct_ssh(lab, tmp_path).stderr
        assert direct_ssh(lab, tmp_path).returncode == 0

    def test_a_paused_host_opens_but_says_nothing(self, lab: Lab, tmp_path: Path) -> None:
        address = lab.address
        with faults.paused(lab), socket.create_connection((address, 22), timeout=2) as connection:
            connection.settimeout(1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        assert direct_ssh(lab, tmp_path).returncode == 0

    def test_without_sshd_it_refuses(self, lab: Lab, tmp_path: Path) -> None:
        with faults.without_sshd(lab):
            assert "Connection refused" in direct_ssh(lab, tmp_path).stderr
        assert direct_ssh(lab, tmp_path).returncode == 0

    def test_delay_makes_the_round_trip(self, lab: Lab) -> None:
        address = lab.address

        def round_trip() -> float:
            started = time.monotonic()
            with socket.create_connection((address, 22), timeout=5):
                return (time.monotonic() - started) * 1000

        with faults.delay(lab, 20) as means:
            assert means in ("netem", "nfqueue")
            assert until(lambda: round_trip() > 18, 5)
            # Sessions go through it too, and nothing is lost on the way.
            assert len(lab.ssh("head -c 300000 /dev/zero | base64 -w0").stdout) == 400000
        assert until(lambda: round_trip() < 15, 5)

    @pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
    def test_a_full_disk_says_so(self, lab: Lab, kind: str) -> None:
        lab.sh("mkdir -p /mnt/local/ssd/small; chown 1000:1000 /mnt/local/ssd/small")
        with faults.small_disk(lab, "/mnt/local/ssd/small", mib=8, kind=kind, full=True):
            failed = lab.ssh("head -c 2M /dev/zero >/mnt/local/ssd/small/more", check=False)
            assert "No space left on device" in failed.stderr
            assert lab.ssh("stat -c %u:%g /mnt/local/ssd/small").stdout.strip() == "1000:1000"
        assert lab.ssh("ls -A /mnt/local/ssd/small").stdout == ""

    def test_filling_needs_a_small_disk_of_ours(self, lab: Lab) -> None:
        before = lab.sh("df -BM --output=avail /mnt/local/ssd | tail -1")
        with pytest.raises(LabError):
            faults.fill(lab, "/mnt/local/ssd")
        with pytest.raises(LabError):
            faults.lay_small_disk(lab, "/mnt", mib=8)
        with pytest.raises(LabError):
            faults.lay_small_disk(lab, "/mnt/local/ssd", mib=100_000)
        assert (
            abs(int(before.strip("M \n")) - int(lab.sh("df -BM --output=avail /mnt/local/ssd | tail -1").strip("M \n")))
            < 500
        )

    def test_a_small_image_store_makes_a_pull_fail(self, lab: Lab) -> None:
        with faults.small_image_store(lab, 6):
            failed = lab.ssh("docker pull mmartial/comfyui-nvidia-docker:latest", check=False, timeout=120)
            assert failed.returncode != 0
            assert "no space left on device" in failed.stderr
        assert lab.ssh("docker pull -q mmartial/comfyui-nvidia-docker:latest", timeout=120).returncode == 0

    @pytest.mark.parametrize("disk", ["nvme", "ssd"])
    def test_an_unmounted_disk_is_an_empty_directory(self, lab: Lab, disk: str) -> None:
        lab.sh('touch "/mnt/local/$1/there"', disk)
        with faults.unmounted(lab, disk):
            assert lab.ssh(f"mountpoint -q /mnt/local/{disk}", check=False).returncode != 0
            assert lab.ssh(f"ls -A /mnt/local/{disk}").stdout == ""
        assert "there" in lab.ssh(f"ls -A /mnt/local/{disk}").stdout

    def test_gpu_faults_have_the_real_texts(self, lab: Lab) -> None:
        with faults.gpu(lab, "nocomm"):
            assert "couldn't communicate with the NVIDIA driver" in lab.ssh("nvidia-smi", check=False).stdout
        with faults.gpu(lab, "mismatch"):
            assert "Driver/library version mismatch" in lab.ssh("nvidia-smi", check=False).stdout
        with faults.gpu(lab, "hookfail"):
            run = lab.ssh("docker run --rm --gpus all ollama/ollama:latest list", check=False, timeout=120)
            assert "nvidia-container-cli" in run.stderr
        lab.ssh("nvidia-smi")
        with pytest.raises(LabError):
            faults.set_gpu_fault(lab, "$(reboot)")

    def test_another_card(self, lab: Lab) -> None:
        with faults.card(lab, name="NVIDIA RTX A4000", driver="580.95.05"):
            said = lab.ssh("nvidia-smi --query-gpu=name,driver_version --format=csv,noheader").stdout.strip()
            assert said == "NVIDIA RTX A4000, 580.95.05"

    def test_without_an_engine_the_client_says_so(self, lab: Lab) -> None:
        with faults.without_engine(lab):
            assert "Cannot connect to the Docker daemon" in lab.ssh("docker ps", check=False).stderr
        lab.ssh("docker ps")

    def test_a_killed_engine_comes_back_by_itself(self, lab: Lab) -> None:
        main = "systemctl show -P MainPID docker"
        before = lab.sh(main)
        faults.kill_engine(lab)
        assert until(lambda: lab.sh(main) not in (before, "0\n") and lab.ssh("docker ps", check=False).returncode == 0)


class TestLabs:
    def test_up_again_changes_nothing(self, lab: Lab, known_hosts: Path) -> None:
        before = lab.boot_id()
        again = machine.up(lab.name, port=lab.port, known_hosts=known_hosts)
        assert again == lab
        assert again.boot_id() == before

    def test_a_second_lab_lives_beside_the_first_and_reset_keeps_its_keys(self, lab: Lab, known_hosts: Path) -> None:
        name = f"{lab.name}-b"
        try:
            other = machine.up(name, port=machine.free_port(), comfy_first_run=7, known_hosts=known_hosts)
            boot, machine_id, engine = lab.boot_id(), other.sh("cat /etc/machine-id"), "docker info -f '{{.ID}}'"
            key, engine_id = other.ssh("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout, other.ssh(engine).stdout
            other.ssh("sudo touch /var/tmp/lost /mnt/local/ssd/lost")
            fresh = machine.reset(name)
            assert fresh == other
            assert fresh.ssh("ls /var/tmp/lost /mnt/local/ssd/lost", check=False).stdout == ""
            assert fresh.ssh("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout == key
            assert fresh.sh("cat /etc/machine-id") != machine_id
            assert fresh.ssh(engine).stdout != engine_id
            assert '"comfy_step_seconds": 0.5' in fresh.sh("cat /etc/lab/stand-in.json")
            assert lab.boot_id() == boot
            assert {lab.name, name} <= {one.name for one in machine.status()}
        finally:
            machine.down(name, forget=True, known_hosts=known_hosts)
        assert name not in {one.name for one in machine.status()}
        assert not docker("volume", "ls", "-q", "--filter", f"name=pantheon-lab-{name}-").stdout
        assert not (keys.state_root() / name).exists()
        assert lab.boot_id() == boot

    def test_two_at_once_make_one_lab(self, lab: Lab, known_hosts: Path) -> None:
        name, port = f"{lab.name}-d", machine.free_port()
        try:
            with ThreadPoolExecutor(2) as pool:
                both = list(pool.map(lambda _: machine.up(name, port=port, known_hosts=known_hosts), range(2)))
            assert both[0] == both[1]
            both[0].ssh("true")
        finally:
            machine.down(name, forget=True, known_hosts=known_hosts)

    def test_a_lab_of_another_home_is_left_alone(
        self, lab: Lab, known_hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = known_hosts.read_text()
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        with pytest.raises(LabError, match=rf"does not know the keys in .*invoke lab.reset --name {lab.name}"):
            machine.up(lab.name, known_hosts=known_hosts)
        with pytest.raises(LabError, match="does not know the keys in"):
            machine.get(lab.name)
        assert known_hosts.read_text() == before

    def test_the_shipped_hosts_file_is_for_the_lab_as_it_usually_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        usual = Lab("lab", 2222, "ubuntu", "24.04", keys.Keys(keys.state_root() / "lab"))
        assert commands.next_steps(usual) == "Next: invoke bringup --host lab"
        (shipped,) = [host for host in inventory.load(keys.ROOT / "hosts.toml").hosts.values() if host.name == "lab"]
        assert (shipped.port, Path(shipped.identity).expanduser()) == (usual.port, usual.keys.identity)
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        elsewhere = replace(usual, keys=keys.Keys(keys.state_root() / "lab"))
        assert not any(one.is_as_shipped for one in (elsewhere, replace(usual, port=2223), replace(usual, name="two")))

    def test_ssh_with_a_space_in_home(self, lab: Lab, tmp_path: Path) -> None:
        odd = replace(lab, keys=keys.Keys(tmp_path / "my home"))
        shutil.copytree(lab.keys.directory, odd.keys.directory)
        assert odd.ssh("whoami").stdout == "ops\n"

    def test_a_shell_on_a_lab_that_stands_still_names_what_starts_it(
        self, lab: Lab, capsys: pytest.CaptureFixture[str]
    ) -> None:
        docker("pause", lab.container)
        try:
            assert commands.shell(lab.name) == 1
        finally:
            docker("unpause", lab.container)
        assert capsys.readouterr().err == f"✗ lab {lab.name} is paused. Next: invoke lab.up --name {lab.name}\n"

    def test_what_to_type_next_holds_with_a_space_in_home(self, lab: Lab, tmp_path: Path) -> None:
        odd = replace(lab, keys=keys.Keys(tmp_path / "my home"))
        odd.keys.directory.mkdir()
        for name in ("id_ed25519", "host_ed25519"):
            (odd.keys.directory / name).touch()
        assert shlex.split(commands.next_steps(odd))[-1] == str(odd.keys.directory / "hosts.toml")

    def test_a_taken_port_is_named(self, lab: Lab) -> None:
        with pytest.raises(LabError, match=rf"port {lab.port} .* is taken.*lab.up --name .* --port {lab.port + 1}"):
            machine.up(f"{lab.name}-c", port=lab.port)
        with pytest.raises(LabError, match=r"invoke lab\.down"):
            machine.up(lab.name, port=1)

    def test_a_container_that_is_not_ours_is_left_alone(self, lab: Lab) -> None:
        image = docker("container", "inspect", "-f", "{{.Config.Image}}", lab.container).stdout.decode().strip()
        foreign = f"{lab.container}-foreign"
        docker("create", "--name", foreign, image)
        try:
            for act in (machine.up, machine.down, machine.reset):
                with pytest.raises(LabError, match="left alone"):
                    act(f"{lab.name}-foreign")
            docker("container", "inspect", foreign)
        finally:
            docker("rm", foreign)

    @pytest.mark.parametrize("name", ["", "A", "-x", "x-", "a b", "$(id)", "x" * 31, "../x"])
    def test_odd_names_are_refused(self, name: str) -> None:
        with pytest.raises(LabError, match="cannot name a lab"):
            machine.up(name)

    def test_the_host_key_is_recorded_in_place_of_our_own_line_alone(self, lab: Lab, tmp_path: Path) -> None:
        file = tmp_path / "known_hosts"
        pattern = f"[127.0.0.1]:{lab.port}"
        others = f"# a comment\nexample ssh-ed25519 AAAA\n{pattern}1 ssh-ed25519 BBBB pantheon-lab-x\n"
        file.write_text(f"{others}{pattern} ssh-ed25519 OLD pantheon-lab-old\n")
        assert lab.trust(file) is None
        assert lab.trust(file) is None
        kept, line = file.read_text().rsplit("\n", 2)[:2]
        assert kept + "\n" == others
        assert line.split()[:3] == [pattern, *lab.keys.public(lab.keys.host_key).split()]
        file.write_text(f"{pattern} ssh-ed25519 FOREIGN\n")
        complaint = lab.trust(file)
        assert complaint is not None
        assert "another key" in complaint
        assert "FOREIGN" in file.read_text()

    def test_no_engine_is_one_clear_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
        with pytest.raises(LabError, match=r"no Docker engine answers on this machine.*make demo"):
            machine.up("t-none", port=machine.free_port())

    def test_no_docker_command_is_one_clear_sentence(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(LabError, match=r"there is no `docker` command.*make demo"):
            machine.up("t-none", port=machine.free_port())


class TestBase:
    def test_private_sources_take_the_machines_mirror_and_key(self, tmp_path: Path) -> None:
        apt, target = tmp_path / "apt", tmp_path / "target"
        (apt / "sources.list.d").mkdir(parents=True)
        target.mkdir()
        own = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n"
        security = own.replace("bookworm bookworm-updates", "bookworm-security")
        (apt / "sources.list.d/debian.sources").write_text(f"{own}Signed-By: /key.gpg\n\n{security}")
        (apt / "sources.list").write_text(
            "# deb http://commented.example bookworm main\n"
            "deb [signed-by=/k] http://one.example/debian bookworm main contrib\n"
            "deb http://one.example/debian bookworm-updates main\n"
            "deb http://vendor.example/x stable main\n"
        )
        assert base.write_sources(target, apt=apt, codename="bookworm") == 2
        assert sorted(path.read_text() for path in target.iterdir()) == [
            own.replace("bookworm bookworm-updates", "trixie") + "Signed-By: /key.gpg\n",
            "deb [signed-by=/k] http://one.example/debian trixie main\n",
        ]

    def test_a_base_that_cannot_be_had_says_what_to_try(self) -> None:
        with pytest.raises(LabError, match=r"nosuch\.invalid/base:x .*could not be pulled.*Next: "):
            base.ensure("nosuch.invalid/base:x", lambda _line: None)


class TestEngineSetup:
    """lab.engine, as far as it can be asked without installing anything; README.md says where the rest was tried."""

    def test_an_engine_that_answers_is_enough(self) -> None:
        lines: list[str] = []
        engine.ensure(lines.append)
        assert "answers" in lines[0]

    def test_who_is_not_root_gets_one_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "answer", lambda: ("", "there is no docker command"))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(engine, "is_debian", lambda: True)
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        with pytest.raises(LabError, match=r"sudo apt-get update && sudo apt-get install -y docker\.io .*mmdebstrap"):
            engine.ensure(lambda _line: None)

    def test_a_user_the_engine_refuses_gets_the_group(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "answer", lambda: ("", "permission denied while trying to connect"))
        with pytest.raises(LabError, match=r"usermod -aG docker"):
            engine.ensure(lambda _line: None)

    def test_an_engine_elsewhere_is_not_replaced_by_one_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "answer", lambda: ("", "no route to host"))
        monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2375")
        with pytest.raises(LabError, match=r"DOCKER_HOST is tcp://elsewhere:2375"):
            engine.ensure(lambda _line: None)


class TestCache:
    def test_an_entry_is_made_once_and_found_by_another(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        made = []

        def make(path: Path) -> None:
            made.append(path)
            path.write_text("content")

        first = cache.file("kind", "key", ".tar", make)
        assert cache.file("kind", "key", ".tar", make) == first
        assert first.read_text() == "content"
        assert len(made) == 1
        assert first.parent == tmp_path / "pantheon"

    def test_a_build_that_was_cut_leaves_no_entry(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

        def make(path: Path) -> None:
            path.write_text("half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            cache.file("kind", "key", ".tar", make)
        assert list((tmp_path / "pantheon").iterdir()) == []

    def test_the_digest_sees_contents_names_and_the_executable_bit(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "a").write_text("one")
        seen = {cache.digest_files([source])}
        (source / "a").chmod(0o755)
        seen.add(cache.digest_files([source]))
        (source / "a").write_text("two")
        seen.add(cache.digest_files([source]))
        (source / "a").rename(source / "b")
        seen.add(cache.digest_files([source]))
        assert len(seen) == 4
        (source / ".hidden").write_text("x")
        assert cache.digest_files([source]) in seen
