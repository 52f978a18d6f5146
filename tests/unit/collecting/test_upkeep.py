"""The clock, the journal's bounds, what apt does by itself."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pantheon.collecting import upkeep
from pantheon.facts import decode
from pantheon.looks.text import Unread
from pantheon.upkeep import Journal, Upgrades
from tests.unit.looks.fakes import FakeHost


def journal(host: FakeHost) -> Journal:
    found = decode(Journal, upkeep.journal({}, str(host.root)), "journal")
    assert isinstance(found, Journal)
    return found


class TestJournal:
    def test_no_systemd(self, host: FakeHost) -> None:
        with pytest.raises(Unread, match="not run by systemd"):
            journal(host)

    def test_defaults(self, host: FakeHost) -> None:
        host.write("/usr/lib/systemd/journald.conf.d/syslog.conf", "[Journal]\nForwardToSyslog=yes\n")
        host.write("/etc/systemd/journald.conf", "[Journal]\n#SystemMaxUse=\n#Storage=auto\n")
        found = journal(host)
        assert (found.most, found.at, found.storage) == ("", "", "auto")
        assert found.total_bytes > 0

    def test_the_last_word_wins_by_name(self, host: FakeHost) -> None:
        host.at("/run/systemd").mkdir(parents=True)
        host.write("/etc/systemd/journald.conf", "[Journal]\nSystemMaxUse=1G\nStorage=volatile\n")
        host.write("/usr/lib/systemd/journald.conf.d/50-x.conf", "[Journal]\n SystemMaxUse = 2G \n")
        host.write("/etc/systemd/journald.conf.d/40-y.conf", "[Journal]\nSystemMaxUse=3G\n")
        found = journal(host)
        assert (found.most, found.at) == ("2G", "/usr/lib/systemd/journald.conf.d/50-x.conf")
        assert (found.storage, found.storage_at) == ("volatile", "/etc/systemd/journald.conf")

    def test_a_file_in_etc_hides_its_namesake(self, host: FakeHost) -> None:
        host.write("/usr/lib/systemd/journald.conf.d/50-x.conf", "[Journal]\nSystemMaxUse=2G\n")
        host.write("/etc/systemd/journald.conf.d/50-x.conf", "")
        host.write("/etc/systemd/journald.conf.d/60-x.conf.dpkg-old", "SystemMaxUse=9G\n")
        assert journal(host).most == ""

    def test_an_empty_value_takes_it_back(self, host: FakeHost) -> None:
        host.write("/usr/lib/systemd/journald.conf", "[Journal]\nSystemMaxUse=2G\n")
        host.write("/etc/systemd/journald.conf.d/x.conf", "[Journal]\nSystemMaxUse=\n")
        found = journal(host)
        assert (found.most, found.at) == ("", "")


class TestClock:
    def test_the_kernel_of_this_machine_says_one_or_the_other(self) -> None:
        assert upkeep.synchronised() in (True, False)

    def test_in_a_container(self, host: FakeHost) -> None:
        host.write("/run/systemd/container", "docker\n")
        found: Any = upkeep.clock({}, str(host.root))
        assert found["container"] == "docker"


DUMP = """\
APT "";
APT::Periodic "";
APT::Periodic::Unattended-Upgrade "{periodic}";
APT::Periodic::Enable "{enable}";
Unattended-Upgrade::Allowed-Origins "";
Unattended-Upgrade::Allowed-Origins:: "${{distro_id}}:${{distro_codename}}-security";
Unattended-Upgrade::Origins-Pattern:: "origin=Docker";
Unattended-Upgrade::Package-Blacklist "";
Unattended-Upgrade::Package-Blacklist:: "nvidia-";
"""
TIMER = "apt-daily-upgrade.timer"
STATUS = """\
Package: docker-ce
Status: hold ok installed
Version: 1

Package: nvidia-driver-590-server
Status: install ok installed
Version: 2

Package: libnvidia-container1
Status: install ok installed

Package: docker.io
Status: deinstall ok config-files

Package: vim
Status: install ok installed
"""


class TestUpgrades:
    @pytest.fixture(autouse=True)
    def path(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        host.bin.mkdir(exist_ok=True)
        monkeypatch.setenv("PATH", f"{host.bin}:{os.environ['PATH']}")

    def read(
        self, host: FakeHost, *, periodic: str = "1", enable: str = "1", status: int = 0, timer: str = "enabled"
    ) -> Upgrades:
        if timer != "disabled":
            host.write(f"/etc/systemd/system/timers.target.wants/{TIMER}", "")
        if timer == "masked":
            host.at(f"/etc/systemd/system/{TIMER}").symlink_to("/dev/null")
        text = DUMP.format(periodic=periodic, enable=enable)
        host.tool("apt-config", f"cat <<'END'\n{text}END\nexit {status}\n")
        host.write("/var/lib/dpkg/status", STATUS)
        found = decode(Upgrades, upkeep.upgrades({}, str(host.root)), "upgrades")
        assert isinstance(found, Upgrades)
        return found

    def test_all(self, host: FakeHost) -> None:
        host.write("/usr/bin/unattended-upgrade", "", 0o755)
        assert self.read(host) == Upgrades(
            True,
            ("${distro_id}:${distro_codename}-security", "origin=Docker"),
            ("nvidia-",),
            ("docker-ce",),
            ("docker-ce", "libnvidia-container1", "nvidia-driver-590-server"),
        )

    @pytest.mark.parametrize(
        "given",
        [{"periodic": "0"}, {"enable": "0"}, {"periodic": ""}, {"timer": "masked"}, {"timer": "disabled"}],
    )
    def test_switched_off(self, host: FakeHost, given: dict[str, str]) -> None:
        host.write("/usr/bin/unattended-upgrade", "", 0o755)
        assert self.read(host, **given).runs is False  # type: ignore[arg-type]

    def test_not_installed(self, host: FakeHost) -> None:
        assert self.read(host).runs is False

    def test_apt_config_fails(self, host: FakeHost) -> None:
        with pytest.raises(Unread, match="apt-config dump: exit 100"):
            self.read(host, status=100)

    def test_no_apt(self, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(host.root))
        assert upkeep.upgrades({}, str(host.root)) is None
