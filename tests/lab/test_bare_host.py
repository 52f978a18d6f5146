"""The bare lab host: that the vendors' documented steps install on it what they should, and that its faults are real.

One host goes from bare to installed in the course of this file, so the tests stand in the order in which they run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import World, until

from lab import commands, faults, install_faults, machine
from lab.machine import Lab
from lab.outer import LabError, silent
from pantheon import inventory

pytestmark = pytest.mark.lab

# docs.docker.com/engine/install/ubuntu: the packages to remove, the repository, the packages to install.
REMOVE = """
sudo apt remove -y $(dpkg --get-selections docker.io docker-compose docker-compose-v2 docker-doc podman-docker \
    containerd runc | cut -f1)
"""
DOCKER_SOURCE = """
sudo apt update
sudo apt install -y ca-certificates curl
sudo install -m 0755 -d /etc/apt/keyrings
sudo curl -fsSL https://download.docker.com/linux/ubuntu/gpg -o /etc/apt/keyrings/docker.asc
sudo chmod a+r /etc/apt/keyrings/docker.asc
sudo tee /etc/apt/sources.list.d/docker.sources <<EOF
Types: deb
URIs: https://download.docker.com/linux/ubuntu
Suites: $(. /etc/os-release && echo "${UBUNTU_CODENAME:-$VERSION_CODENAME}")
Components: stable
Signed-By: /etc/apt/keyrings/docker.asc
EOF
sudo apt update
"""
DOCKER = "sudo apt install -y docker-ce docker-ce-cli containerd.io docker-buildx-plugin docker-compose-plugin"
# docs.nvidia.com, Container Toolkit, installation with apt.
TOOLKIT = """
curl -fsSL https://nvidia.github.io/libnvidia-container/gpgkey | sudo gpg --dearmor -o /usr/share/keyrings/\
nvidia-container-toolkit-keyring.gpg \
  && curl -s -L https://nvidia.github.io/libnvidia-container/stable/deb/nvidia-container-toolkit.list | \
    sed 's#deb https://#deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg] https://#g' | \
    sudo tee /etc/apt/sources.list.d/nvidia-container-toolkit.list
sudo apt-get update
export NVIDIA_CONTAINER_TOOLKIT_VERSION=1.18.1-1
sudo apt-get install -y \
    nvidia-container-toolkit=${NVIDIA_CONTAINER_TOOLKIT_VERSION} \
    nvidia-container-toolkit-base=${NVIDIA_CONTAINER_TOOLKIT_VERSION} \
    libnvidia-container-tools=${NVIDIA_CONTAINER_TOOLKIT_VERSION} \
    libnvidia-container1=${NVIDIA_CONTAINER_TOOLKIT_VERSION}
sudo nvidia-ctk runtime configure --runtime=docker
sudo systemctl restart docker
"""
DRIVER = "nvidia-driver-590-server-open"
GPU = "sudo docker run --rm {} --entrypoint nvidia-smi ollama/ollama:0.13.5 -L"


@pytest.fixture
def lab(bare: World) -> Lab:
    return bare.lab


def fails(lab: Lab, command: str) -> str:
    """What a command says that has to fail."""
    done = lab.ssh(command, check=False, timeout=120)
    assert done.returncode != 0, done.stdout
    return done.stdout + done.stderr


def installed(lab: Lab, *packages: str) -> dict[str, str]:
    listed = lab.ssh("dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n'").stdout.splitlines()
    found = {name: version for state, name, version in (line.split() for line in listed) if state == "ii"}
    return {name: found[name] for name in packages if name in found}


class TestAsTheInstallerLeavesIt:
    def test_nothing_of_the_vendors_is_there(self, lab: Lab) -> None:
        assert lab.ssh("systemctl is-system-running").stdout.strip() == "running"
        for name in ("docker", "dockerd", "containerd", "nvidia-smi", "nvidia-ctk", "snap"):
            assert not lab.ssh(f"command -v {name}", check=False).stdout, name
        assert lab.ssh("ls -d /etc/docker /sys/module/nvidia /proc/driver/nvidia", check=False).stdout == ""
        assert lab.ssh("id -nG").stdout.split() == ["ops", "sudo"]
        assert lab.ssh("sudo -n python3 -c 'print(1)'; command -v curl gpg").stdout.split()[0] == "1"

    def test_no_mirror_is_named_that_cannot_be_reached(self, lab: Lab) -> None:
        named = lab.ssh("grep -rhoE '(https?|file|mirror).*://[^/ ]+' /etc/apt").stdout.split()
        assert [name for name in named if "://" in name] == ["https://archive.lab.test"]

    def test_it_knows_what_it_is_and_whose_keys_sign(self, lab: Lab, tmp_path: Path) -> None:
        again = machine.get(lab.name)
        assert again.bare
        assert again == lab
        assert not again.is_as_shipped
        assert [one.bare for one in machine.status() if one.name == lab.name] == [True]
        assert "invoke bringup --install --reboot --host lab" in commands.next_steps(lab)
        host = inventory.load(lab.hosts_file(tmp_path / "hosts.toml")).hosts["lab"]
        for key, url in (
            (host.install.docker_key, "https://download.docker.com/linux/ubuntu/gpg"),
            (host.install.toolkit_key, "https://nvidia.github.io/libnvidia-container/gpgkey"),
        ):
            shown = lab.ssh(f"curl -fsSL {url} | gpg --show-keys --with-colons 2>/dev/null").stdout
            assert f"fpr:::::::::{key}:" in shown

    def test_a_ready_lab_is_not_found_where_a_bare_one_is_asked_for(self, lab: Lab) -> None:
        found = machine.find(lab.name)
        assert found
        assert machine.revive(found, None, "auto", True, silent) == lab
        with pytest.raises(LabError, match="is up and ready, not bare"):
            machine.revive(replace(found, bare=False), None, "auto", True, silent)

    def test_the_sites_give_files_and_nothing_else(self, lab: Lab) -> None:
        for url in ("https://download.docker.com/", "https://download.docker.com/linux/../../../keys.json"):
            assert "404" in fails(lab, f"curl -fsS --path-as-is {url}")
        assert "404" in fails(lab, "curl -fsS -H 'Host: ..' https://download.docker.com/keys.json")


@pytest.fixture(scope="class")
def docker_source(bare: World) -> Iterator[None]:
    """Docker's repository is there, until the end of the class."""
    bare.lab.ssh(DOCKER_SOURCE)
    yield
    bare.lab.sh("rm -f /etc/apt/sources.list.d/docker.sources /etc/apt/keyrings/docker.asc")


@pytest.mark.usefixtures("docker_source")
class TestFaultsOfAnInstallation:
    """Before anything is installed. Each leaves the host as it was."""

    def test_locks_are_held_by_a_process_that_apt_names(self, lab: Lab) -> None:
        with install_faults.apt_lock_held(lab) as pid:
            said = fails(lab, "sudo apt-get install -y docker-doc")
            assert f"/var/lib/dpkg/lock-frontend. It is held by process {pid} (unattended-upgr)" in said
        with install_faults.apt_lock_held(lab, name="apt-get", locks=(install_faults.LISTS,)) as pid:
            assert f"/var/lib/apt/lists/lock. It is held by process {pid} (apt-get)" in fails(
                lab, "sudo apt-get update"
            )
        lab.ssh("sudo apt-get update -qq")

    def test_a_lock_can_come_free_by_itself(self, lab: Lab) -> None:
        with install_faults.apt_lock_held(lab, seconds=1):
            lab.ssh("sudo apt-get -o DPkg::Lock::Timeout=20 install -y docker-doc")
        with install_faults.slow_dpkg(lab, 0.5):
            began = time.monotonic()
            lab.ssh("sudo apt-get purge -y docker-doc")
            assert time.monotonic() - began > 0.5

    @pytest.mark.parametrize("package", [install_faults.HALF, "containerd.io"])
    def test_dpkg_was_killed_in_the_middle(self, lab: Lab, package: str) -> None:
        install_faults.interrupt_dpkg(lab, package)
        assert package in lab.ssh("sudo dpkg --audit").stdout
        assert "dpkg was interrupted, you must manually run" in fails(lab, "sudo apt-get install -y docker-doc")
        lab.ssh("sudo dpkg --configure -a")
        assert lab.ssh("sudo dpkg --audit").stdout == ""
        assert installed(lab, package)
        lab.ssh(f"sudo apt-get purge -y {package}")

    def test_another_key_and_a_stranger_s_signature(self, lab: Lab) -> None:
        url = "https://download.docker.com/linux/ubuntu/gpg"
        shown = f"curl -fsSL {url} | gpg --show-keys --with-colons 2>/dev/null | sed -n 's/^fpr:*//p'"
        with install_faults.bad_key(lab):
            assert re.fullmatch("[0-9A-F]{40}:", stranger := lab.ssh(shown).stdout.strip())
        assert lab.ssh(shown).stdout.strip() == f"{lab.docker_key}:" != stranger
        with install_faults.other_key_signs(lab):
            assert "NO_PUBKEY" in lab.ssh("sudo apt-get update", check=False).stderr
        assert lab.ssh("sudo apt-get update").stderr == ""

    def test_sites_that_do_not_answer(self, lab: Lab) -> None:
        with install_faults.sites_down(lab):
            assert "Could not connect to download.docker.com:443" in lab.ssh("sudo apt-get update", check=False).stderr
        assert lab.ssh("sudo apt-get update").stderr == ""

    def test_a_source_written_the_old_way(self, lab: Lab) -> None:
        install_faults.conflicting_source(lab)
        assert "Conflicting values set for option Signed-By" in fails(lab, "sudo apt-get update")
        lab.sh('rm "$@"', install_faults.OLD_SOURCE, install_faults.OLD_KEYRING)

    def test_another_branch_under_the_wanted_one_s_name(self, lab: Lab) -> None:
        simulate = f"sudo apt-get update -qq; apt-get install -s {DRIVER}"
        with install_faults.another_branch(lab):
            came = lab.ssh(simulate).stdout
            assert "Inst libnvidia-compute-595-server (595.45.04" in came
            assert f"Inst {DRIVER} (595.45.04" in came
        assert "595" not in lab.ssh(simulate).stdout

    def test_docker_as_a_snap(self, lab: Lab) -> None:
        install_faults.snap_docker(lab)
        assert lab.ssh("bash -lc 'readlink $(command -v docker)'").stdout.strip() == "/usr/bin/snap"
        assert re.search(r"^docker +28", lab.ssh("snap list").stdout, re.MULTILINE)
        assert lab.ssh("sudo snap remove docker").stdout == "docker removed\n"
        assert "no matching snaps" in fails(lab, "snap list docker")
        lab.sh("rm /usr/bin/snap; rm -r /snap /var/snap /var/lib/snapd")


class TestTheDocumentedSteps:
    """Word for word, in order, offline."""

    def test_the_distribution_s_engine_gives_way(self, lab: Lab) -> None:
        install_faults.conflicting_packages(lab)
        assert set(installed(lab, "docker.io", "containerd", "runc")) == {"docker.io", "containerd", "runc"}
        assert lab.ssh("sudo docker version --format '{{.Server.Version}}'").stdout
        lab.ssh(REMOVE, timeout=120)
        assert not installed(lab, "docker.io", "docker-compose-v2", "containerd", "runc")
        # Its package leaves the socket listening with nobody behind it: an engine that is installed now cannot start.
        assert lab.ssh("systemctl is-active docker.socket").stdout == "active\n"
        lab.ssh("sudo systemctl stop docker.socket")

    def test_docker(self, lab: Lab) -> None:
        lab.ssh(f"set -e; {DOCKER_SOURCE}{DOCKER}", timeout=120)
        versions = installed(lab, "docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin")
        assert len(versions) == 4
        assert re.fullmatch(r"5:\d+\.\d+\.\d+-1~ubuntu\.24\.04~noble", versions["docker-ce"])
        assert lab.ssh("systemctl is-enabled docker containerd").stdout.split() == ["enabled", "enabled"]
        assert lab.ssh("sudo docker compose version --short").stdout.strip().startswith("2.")
        run = "sudo docker run --rm --ulimit memlock=-1 --entrypoint sh ollama/ollama:0.13.5 -c 'echo ran'"
        assert lab.ssh(run, timeout=120).stdout == "ran\n"

    def test_a_broken_daemon_json(self, lab: Lab) -> None:
        install_faults.break_daemon_json(lab)
        assert "invalid character" in fails(lab, "sudo dockerd --validate --config-file=/etc/docker/daemon.json")
        assert "failed" in fails(lab, "sudo systemctl restart docker")
        lab.sh("rm /etc/docker/daemon.json")
        faults.start_engine(lab)

    def test_toolkit(self, lab: Lab) -> None:
        lab.ssh(f"set -e; {TOOLKIT}", timeout=120)
        assert '"nvidia"' in lab.ssh("sudo docker info --format '{{json .Runtimes}}'").stdout
        assert "ERROR_LIBRARY_NOT_FOUND" in fails(lab, "sudo nvidia-ctk cdi generate")
        assert "libnvidia-ml.so.1" in fails(lab, GPU.format("--gpus all"))

    def test_the_driver_works_after_a_reboot_and_not_before(self, lab: Lab) -> None:
        lab.ssh(f"sudo DEBIAN_FRONTEND=noninteractive apt-get install -y {DRIVER}", timeout=120)
        assert "couldn't communicate with the NVIDIA driver" in fails(lab, "nvidia-smi")
        assert lab.ssh("cat /run/reboot-required.pkgs").stdout == f"{DRIVER}\n"
        assert lab.ssh("modinfo -k $(uname -r) -F version nvidia").stdout == "590.48.01\n"
        assert "Driver Not Loaded" in fails(lab, "sudo nvidia-ctk cdi generate")
        before = lab.boot_id()
        assert lab.reboot() != before
        assert lab.ssh("systemctl is-system-running").stdout.strip() == "running"
        assert lab.ssh("cat /sys/module/nvidia/version").stdout == "590.48.01\n"
        assert "Open Kernel Module" in lab.ssh("cat /proc/driver/nvidia/version").stdout
        assert lab.ssh("ls /run/reboot-required", check=False).returncode != 0
        for way in ("--gpus all", "--runtime=nvidia", "--device nvidia.com/gpu=all"):
            assert "RTX 4000 Ada" in lab.ssh(GPU.format(way), timeout=60).stdout


class TestAfterwards:
    def test_a_new_kernel_has_the_module_or_not(self, lab: Lab) -> None:
        install_faults.new_kernel(lab, "6.8.0-998-generic")
        assert lab.ssh("modinfo -k 6.8.0-998-generic -F version nvidia").stdout == "590.48.01\n"
        install_faults.new_kernel(lab, "6.8.0-999-generic", module=False)
        assert "not found" in fails(lab, "modinfo -k 6.8.0-999-generic nvidia")
        assert lab.ssh("readlink /boot/vmlinuz /boot/vmlinuz.old").stdout.split() == [
            "vmlinuz-6.8.0-999-generic",
            "vmlinuz-6.8.0-998-generic",
        ]

    def test_another_driver_is_a_mismatch_until_the_reboot(self, lab: Lab) -> None:
        lab.ssh("sudo DEBIAN_FRONTEND=noninteractive apt-get install -y nvidia-driver-595-server", timeout=120)
        assert not installed(lab, DRIVER, "nvidia-dkms-590-server-open", "libnvidia-compute-590-server")
        assert "Driver/library version mismatch" in fails(lab, "nvidia-smi")
        lab.reboot()
        assert "| NVIDIA-SMI 595.45.04" in lab.ssh("nvidia-smi").stdout
        assert lab.ssh("modinfo -F license nvidia").stdout == "NVIDIA\n"

    def test_a_boot_of_a_kernel_without_the_module_loads_no_driver(self, lab: Lab) -> None:
        install_faults.without_module(lab)
        lab.ssh("nvidia-smi -L")
        lab.sh("systemctl restart lab-gpu.service")  # what a boot does with the module that it finds
        assert "couldn't communicate with the NVIDIA driver" in fails(lab, "nvidia-smi")

    def test_a_reset_is_bare_again(self, bare: World) -> None:
        bare.reset()
        assert bare.lab.ssh("command -v dockerd nvidia-smi", check=False).stdout == ""
        assert until(lambda: machine.get(bare.lab.name).bare, 1)
