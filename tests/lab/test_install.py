"""From a bare host to a validated stack in one command, and everything that can be in the way of it.

One host goes from bare to installed in the course of this file, so the tests stand in the order in which they run.
"""

from __future__ import annotations

import json
import re

import pytest
from conftest import World, until

from lab import faults, install_faults

pytestmark = pytest.mark.lab

STATE = "dpkg-query -W; find /etc/apt /usr/share/keyrings /etc/docker* -type f -exec sha256sum {} + | sort"
INSTALLED = (
    "dpkg-query -W -f '${Package} ${db:Status-Status}\\n' | grep -E '^(docker-ce|nvidia-|containerd.io)' || true"
)


@pytest.fixture(scope="module")
def host(bare: World) -> World:
    return bare


class TestRefused:
    """On a host that stays bare."""

    def test_plan_shows_and_touches_nothing(self, host: World) -> None:
        with host.unchanged():
            done = host.invoke("bringup", "--install", "--plan")
        assert done.code == 2, done.seen
        for said in ("NVIDIA driver 590 (server)", "Docker", "NVIDIA Container Toolkit", "only with --reboot"):
            assert said in done.out, done.seen
        assert "Traceback" not in done.all, done.seen

    def test_without_install_the_command_that_installs_is_named(self, host: World) -> None:
        done = host.invoke("bringup", "--yes")
        assert done.code == 2, done.seen
        assert "invoke prereqs --install --host lab" in done.out, done.seen

    def test_a_key_with_another_fingerprint(self, host: World) -> None:
        before = host.sh(STATE)
        with install_faults.bad_key(host.lab, "docker"):
            done = host.invoke("prereqs", "--install", "--yes", "--reboot")
        assert done.code == 1, done.seen
        assert host.lab.docker_key in done.all.replace(" ", ""), done.seen
        assert host.sh(STATE) == before, "nothing was written"

    def test_a_driver_package_that_brings_another_branch(self, host: World) -> None:
        with install_faults.another_branch(host.lab, alone=True):
            blind = host.invoke("prereqs", "--install", "--yes")  # apt has no lists yet: found out on the host
            shown = host.invoke("prereqs", "--install", "--plan")  # and now it is known beforehand
        host.sh("apt-get update -qq")
        assert blind.code == 1, blind.seen
        assert re.search(r"would bring 595\.45\.04\S*, not 590", blind.all), blind.seen
        assert host.sh(INSTALLED) == "", "nothing was installed"
        assert shown.code == 2, shown.seen
        assert "nvidia-driver-590-server would bring 595.45.04, not 590" in shown.out, shown.seen
        assert "gpu.driver" in shown.out, shown.seen

    def test_a_daemon_json_that_is_none(self, host: World) -> None:
        install_faults.break_daemon_json(host.lab)
        with host.unchanged():
            done = host.invoke("prereqs", "--install", "--yes")
        assert done.code == 2, done.seen
        assert "/etc/docker/daemon.json is broken: line" in done.out, done.seen
        host.sh("rm /etc/docker/daemon.json")


class TestTheDistributionsEngine:
    """Somebody typed `apt install docker.io`. The host is bare again at the end."""

    def test_with_a_container_it_stays_and_the_plan_says_so(self, host: World) -> None:
        install_faults.conflicting_packages(host.lab, "docker.io", "docker-compose-v2", "docker-buildx")
        host.docker("pull", "-q", "ollama/ollama:0.13.5")
        host.docker("create", "--name", "somebodys", "ollama/ollama:0.13.5")
        planned = host.invoke("prereqs", "--install", "--plan")
        assert planned.code == 2, planned.seen
        assert re.search(r"docker\.io \S+ stays, in the place of Docker's packages: it has 1 container", planned.out)
        assert "sudo apt-get remove docker.io docker-compose-v2 containerd runc docker-buildx" in planned.out
        assert "docker-ce" not in planned.out, planned.seen
        host.docker("rm", "somebodys")

    def test_without_one_it_gives_way(self, host: World) -> None:
        done = host.invoke("prereqs", "--install", "--yes", timeout=180)
        assert done.code == 2, done.seen  # for the driver, which is another matter
        assert "a reboot is needed" in done.err, done.seen
        assert "remove docker.io, docker-compose-v2, containerd, runc, docker-buildx" in done.out, done.seen
        there = host.sh("dpkg-query -W -f '${Package} ${db:Status-Status}\\n' | sed -n 's/ installed$//p'").split()
        assert {"docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"} <= set(there)
        assert not {"docker.io", "docker-compose-v2", "docker-buildx", "containerd", "runc"} & set(there)
        assert host.docker("version", "--format", "{{.Server.Version}}")
        assert "ollama/ollama" in host.docker("images"), "what is in /var/lib/docker stays"

    def test_and_then_there_is_nothing_of_it_to_do(self, host: World) -> None:
        with host.unchanged():
            again = host.invoke("prereqs", "--install", "--plan")
        assert "docker" not in again.out.lower(), again.seen
        host.reset()


class TestFromBare:
    """A host as the installer leaves it."""

    def test_one_command(self, host: World) -> None:
        boot = host.lab.boot_id()
        done = host.invoke("bringup", "--install", "--reboot", "--yes", timeout=180)
        assert done.code == 0, done.seen
        assert host.lab.boot_id() != boot
        for said in ("it goes down for its reboot", "it is back", "Loopback only; logs clean.", "comfy      healthy"):
            assert said in done.out, done.seen
        runtimes = json.loads(host.docker("info", "--format", "{{json .Runtimes}}"))
        assert "nvidia" in runtimes
        daemon = json.loads(host.sh("cat /etc/docker/daemon.json"))
        assert daemon["log-opts"]["max-size"], daemon
        assert host.sh("modinfo -F version nvidia") == "590.48.01"
        assert "/nvidia.yaml" in host.sh("ls /etc/cdi/nvidia.yaml /run/cdi/nvidia.yaml 2>/dev/null || true")

    def test_the_second_time_there_is_nothing_to_do(self, host: World) -> None:
        with host.unchanged():
            done = host.invoke("bringup", "--install", "--reboot", "--yes")
        assert done.code == 0, done.seen
        assert "nothing to do" in done.out, done.seen

    def test_what_was_in_daemon_json_stays(self, host: World) -> None:
        host.sh(
            "python3 - <<'E'\nimport json\np = '/etc/docker/daemon.json'\nd = json.load(open(p))\n"
            "d.pop('runtimes'); d['labels'] = ['rack=7']\njson.dump(d, open(p, 'w'))\nE"
        )
        done = host.invoke("prereqs", "--install", "--yes")
        assert done.code == 0, done.seen
        daemon = json.loads(host.sh("cat /etc/docker/daemon.json"))
        assert daemon["labels"] == ["rack=7"]
        assert "nvidia" in daemon["runtimes"]
        host.wait_healthy()

    def test_a_daemon_json_with_which_the_engine_does_not_start_is_rolled_back(self, host: World) -> None:
        """dockerd finds its file valid and does not start with it. The file that was there is put back."""
        text = host.sh("cat /etc/docker/daemon.json")
        valid = json.loads(text)
        valid.pop("runtimes")
        valid["bridge"] = "nothere0"
        install_faults.break_daemon_json(host.lab, json.dumps(valid))
        try:
            done = host.invoke("prereqs", "--install", "--yes")
            assert done.code == 1, done.seen
            assert json.loads(host.sh("cat /etc/docker/daemon.json")) == valid
        finally:
            install_faults.break_daemon_json(host.lab, text)
            faults.start_engine(host.lab)

    def test_apt_killed_in_the_middle_and_then_a_held_lock(self, host: World) -> None:
        """As after a power cut in the middle of dpkg; and unattended-upgrades is at work when one goes on."""
        host.sh("apt-get purge -qq -y nvidia-container-toolkit >/dev/null")
        with install_faults.slow_dpkg(host.lab, 2), host.running("prereqs", "--install", "--yes") as running:
            until(lambda: host.sh("pgrep -f '[d]pkg .*--status-fd'", check=False), 40, "dpkg at work")
            host.sh("pkill -KILL -x apt-get; pkill -KILL -x dpkg", check=False)
            killed = running.end(40)
        assert killed.code == 1, killed
        with host.running("prereqs", "--install", "--yes") as running:
            with install_faults.apt_lock_held(host.lab) as pid:
                running.wait_for("unattended-upgr", 40)
                assert str(pid) in running.wait_for(str(pid), 10)
            done = running.end(60)
        assert done.code == 0, done
        assert "installed nvidia-container-toolkit" in done.all, done
        assert host.sh("dpkg --audit") == ""
        host.wait_healthy()

    def test_another_branch_needs_a_reboot_and_without_it_says_so(self, host: World) -> None:
        """hosts.toml asks for 595 now."""
        host.inventory(gpu={"driver": "595"})
        boot = host.lab.boot_id()
        done = host.invoke("prereqs", "--install", "--yes")
        assert done.code == 2, done.seen
        for said in ("driver 590.48.01 → 595", "Stops comfy, ollama", "only with --reboot"):
            assert said in done.out, done.seen
        assert "the kernel has module 590.48.01 loaded, the installed driver is 595.45.04" in done.err, done.seen
        assert "invoke prereqs --install --reboot --host lab" in done.err, done.seen
        assert host.lab.boot_id() == boot
        again = host.invoke("prereqs", "--install", "--plan")
        assert again.code == 2, again.seen
        assert "reboot lab" in again.out, again.seen
