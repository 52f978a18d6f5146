#!/bin/sh
# Run once per boot of the lab host, as root: the traces that a loaded driver leaves in the kernel's file systems.
#   /proc/driver/nvidia/version   /sys/module/nvidia/version   /run/lab/self
# /sys/module is laid over with a writable copy-on-write layer, so that the real modules stay to be seen. To plant a driver
# and library that differ, write another number into /sys/module/nvidia/version (and `mismatch` into /run/lab/gpu-fault);
# to plant a driver that is not loaded, `plant.sh remove` (and `nocomm`). What is loaded is the module that lies there for
# the running kernel; without one nothing is.
set -e
layer=/run/lab-gpu
version=$(modinfo -k "$(uname -r)" -F version nvidia 2>/dev/null || true)
kind='NVIDIA UNIX Open Kernel Module for x86_64'
if [ "$(modinfo -k "$(uname -r)" -F license nvidia 2>/dev/null)" = NVIDIA ]; then kind='NVIDIA UNIX x86_64 Kernel Module'; fi

remove() {
    for at in /sys/module /proc/driver; do
        while mountpoint -q "$at"; do umount -l "$at"; done
    done
    rm -rf "$layer"
}

plant() {
    mkdir -p "$layer/upper/nvidia" "$layer/work" /run/lab/self
    echo "$version" >"$layer/upper/nvidia/version"
    echo live >"$layer/upper/nvidia/initstate"
    mount -t overlay lab-gpu -o "lowerdir=/sys/module,upperdir=$layer/upper,workdir=$layer/work" /sys/module
    mount -t tmpfs -o mode=755,size=64k lab-gpu /proc/driver
    mkdir -p /proc/driver/nvidia/gpus/0000:01:00.0
    printf '%s\n' \
        "NVRM version: $kind  $version  Release Build  (dvs-builder@U22-I3)" \
        'GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)' >/proc/driver/nvidia/version
    printf '%s\n' 'Model:           NVIDIA RTX 4000 Ada Generation' 'Bus Location:    0000:01:00.0' \
        >/proc/driver/nvidia/gpus/0000:01:00.0/information
}

remove
if [ "$1" != remove ]; then
    if [ -n "$version" ]; then plant; elif [ -e /usr/bin/nvidia-smi ]; then mkdir -p /run/lab; echo nocomm >/run/lab/gpu-fault; fi
fi
