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
    "openwebui-logins": "everybody is logged out of Open WebUI",
    "openwebui-ollama": "Open WebUI shows no models: it cannot reach Ollama",
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


CLUES: tuple[Clue, ...] = (
    Clue("stuck-apply", "is being changed by", pattern=r"is being changed by \S+@\S+: |\(pid \d+ on the host\)"),
    # ---- mounts-missing
    Clue("mounts-missing", "stale file handle", ("", "kernel", "docker", "comfy", "ollama", "openwebui")),
    Clue("mounts-missing", "stale nfs file handle", ("", "kernel")),
    Clue("mounts-missing", "is not a mountpoint"),
    Clue("mounts-missing", "not mounted", pattern=r"\bu?mount: /mnt/.*not mounted"),
    Clue("mounts-missing", "bind source path does not exist", ("docker", ""), r"not exist: ?/mnt/"),
    # A socket says the same of itself, without a path.
    Clue("mounts-missing", "transport endpoint is not connected", pattern=r"/\S+.*: transport endpoint is not"),
    Clue("mounts-missing", "not responding", ("kernel",), r"nfs: server \S+ not responding"),
    Clue("mounts-missing", "mount.nfs", pattern=r"mount\.nfs4?: .*(timed out|denied|no such|no route|failed|not )"),
    Clue("mounts-missing", "wrong fs type, bad option, bad superblock"),
    Clue("mounts-missing", "special device", pattern=r"mount: .*special device \S+ does not exist"),
    Clue("mounts-missing", "can't find uuid=", pattern=r"mount: "),
    Clue("mounts-missing", "dependency failed for", pattern=r"dependency failed for (/mnt/|mnt-|local file systems)"),
    Clue("mounts-missing", "failed to mount", pattern=r"failed to mount (/mnt/|mnt-)"),
    # A disk that fails: the kernel makes it read-only.
    Clue("mounts-missing", "remounting filesystem read-only", ("kernel",)),
    Clue("mounts-missing", "i/o error", ("kernel",), r"i/o error,? .*\bdev\b"),
    Clue("mounts-missing", "ext4-fs error", ("kernel",)),
    # ---- disk-pressure. inotify, cgroups and semaphores say so too when they are at a limit that is no disk's.
    Clue(
        "disk-pressure",
        "no space left on device",
        ("", "docker", "comfy", "ollama", "openwebui", "kernel"),
        r"^(?!.*(inotify|directory watch|file watcher|/sys/fs/cgroup|semget))",
    ),
    Clue("disk-pressure", "database or disk is full", ("", "openwebui")),
    Clue("disk-pressure", "disk quota exceeded", ("", "docker", "comfy", "ollama", "openwebui")),
    Clue("disk-pressure", "you don't have enough free space in"),
    # ---- docker-down. `permission denied` on the socket is no engine that is down.
    Clue("docker-down", "cannot connect to the docker daemon"),
    Clue("docker-down", "failed to connect to the docker api at", pattern=r"^(?!.*permission denied)"),
    Clue("docker-down", "docker.sock: connect:", pattern=r"connect: (no such file|connection refused)"),
    Clue("docker-down", "failed to start daemon", ("docker",)),
    Clue("docker-down", "unable to configure the docker daemon", ("docker",)),
    Clue(
        "docker-down",
        "containerd.sock",
        ("docker",),
        r"(dial|failed|timeout).*containerd\.sock|containerd\.sock.*(ti"
        r"meout|refused|no such file)",
    ),
    Clue("docker-down", "timeout waiting for containerd to start", ("docker",)),
    Clue("docker-down", "failed to start", ("docker",), r"failed to start (docker|containerd)\.service"),
    Clue(
        "docker-down",
        "docker.service",
        ("docker",),
        r"docker\.service: (failed with result|start request repeated)|"
        r"job for docker\.service failed",
    ),
    Clue(
        "docker-down", "containerd.service", ("docker",), r"containerd\.service: (failed with result|start request r)"
    ),
    # ---- driver-mismatch
    Clue("driver-mismatch", "driver/library version mismatch", ("", "docker", "comfy", "ollama", "kernel")),
    Clue("driver-mismatch", "api mismatch", ("kernel", ""), r"nvrm: api mismatch"),
    Clue("driver-mismatch", "but this kernel module has the version", ("kernel", ""), r"nvrm"),
    Clue("driver-mismatch", "unsupported display driver / cuda driver combination", ("", "comfy", "ollama")),
    Clue("driver-mismatch", "forward compatibility was attempted on non supported hw", ("", "comfy", "ollama")),
    Clue("driver-mismatch", "cuda driver library init failure", ("", "ollama"), r"init failure: 80[34]\b"),
    # ---- exposed-ports. What a program says of its socket inside its container (`Listening on [::]:11434`) is fine.
    Clue("exposed-ports", "without encryption", ("docker",), r"api is accessible on https?://\S+ without encryption"),
    Clue("exposed-ports", "without --tlsverify is insecure", ("docker",)),
    Clue("exposed-ports", "0.0.0.0:", pattern=r"0\.0\.0\.0:\d+->(8188|11434|8080)/tcp"),
    Clue("exposed-ports", ":::", pattern=r"(^|[\s,]):::\d+->(8188|11434|8080)/tcp"),  # an older Docker's [::]
    Clue("exposed-ports", "/tcp -> ", pattern=r"\b(8188|11434|8080)/tcp -> (0\.0\.0\.0|\[::\]|::):"),  # docker port
    Clue("exposed-ports", "/tcp open", pattern=r"^\s*(8188|11434|2375|2376)/tcp open\b"),  # nmap
    Clue("exposed-ports", "/tcp  open", pattern=r"^\s*(8188|11434|2375|2376)/tcp  open\b"),
    Clue("exposed-ports", "[::]:", pattern=r"\[::\]:\d+->(8188|11434|8080)/tcp"),
    Clue(
        "exposed-ports",
        "listen",
        pattern=r"^(\s*tcp6?\s.*)?\s*listen\b.*(0\.0\.0\.0|\[::\]|\*):(8188|11434|3000|2375"
        r"|2376)\s|^\s*tcp6?\s+\d+\s+\d+ (0\.0\.0\.0|::):(8188|11434|3000|2375|2376)\s.*\blisten\b",
    ),
    # ---- out-of-memory
    Clue("out-of-memory", "out of memory: kill", ("kernel", "")),
    Clue("out-of-memory", "cgroup out of memory", ("kernel", "")),
    Clue("out-of-memory", "invoked oom-killer", ("kernel", "")),
    Clue("out-of-memory", "oom-kill:constraint", ("kernel", "")),
    Clue("out-of-memory", "oom_reaper: reaped process", ("kernel", "")),
    Clue("out-of-memory", "cuda out of memory", ("", "comfy", "ollama")),
    Clue("out-of-memory", "cuda error: out of memory", ("", "comfy", "ollama")),
    Clue("out-of-memory", "cuda driver error: out of memory", ("", "comfy")),
    Clue("out-of-memory", "cudaerrormemoryallocation", ("", "comfy", "ollama")),
    Clue("out-of-memory", "cudamalloc failed: out of memory", ("", "ollama")),
    Clue("out-of-memory", "unable to allocate cuda", ("", "ollama"), r"unable to allocate cuda\d+ buffer"),
    Clue("out-of-memory", "killed by the oom killer", ("", "docker")),
    Clue("out-of-memory", "due to memory pressure", pattern=r"systemd-oomd.*\bkilled\b"),
    Clue("out-of-memory", "cublas_status_alloc_failed", ("", "comfy", "ollama")),
    Clue(
        "out-of-memory",
        "allocation on device",
        ("", "comfy"),
        r"outofmemory|exceed allowed memory|allocation on devi"
        r"ce ?\d* *$",
    ),
    Clue("out-of-memory", "got an oom, unloading all loaded models", ("", "comfy")),
    Clue("out-of-memory", "model requires more system memory", ("", "ollama")),
    Clue("out-of-memory", "llama runner process has terminated: signal: killed", ("", "ollama")),
    Clue("out-of-memory", "defaultcpuallocator: can't allocate memory", ("", "comfy")),
    Clue("out-of-memory", "runtime: out of memory", ("", "ollama")),
    Clue("out-of-memory", "cannot allocate memory", pattern=r"errno 12|: cannot allocate memory\s*$"),
    Clue("out-of-memory", "exit 137", pattern=r"\bexit 137\b"),
    Clue("out-of-memory", "exit code 137", ("", "docker"), r"exit code 137\b"),
    Clue("out-of-memory", "exit status 137", ("", "docker"), r"exit status 137\b"),
    Clue("out-of-memory", "exited (137)", ("", "docker")),
    Clue("out-of-memory", "exited with code 137", ("", "docker"), r"exited with code 137\b"),
    Clue("out-of-memory", '"exitcode": 137'),
    Clue("out-of-memory", "exitcode=137", ("docker",)),
    Clue("out-of-memory", '"oomkilled": true'),
    Clue("out-of-memory", "killed      ", ("", "comfy"), r"^(\S+ +\| +)?\S+: line \d+:\s+\d+ killed\s"),  # bash
    # ---- gpu-lost. What says `version mismatch` is the driver's.
    Clue("gpu-lost", "could not select device driver", ("", "docker")),
    Clue("gpu-lost", "unknown or invalid runtime name: nvidia", ("", "docker")),
    Clue("gpu-lost", "unknown runtime specified nvidia", ("", "docker")),
    Clue("gpu-lost", "failed to initialize nvml", ("", "docker", "comfy", "ollama"), r"nvml: (?!driver/library)"),
    Clue("gpu-lost", "nvidia-smi has failed because it couldn't communicate", ("", "comfy", "ollama")),
    Clue("gpu-lost", "no devices were found", pattern=r"^\W*no devices were found\W*$"),
    Clue(
        "gpu-lost",
        "nvidia-container-cli",
        ("", "docker"),
        r"^(?!.*version mismatch).*nvidia-container-cli(\.real)?: (initialization|requirement|device|detection|mount|ld"
        r"cache) error",
    ),
    Clue("gpu-lost", "unsatisfied condition: cuda", ("", "docker")),
    Clue(
        "gpu-lost",
        "executable file not found in $path",
        ("", "docker"),
        r'exec: \\?"nvidia-container-(runtime|cli)[\w.-]*\\?": executable file not',
    ),
    Clue("gpu-lost", "failed to discover gpu vendor from cdi", ("", "docker")),
    Clue("gpu-lost", "unresolvable cdi devices", ("", "docker"), r"nvidia\.com/gpu"),
    Clue("gpu-lost", "no cuda-capable device is detected", ("", "comfy", "ollama")),
    Clue("gpu-lost", "no cuda gpus are available", ("", "comfy")),
    Clue("gpu-lost", "found no nvidia driver on your system", ("", "comfy")),
    Clue("gpu-lost", "nvidia driver on your system is too old", ("", "comfy")),
    Clue("gpu-lost", "cuda driver version is insufficient for cuda runtime version", ("", "comfy", "ollama")),
    Clue("gpu-lost", "cuda unknown error", ("", "comfy"), r"cuda initialization"),
    Clue("gpu-lost", "nvidia-smi not found", ("", "comfy")),
    Clue("gpu-lost", "failed to run nvidia-smi", ("", "comfy")),
    Clue("gpu-lost", "no compatible gpus were discovered", ("", "ollama")),
    # 803 and 804 are the driver's own mismatch.
    Clue("gpu-lost", "cuda driver library init failure", ("", "ollama"), r"^(?!.*failure: 80[34]).*init failure"),
    Clue(
        "gpu-lost", "ggml_cuda_init: failed to initialize cuda", ("", "ollama"), r"^(?!.*(out of memory|forward comp))"
    ),
    Clue("gpu-lost", "entering low vram mode", ("", "ollama"), r'total vram"?="?0 b\b'),
    Clue("gpu-lost", "inference compute", ("", "ollama"), r"inference compute.*library=cpu\b"),
    Clue("gpu-lost", "gpu is lost", ("", "kernel")),
    Clue("gpu-lost", "unable to determine the device handle"),
    # 803 and 804 are the driver's own mismatch.
    Clue("gpu-lost", "unexpected error from cudagetdevicecount", ("", "comfy"), r"^(?!.*error 80[34])"),
    Clue("gpu-lost", "has fallen off the bus", ("kernel", "")),
    Clue("gpu-lost", "rminitadapter failed", ("kernel", "")),
    # Of the many Xids those of the card itself; 13, 31, 43 and 45 are mostly a program's own fault.
    Clue(
        "gpu-lost",
        "nvrm: xid",
        ("kernel", ""),
        r"nvrm: xid \([^)]*\): (48|61|62|64|74|79|92|95|109|119|120|136|140|143|154)\b",
    ),
    # ---- comfy-ownership
    Clue("comfy-ownership", "owned by unexpected user/group", ("comfy", "")),
    Clue("comfy-ownership", "must be running as uid", ("comfy", ""), r"comfy must be running as uid"),
    Clue("comfy-ownership", "not writeable", ("comfy", ""), r"directory \S+ not writeable"),
    Clue("comfy-ownership", "not readable", ("comfy", ""), r"directory \S+ not readable"),
    Clue("comfy-ownership", "not executable", ("comfy", ""), r"directory \S+ not executable"),
    Clue("comfy-ownership", "directory /comfy/mnt not found", ("comfy", "")),
    Clue(
        "comfy-ownership",
        "permission denied",
        ("comfy", ""),
        r"/comfy/mnt.*permission denied|permission denied.*/comf"
        r"y/mnt",
    ),
    Clue("comfy-ownership", "read-only file system", ("comfy", ""), r"/comfy/mnt.*read-only|read-only.*/comfy/mnt"),
    # git says it of any repository of somebody else's.
    Clue(
        "comfy-ownership",
        "detected dubious ownership in repository",
        ("comfy", ""),
        r"/comfy/|^fatal: .*repository\W*$",
    ),
    # ---- comfy-first-run
    Clue("comfy-first-run", "not a git repository", ("comfy", ""), r"fatal: not a git repository"),
    Clue("comfy-first-run", "comfyui clone failed", ("comfy", "")),
    Clue("comfy-first-run", "virtualenv creation failed", ("comfy", "")),
    Clue("comfy-first-run", "torch installation failed", ("comfy", "")),
    Clue("comfy-first-run", "fatal: early eof", ("comfy", "")),
    Clue("comfy-first-run", "error: rpc failed; curl", ("comfy", "")),
    Clue("comfy-first-run", "unexpected disconnect while reading sideband packet", ("comfy", "")),
    Clue("comfy-first-run", "invalid index-pack output", ("comfy", "")),
    Clue("comfy-first-run", "unable to access 'https://", ("comfy", ""), r"fatal: unable to access .*comfyui"),
    Clue("comfy-first-run", "incomplete-download", ("comfy", ""), r"error: incomplete-download"),
    Clue("comfy-first-run", "satisfies the requirement torch", ("comfy", "")),
    # A custom node that lacks a package of its own is no broken first run.
    Clue("comfy-first-run", "no module named", ("comfy", ""), r"^(?!.*custom_nodes).*\bno module named\b"),
    Clue("comfy-first-run", "torch not compiled with cuda enabled", ("comfy", "")),
    Clue("comfy-first-run", "were compiled with different cuda major versions", ("comfy", "")),
    Clue("comfy-first-run", "operator torchvision::nms does not exist", ("comfy", "")),
    Clue(
        "comfy-first-run",
        "cannot open shared object file",
        ("comfy", ""),
        r"\blib(cudart|cublas|cudnn|nccl|cusparse|n"
        r"vrtc|torch)\w*\.so",
    ),
    # ---- openwebui-ollama
    Clue(
        "openwebui-ollama",
        "host.docker.internal",
        ("openwebui", ""),
        r"host\.docker\.internal:11434.*(refused|fail|er"
        r"ror|not known|timed? ?out)",
    ),
    Clue("openwebui-ollama", "open webui: server connection error", ("openwebui", "")),
    Clue("openwebui-ollama", "ollama: network problem", ("openwebui", "")),
    Clue("openwebui-ollama", "max retries exceeded", ("openwebui", ""), r"(ollama|:?port=11434).*max retries exceeded"),
    Clue("openwebui-ollama", "could not connect to ollama", pattern=r"connect to ollama (app|server|instance)\b"),
    # ---- openwebui-logins. `Loading WEBUI_SECRET_KEY from` is said at every good start too.
    Clue("openwebui-logins", "generating webui_secret_key", ("openwebui", "")),
    Clue("openwebui-logins", "required environment variable not found. terminating", ("openwebui", "")),
    Clue("openwebui-logins", "your session has expired or the token is invalid", ("openwebui", "")),
    Clue(
        "openwebui-logins",
        "signature verification failed",
        ("openwebui", ""),
        r"^\W*signature verification failed|jwt"
        r"|invalidsignature",
    ),
    Clue("openwebui-logins", "bind source path does not exist", ("", "docker"), r"not exist: ?\S*webui_secret_key"),
    # ---- wrong-version-number
    Clue("wrong-version-number", "wrong version number", pattern=r"^\W*wrong version number\W*$|ssl|tls|eproto|https"),
    Clue("wrong-version-number", "wrong_version_number", pattern=r"ssl"),
    Clue("wrong-version-number", "err_ssl_protocol_error"),
    Clue("wrong-version-number", "ssl_error_rx_record_too_long"),
    Clue("wrong-version-number", "packet length too long", pattern=r"ssl|eproto"),
    Clue("wrong-version-number", "ssl_error_syscall", pattern=r"in connection to (127\.0\.0\.1|localhost)"),
    Clue("wrong-version-number", "first record does not look like a tls handshake"),
    # A registry without TLS says so too (.../v2/).
    Clue("wrong-version-number", "an unexpected tls packet was received"),
    Clue("wrong-version-number", "invalidcontenttype", pattern=r"corrupt message"),
    Clue("wrong-version-number", "x16\\x03", ("comfy", "openwebui", ""), r"\\x16\\x03"),  # a TLS greeting, read as HTTP
    # ---- browser-access
    Clue("browser-access", "err_connection_refused"),
    Clue("browser-access", "err_connection_timed_out"),
    Clue("browser-access", "err_connection_reset"),
    Clue("browser-access", "err_empty_response"),
    Clue("browser-access", "err_address_unreachable"),
    Clue("browser-access", "this site can", pattern=r"this site can.{1,3}t be reached"),
    Clue("browser-access", "refused to connect", pattern=r"^\W*\S+ refused to connect\W*$"),
    Clue("browser-access", "establish a connection to the server at", pattern=r"can.{1,3}t establish a connection"),
    Clue("browser-access", "err_name_not_resolved"),
    Clue("browser-access", "dns_probe_finished_nxdomain"),
    Clue("browser-access", "safari can", pattern=r"safari can.{1,3}t (connect to the server|open the page)"),
    Clue("browser-access", "the connection ", pattern=r"^\W*the connection (was reset|has timed out)\W*$"),
    Clue("browser-access", "administratively prohibited: open failed"),
    Clue("browser-access", "administratively prohibited [open failed]"),  # ssh -W, and PuTTY
    Clue("browser-access", "refused local port forward", pattern=r"target \S+ port (8188|11434|3000)\b"),  # sshd's log
    Clue("browser-access", "open failed: connect failed: connection refused"),
    Clue("browser-access", "cannot listen to port", pattern=r"channel_setup_fwd_listener"),
    Clue("browser-access", "could not request local forwarding"),
    Clue("browser-access", "request with non matching host and origin", ("comfy", "")),
    Clue("browser-access", "is not an accepted origin", ("openwebui", ""), r"https?://\S+ is not an accepted origin"),
    Clue("browser-access", "websocket connection to", pattern=r"websocket connection to '?wss?://\S+ failed"),
    Clue("browser-access", "failed to connect to", pattern=r"failed to connect to \S+ port (8188|11434|3000)\b"),
    # ---- openwebui-ollama. With https in its address the same client says so: that is wrong-version-number.
    Clue(
        "openwebui-ollama",
        "cannot connect to host",
        ("", "openwebui"),
        r"cannot connect to host (?!\S+:443\b)\S+:\d+ ssl:(?!.*wrong.version.number)",
    ),
    Clue("openwebui-ollama", "webui could not connect to ollama"),
    # ---- openwebui-logins
    Clue("openwebui-logins", "webui_secret_key", ("", "openwebui"), r"generating (new )?webui_secret_key"),
    # ---- wrong-version-number. OpenSSL's words changed with its 3.2, Python and Go have their own, and a registry
    # without TLS is none of ours.
    Clue("wrong-version-number", "record layer failure", ("", "openwebui"), r"ssl|tls"),
    Clue(
        "wrong-version-number",
        "server gave http response to https client",
        ("", "ollama", "openwebui"),
        r"(8188|11434|3000|8080)\b",
    ),
)
