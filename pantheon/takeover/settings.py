"""What an old container was told that ours is not: said before it is taken over, so that nobody finds out later."""

from __future__ import annotations

import shlex

from pantheon import foreign, layout, stack
from pantheon.facts import Container, ContainerMount, Facts, Image
from pantheon.finding import Finding
from pantheon.inventory import Host, is_secret_name
from pantheon.takeover.data import FLAGS, OWN_MOUNTS, Piece, mount_of, within
from pantheon.takeover.old import Old

# Carried over, or without a meaning in ours: where data lies, who the image runs as, the login key.
SETTLED = {
    *("BASE_DIRECTORY", "OLLAMA_MODELS", "DATA_DIR", "WEBUI_SECRET_KEY", "WEBUI_SECRET_KEY_FILE", "WANTED_UID"),
    *("WANTED_GID", "OLLAMA_HOST", "OLLAMA_BASE_URL", "OLLAMA_BASE_URLS", "PATH", "HOME", "HOSTNAME"),
    *("TERM", "FORCE_CHOWN", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
}  # fmt: skip
# Without these Open WebUI would start on another database than the one that holds its accounts.
ELSEWHERE = ("DATABASE_URL", "STORAGE_PROVIDER", "VECTOR_DB", "REDIS_URL")


def findings(host: Host, facts: Facts, old: Old, pieces: tuple[Piece, ...]) -> list[Finding]:
    """Warnings about settings that do not come along, and a block where the data itself hangs on one."""
    if old.kind != "theirs":
        return []
    container, want = old.container, stack.wanted(host, old.service)
    mine = {**want.env, **want.secret_env}
    extra = {n: v for n, v in sorted(container.env.items()) if not v.from_image and n not in mine and n not in SETTLED}
    found = []
    for name in ELSEWHERE:
        if name in extra and old.service == "openwebui":
            text = f"{old.name} keeps its data elsewhere ({name}): without that setting it would start on an empty one"
            mend = (
                f"give it in hosts.toml, [hosts.{host.name}.openwebui] env = {{ {name} = ... }}, then the same command"
            )
            found.append(Finding(f"takeover.{old.name}.{name}", "fail", text, mend=mend))
    lines = [f"{n}={v.value}" if v.value is not None and not is_secret_name(n) else n for n, v in extra.items()]
    lines += _differing(container, want)
    lines += _others(facts, container, want, pieces)
    found += _unknown_image(host, old, pieces)
    if lines:
        text = f"{old.name}: settings that do not come along"
        mend = f"what is wanted goes into hosts.toml, [hosts.{host.name}.{old.service}] env"
        found.append(Finding(f"takeover.settings.{old.name}", "warn", text, "; ".join(lines), mend))
    return found


def _unknown_image(host: Host, old: Old, pieces: tuple[Piece, ...]) -> list[Finding]:
    """An image of another author may keep its data in places that nobody here knows."""
    left = [
        m
        for m in old.container.mounts
        if m.type in ("bind", "volume") and m.writable and not _is_used(old.container, m, pieces)
    ]
    if old.service != "comfy" or foreign.is_known(old.container) or not left:
        return []
    text = f"{old.name}: what it has in {', '.join(mount.target for mount in left)} does not come along"
    evidence = f"{old.container.image} is none of the images whose places are known; it stays where it is"
    mend = f"copy by hand what is wanted: models to {layout.models(host)}, results to {layout.comfy_outputs(host)}, "
    mend += f"nodes and workflows to {layout.comfy_mnt(host)}/ComfyUI after its first run"
    return [Finding(f"takeover.unknown.{old.name}", "warn", text, evidence, mend)]


def _is_used(container: Container, mount: ContainerMount, pieces: tuple[Piece, ...]) -> bool:
    """Whether anything that has a place in ours comes from this very mount."""
    return mount.target in OWN_MOUNTS[1:] or any(
        within(mount.target, piece.inside) or mount_of(container, piece.inside) == mount for piece in pieces
    )


def _differing(container: Container, want: stack.Wanted) -> list[str]:
    """What both set, with another value: only what may be shown."""
    found = []
    for name, value in sorted(want.env.items()):
        has = container.env.get(name)
        if (
            has is not None
            and not has.from_image
            and has.value is not None
            and has.value != value
            and name not in SETTLED
        ):
            if name == "COMFY_CMDLINE_EXTRA":
                own = _flags(has.value)
                found += [f'{name}="{own}" (without the directories)'] if own not in ("", _flags(value)) else []
                continue
            found.append(f"{name}={has.value} (becomes {value})")
    return found


def _flags(line: str) -> str:
    """ComfyUI's options without those of its directories, which have their place."""
    try:
        words = shlex.split(line)
    except ValueError:
        return line
    left, skipping = [], False
    for word in words:
        if word.partition("=")[0] in FLAGS:
            skipping = "=" not in word
        elif not skipping:
            left.append(word)
        else:
            skipping = False
    return shlex.join(left)


def _others(facts: Facts, container: Container, want: stack.Wanted, pieces: tuple[Piece, ...]) -> list[str]:
    found = []
    for mount in container.mounts:
        if not _is_used(container, mount, pieces):
            source = mount.name or mount.source or "memory"
            found.append(f"mount {source} on {mount.target}")
    for port in container.ports:
        if not port.address.startswith("127.") and port.address != "::1":
            found.append(
                f"port {port.port} on {port.address or 'all addresses'} (becomes 127.0.0.1:{want.port}: use a tunnel)"
            )
        elif port.port != want.port:
            found.append(f"port {port.port} (becomes {want.port})")
    image = facts.images.get(want.image)
    if isinstance(image, Image) and image.id == container.image_id and container.command != image.command:
        found.append(f"command {shlex.join(container.command)}")
    if container.privileged:
        found.append("privileged")
    added = sorted(set(container.cap_add) - set(want.cap_add))
    found += [f"capabilities {', '.join(added)}"] if added else []
    if container.user not in ("", "root", "0", "0:0", "root:root") and want.name != "comfy":
        found.append(f"user {container.user} (becomes root, without its capabilities)")
    if container.gpus.startswith("ids:"):
        found.append(f"GPU {container.gpus.removeprefix('ids:')}")
    found += container.settings
    if container.memory and not want.memory:
        found.append(f"memory limit {container.memory // 1024**2} MiB")
    if container.network_mode == "host":
        found.append(f"the host's network, on all its addresses (becomes 127.0.0.1:{want.port}: use a tunnel)")
    named = [n for n in container.networks if n not in ("bridge", "host", f"{container.project}_default")]
    found += [f"networks {', '.join(named)}"] if named else []
    labels = sorted(name for name in container.labels if name.startswith(("traefik.", "caddy", "com.centurylinklabs")))
    found += [f"labels {', '.join(labels)}"] if labels else []
    return list(dict.fromkeys(found))


def images(host: Host, facts: Facts, old: Old) -> list[Finding]:
    """A change of image with what it means for the data."""
    service = host.service(old.service)
    image = facts.images.get(service.image)
    is_same = isinstance(image, Image) and image.id == old.container.image_id
    if old.kind != "theirs" or is_same or (image is None and old.container.image == service.image):
        return []
    text = f"{old.name} runs {old.container.image}, and will run {service.image}"
    if old.service == "openwebui":
        evidence = "a newer one migrates its database at its first start, one way; an older one cannot read it"
        return [
            Finding(
                f"takeover.image.{old.name}", "warn", text, evidence, "hosts.toml, openwebui.image, keeps the old one"
            )
        ]
    return []
