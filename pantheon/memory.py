"""What a host remembers of the last bring-up: who, with which version and which inventory.

An older pantheon, or an inventory that would undo newer state, says so before anything is planned.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from pantheon import __version__
from pantheon.facts import Facts
from pantheon.finding import Finding
from pantheon.inventory import Host, as_data, without_login

KEPT = 20  # inventories remembered


def inventory_digest(host: Host) -> str:
    return hashlib.sha256(json.dumps(_relevant(host, reveal=True), sort_keys=True).encode()).hexdigest()[:16]


def remember(host: Host, facts: Facts, *, who: str, there: dict[str, str] | None = None) -> dict[str, object]:
    """What the host is to keep after this apply (/var/lib/pantheon/state.json). `there` says where data lies that this
    apply brings to its place, or starts a service on."""
    digest = inventory_digest(host)
    seen = [entry for entry in _seen(_state(facts)) if entry != digest]
    return {
        "version": __version__,
        "who": who,
        "when": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "digest": digest,
        "seen": [*seen, digest][-KEPT:],
        "inventory": _relevant(host),
        "places": {**places(facts), **(there or {})},
    }


def places(facts: Facts) -> dict[str, str]:
    """Where each datum of ours lies, as of the last bring-up; {} where the host remembers none. The names are those of
    takeover/moves.py."""
    state = _state(facts)
    found = state.get("places")
    if isinstance(found, dict):
        return {str(name): path for name, path in found.items() if isinstance(path, str)}
    inventory = state.get("inventory")  # of a pantheon that did not note the places
    roots = inventory.get("storage") if isinstance(inventory, dict) else None
    if not isinstance(roots, dict):
        return {}
    nvme, ssd = str(roots.get("nvme", "")), str(roots.get("ssd", ""))
    if not (nvme.startswith("/") and ssd.startswith("/")):
        return {}
    return {
        "comfy-mnt": f"{nvme}/ai/services/comfy-mnt",
        "outputs": f"{ssd}/ai/outputs/comfy",
        "models": f"{nvme}/ai/models",
        "ollama": f"{nvme}/ai/services/ollama",
        "openwebui": f"{ssd}/ai/projects/openwebui",
    }


def warnings(host: Host, facts: Facts) -> list[Finding]:
    """A finding for a pantheon or an inventory that is older than what the host was last brought up with."""
    state = _state(facts)
    found = []
    by = f"last brought up by {state.get('who', '?')} on {state.get('when', '?')}"
    version = str(state.get("version", ""))
    if _numbers(version) > _numbers(__version__):
        text = f"this pantheon ({__version__}) is older than the one that brought {host.name} up ({version})"
        found.append(Finding("memory.version", "warn", text, by, "git pull"))
    digest = inventory_digest(host)
    if state.get("digest") != digest and digest in _seen(state):
        changes = _differences(state.get("inventory"), _relevant(host))
        text = f"this hosts.toml was in use before and has been replaced since: it would undo newer state ({by})"
        found.append(Finding("memory.inventory", "warn", text, "; ".join(changes), "git pull, or compare hosts.toml"))
    return found


def _state(facts: Facts) -> dict[str, object]:
    try:
        state = json.loads(facts.state) if isinstance(facts.state, str) else {}
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def _seen(state: dict[str, object]) -> list[str]:
    seen = state.get("seen")
    return [str(entry) for entry in seen] if isinstance(seen, list) else []


def _relevant(host: Host, *, reveal: bool = False) -> dict[str, object]:
    """The part of the inventory that shapes the host; how to reach it is each workstation's own business. Secrets are
    masked unless `reveal`, which is for hashing only."""
    data = as_data(host, reveal=reveal)
    for key in ("name", "address", "user", "port", "identity", "gateway", "waivers"):
        data.pop(key, None)
    return data


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _differences(old: object, new: object, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    before, after = _shown(old), _shown(new)
    return [] if before == after else [f"{path}: {before} → {after}"]


def _shown(value: object) -> str:
    return "none" if value is None or value == "" else without_login(str(value))
