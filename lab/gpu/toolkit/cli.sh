#!/bin/sh
# nvidia-container-cli: what an operator asks of it (`-V`, `info`). The mounts are the hook's work.
value() { nvidia-smi --query-gpu="$1" --format=csv,noheader; }
case "$1" in
-V | --version)
    printf '%s\n' 'cli-version: 1.18.1' 'lib-version: 1.18.1' 'build date: 2025-11-24T14:40+00:00' 'build platform: x86_64'
    ;;
info)
    if ! nvidia-smi >/dev/null 2>&1; then
        echo 'nvidia-container-cli: initialization error: nvml error: driver not loaded' >&2
        exit 1
    fi
    echo "NVRM version:   $(value driver_version)"
    echo "CUDA version:   $(nvidia-smi --version | sed -n 's/^CUDA Version *: //p')"
    printf '\n%s\n' 'Device Index:   0'
    printf '%s\n' 'Device Minor:   0' "Model:          $(value name)" 'Brand:          NvidiaRTX' \
        "GPU UUID:       $(value uuid)" "Bus Location:   $(value pci.bus_id)" "Architecture:   $(value compute_cap)"
    ;;
*)
    echo 'Usage: nvidia-container-cli [OPTION...] COMMAND [ARG...]' >&2
    exit 1
    ;;
esac
