"""Names of others' making, in one place: the vendors' package repositories and packages, as their documentation has
them. The fingerprints of their keys come from hosts.toml."""

from __future__ import annotations

from dataclasses import dataclass

from pantheon.inventory import Host


@dataclass(frozen=True)
class Vendor:
    """A package repository. `uri` is where it is for the distribution "{os}", `setting` the key of hosts.toml that has
    the fingerprint of its key. A flat repository has suites that end in "/" and no components."""

    name: str
    uri: str
    suite: str  # "" stands for the codename of the distribution
    component: str
    key_url: str
    key_path: str
    source_path: str
    setting: str
    docs: str

    def fingerprint(self, host: Host) -> str:
        """The fingerprint that its key must have, by hosts.toml: upper case, without spaces."""
        value: str = getattr(host.install, self.setting)
        return value.replace(" ", "").upper()

    @property
    def site(self) -> str:
        """The address that all its repositories begin with, whatever the distribution: older instructions named others
        of them."""
        return self.uri.partition("{os}")[0].removesuffix("stable/deb/$(ARCH)")


DOCKER = Vendor(
    name="Docker",
    uri="https://download.docker.com/linux/{os}",
    suite="",
    component="stable",
    key_url="https://download.docker.com/linux/{os}/gpg",
    key_path="/etc/apt/keyrings/docker.asc",
    source_path="/etc/apt/sources.list.d/docker.sources",
    setting="docker_key",
    docs="https://docs.docker.com/engine/install/ubuntu/",
)
TOOLKIT = Vendor(
    name="NVIDIA Container Toolkit",
    uri="https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)",
    suite="/",
    component="",
    key_url="https://nvidia.github.io/libnvidia-container/gpgkey",
    key_path="/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg",
    source_path="/etc/apt/sources.list.d/nvidia-container-toolkit.list",
    setting="toolkit_key",
    docs="https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html",
)
VENDORS = (DOCKER, TOOLKIT)

ENGINE_PACKAGES = ("docker-ce", "docker-ce-cli", "containerd.io")
COMPOSE_PACKAGE = "docker-compose-plugin"
DOCKER_PACKAGES = (*ENGINE_PACKAGES, "docker-buildx-plugin", COMPOSE_PACKAGE)

# What Docker's documentation has removed first, and what else has files of its packages': buildx, Debian's client.
CONFLICTING = (
    *("docker.io", "docker-doc", "docker-compose", "docker-compose-v2", "podman-docker", "containerd", "runc"),
    *("docker-buildx", "docker-cli"),
)
COMPOSE_CONFLICTING = ("docker-compose", "docker-compose-v2", "docker-buildx")  # the plugin brings buildx along
DISTRIBUTION_COMPOSE = {"ubuntu": "docker-compose-v2", "debian": "docker-compose"}
DISTRIBUTIONS = ("ubuntu", "debian")  # for which both vendors have repositories
