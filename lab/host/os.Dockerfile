# The operating system of a lab host, as an installer leaves it: packages and nothing of ours, no container engine. The
# bare host starts from it, and engine.Dockerfile goes on from it. Both change seldom and take the longest, so they are
# images of their own, kept in the cache. The base is Ubuntu 24.04; Debian 13 goes through the same steps.
ARG BASE=ubuntu:24.04
FROM ${BASE}
ENV DEBIAN_FRONTEND=noninteractive

# policy-rc.d keeps packages from starting daemons while the image is built.
# The legacy builder has no here-documents: one RUN per subject, `set -e` in each.
RUN set -e; \
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends \
      systemd systemd-sysv dbus libpam-systemd \
      openssh-server sudo ca-certificates curl gpg gpg-agent openssl \
      python3 sqlite3 jq \
      iproute2 iputils-ping iptables nftables procps psmisc lsof kmod pciutils lsb-release util-linux e2fsprogs \
      docker-registry; \
    apt-get clean; rm -rf /var/lib/apt/lists/*

# What belongs to the machine and not to a container of it. docker-registry.service is the package's own instance;
# ours is lab-registry.service. systemd-sysctl would write to the workstation's kernel; resolved and networkd would
# fight the outer engine over resolv.conf and eth0.
RUN set -e; rm -f /usr/sbin/policy-rc.d /etc/ssh/ssh_host_*; \
    systemctl mask -q \
      systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service \
      systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service systemd-firstboot.service \
      systemd-timesyncd.service \
      systemd-resolved.service systemd-networkd.service systemd-networkd.socket \
      getty.target console-getty.service dev-hugepages.mount dev-mqueue.mount \
      sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
      apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
      fstrim.timer motd-news.timer docker-registry.service
