"""Every entry of the troubleshooting: its name, and the words by which it is known. Light: the command line lists it.

The order is that of causes: what stands above may be why something below is seen (a disk that is not mounted explains
the missing directory, which explains the container that exits). The module pantheon/fixes/NAME and the page
runbooks/fix.NAME.md say the rest. Texts are the vendors' own (DOMAIN.md).
"""

from __future__ import annotations

from typing import NamedTuple

SYMPTOMS = {
    "stuck-apply": "a run of pantheon holds the host although its workstation is gone",
    "mounts-missing": "a disk is not mounted, or stale: empty directories, `Stale file handle`",
    "disk-pressure": "`no space left on device`, a disk that is nearly full",
    "docker-down": "`Cannot connect to the Docker daemon`, the engine does not start",
    "driver-mismatch": "`Failed to initialize NVML: Driver/library version mismatch`",
    "exposed-ports": "a service, or Docker's own API, is reachable from the network",
    "out-of-memory": "exit code 137, `CUDA out of memory`, a service killed by the kernel",
    "gpu-lost": "a container without its GPU, `could not select device driver`, answers from the CPU",
    "comfy-ownership": "`Directory /comfy/mnt owned by unexpected user/group`, `not writeable`",
    "comfy-first-run": "ComfyUI's first run broke off: `No module named`, `not a git repository`",
    "openwebui-ollama": "Open WebUI shows no models: it cannot reach Ollama",
    "openwebui-logins": "everybody is logged out of Open WebUI",
    "wrong-version-number": "`wrong version number`: https spoken to an http service",
    "browser-access": "curl works on the host, the browser on the workstation does not",
}


class Clue(NamedTuple):
    """A text that tells of an entry. `text` must stand in the line, in any case of letters; `pattern` (a regular
    expression, any case) must match the line besides, where the text alone would say too little. `where` is whose words
    it is: comfy, ollama, openwebui, docker, kernel, or "" for a client (curl, a browser, a shell)."""

    entry: str
    text: str
    where: tuple[str, ...] = ()
    pattern: str = ""


CLUES: tuple[Clue, ...] = (Clue("comfy-ownership", "owned by unexpected user/group", ("comfy",)),)
