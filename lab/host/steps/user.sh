#!/bin/sh
# The first user of an Ubuntu Server: uid 1000, sudo without a password, keys only. The arguments are further groups.
# With no password at all sshd refuses the account under `UsePAM no`, hence '*', which matches no password but is not
# "locked".
set -e
if getent passwd ubuntu >/dev/null; then userdel -r ubuntu 2>/dev/null; fi
useradd -m -u 1000 -s /bin/bash -p '*' -G sudo ops
for group in "$@"; do usermod -aG "$group" ops; done
echo 'ops ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/ops
chmod 440 /etc/sudoers.d/ops
install -d -m 700 -o ops -g ops /home/ops/.ssh
install -d /mnt/local/nvme /mnt/local/ssd /var/lib/lab/disks/nvme /var/lib/lab/disks/ssd
