"""The mounts of Atlas, as hosts.toml lists them (system page, Storage Layout). The AI stack uses none of them."""

from __future__ import annotations

import json
from typing import Literal

from pantheon import atlas, foreign
from pantheon.control import Control, Verdict
from pantheon.controls import storage
from pantheon.controls.verdicts import (
    command,
    containers,
    diagnose,
    not_applicable,
    not_checkable,
    passed,
    remade,
    unknown,
)
from pantheon.facts import Command, Mount, Unknown
from pantheon.incident import Case
from pantheon.inventory import SERVICES, AtlasMount
from pantheon.nfs import Atlas, Share

SOURCE = "system page, Storage Layout"
ROOT = "/mnt/atlas"
# What the page wants of the places that it names.
PAGE: dict[str, Literal["ro", "rw"]] = {
    "/mnt/atlas/appdata": "rw",
    "/mnt/atlas/datasets": "rw",
    "/mnt/atlas/managed-media": "ro",
    "/mnt/atlas/shared-media": "ro",
}


def _shares(case: Case) -> list[tuple[AtlasMount, Share]] | Verdict:
    """What hosts.toml names with what the host has, or the verdict where there is nothing to judge."""
    if not case.host.atlas:
        return not_applicable("hosts.toml names no mount of Atlas")
    found = case.evidence.atlas
    if not isinstance(found, Atlas):
        return unknown(found, mend=command(case, "atlas"))
    pairs = atlas.pairs(case.host, found)
    return pairs or unknown(Unknown("the mounts were not looked at"), mend=command(case, "atlas"))


def _up(case: Case) -> list[tuple[AtlasMount, Share, Mount]] | Verdict:
    """Those that are mounted now; an automount that waits for its first use has nothing to be judged yet."""
    pairs = _shares(case)
    if isinstance(pairs, Verdict):
        return pairs
    up = [(want, share, row) for want, share in pairs if (row := atlas.top(share))]
    return up or not_applicable("nothing of Atlas is mounted now")


def intent(case: Case) -> Verdict:
    """hosts.toml is what the other controls go by: it must want what the page wants, and name what is there."""
    absent = [place for place in PAGE if place not in {want.mount for want in case.host.atlas}]
    named = [want for want in case.host.atlas if want.mount in PAGE]
    if strangers := _unnamed(case):
        seen = [f"{row.target} is mounted ({row.source}, {_mode(row)}), and hosts.toml does not name it"
                for row in strangers]  # fmt: skip
        first = strangers[0]
        return Verdict("fail", "\n".join(seen), _entry(case, first.source, first.target, _mode(first)))
    if not case.host.atlas:
        return not_applicable("hosts.toml names no mount of Atlas")
    wrong = [want for want in named if want.mode != PAGE[want.mount]]
    if wrong:
        told = "\n".join(f"hosts.toml wants {w.mount} {w.mode}, the page {PAGE[w.mount]}" for w in wrong)
        told = "\n".join([told, *(_absent(place) for place in absent)])
        mend = f'in hosts.toml, [[hosts.{case.host.name}.atlas]] of {wrong[0].mount}: mode = "{PAGE[wrong[0].mount]}"'
        return Verdict("fail", told, mend)
    if absent:
        server = case.host.atlas[0].export.partition(":/")[0]
        return Verdict(
            "fail", "\n".join(map(_absent, absent)), _entry(case, f"{server}:/{_name(absent[0])}", absent[0])
        )
    return passed("\n".join(f"{want.mount}: {want.mode}" for want in named))


def _absent(place: str) -> str:
    return f"the page names {place} ({PAGE[place]}), and hosts.toml does not"


def _name(place: str) -> str:
    return place.rpartition("/")[2]


def _entry(case: Case, export: str, mount: str, mode: str = "rw") -> str:
    """What to write into hosts.toml."""
    keys = {"export": export, "mount": mount, "mode": PAGE.get(mount, mode)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(["in hosts.toml:", f"[[hosts.{case.host.name}.atlas]]", *lines])


def _unnamed(case: Case) -> list[Mount]:
    """What is mounted from elsewhere below Atlas's root, and no control judges."""
    mounts, mine = case.facts.mounts, {want.mount for want in case.host.atlas}
    rows = (
        {row.target: row for row in mounts if f"{row.target}/".startswith(f"{ROOT}/")}
        if isinstance(mounts, tuple)
        else {}
    )
    return [row for target, row in rows.items() if target not in mine and storage.REMOTE.fullmatch(row.fstype)]


def _mode(row: Mount) -> str:
    return "ro" if "ro" in row.options.split(",") else "rw"


def mounted(case: Case) -> Verdict:
    pairs = _shares(case)
    if isinstance(pairs, Verdict):
        return pairs
    missing = [
        f"{want.mount} is not mounted ({want.export})" for want, share in pairs if not share.rows and not share.waits
    ]
    if missing:
        return Verdict("fail", "\n".join(missing), command(case, "atlas"))
    return passed(
        "\n".join(f"{want.mount}: {'mounted' if share.rows else 'at its first use'}" for want, share in pairs)
    )


def really(case: Case) -> Verdict:
    up = _up(case)
    if isinstance(up, Verdict):
        return up
    wrong = []
    for want, _, row in up:
        if row.fstype not in atlas.REALLY_NFS:
            wrong.append(f"{want.mount} is {row.fstype} ({row.source}), not NFS")
        elif row.source.rstrip("/") != want.export.rstrip("/"):
            wrong.append(f"{want.mount} is {row.source}, not {want.export}")
    if wrong:
        return Verdict("fail", "\n".join(wrong), command(case, "atlas"))
    return passed("\n".join(f"{want.mount}: {row.source} {row.fstype}" for want, _, row in up))


def modes(case: Case) -> Verdict:
    up = _up(case)
    if isinstance(up, Verdict):
        return up
    wrong = []
    for want, _, row in up:
        if _mode(row) != want.mode:
            wrong.append(f"{want.mount} is mounted {_mode(row)}, not {want.mode}")
    if wrong:
        return Verdict("fail", "\n".join(wrong), command(case, "atlas"))
    return passed("\n".join(f"{want.mount}: {want.mode}" for want, _, _ in up))


def answers(case: Case) -> Verdict:
    up = _up(case)
    if isinstance(up, Verdict):
        return up
    wrong = []
    for want, share, _ in up:
        if isinstance(share.answers, Unknown):
            wrong.append(f"{want.mount}: {share.answers.reason}")
        elif isinstance(share.answers, Command) and share.answers.status:
            wrong.append(f"{want.mount}: {share.answers.output.strip()}")
    if wrong:
        return Verdict("fail", "\n".join(wrong), command(case, "atlas"))
    return passed("\n".join(f"{want.mount} answers" for want, _, _ in up))


def at_boot(case: Case) -> Verdict:
    """Mounted again after a boot, and a boot that does not wait for a server that is gone."""
    pairs = _shares(case)
    if isinstance(pairs, Verdict):
        return pairs
    wrong, told = [], []
    for want, share in pairs:
        by, line = atlas.served(share), atlas.waits_at_boot(share)
        if line:
            wrong.append(f"{want.mount}: /etc/fstab line {line.number} has no nofail: a boot waits for Atlas")
        elif by.by in ("nobody", "hand"):
            wrong.append(f"{want.mount}: neither /etc/fstab nor a unit mounts it")
        else:
            told.append(f"{want.mount}: {by.where or 'units of pantheon'}")
    if wrong:
        return Verdict("fail", "\n".join(wrong), command(case, "atlas"))
    return passed("\n".join(told))


def unused(case: Case) -> Verdict:
    everything = containers(case)
    if everything is None:
        return unknown(case.facts.containers, mend=diagnose(case))
    roots = tuple({"/mnt/atlas/", *(f"{want.mount}/" for want in case.host.atlas)})
    wrong, seen = [], 0
    for container in everything:
        known = foreign.repository(container.image) in foreign.REPOSITORIES
        if container.name in SERVICES or foreign.is_ours(case.host, container) or known:
            seen += 1
            wrong += [(container, mount) for mount in container.mounts if f"{mount.source}/".startswith(roots)]
    if wrong:
        told = "\n".join(f"{one.name}: {mount.source} at {mount.target}" for one, mount in wrong)
        return Verdict("fail", told, remade(case, (one for one, _ in wrong)))
    return passed("no service of the stack has a directory of Atlas") if seen else not_applicable("no service is there")


def owners(case: Case) -> Verdict:
    """Who owns what is written there only shows when something is written."""
    pairs = _shares(case)
    if isinstance(pairs, Verdict):
        return pairs
    seen = case.evidence.atlas
    if not isinstance(seen, Atlas):
        return unknown(seen)
    look = command(case, "atlas", "--verify")
    found = [one for want, share in pairs for one in atlas.attempts(case.host, want, share, seen)]
    bad = [finding for finding in found if finding.level == "fail"]
    if bad:
        return Verdict("fail", "\n".join(f"{f.text}: {f.evidence}" for f in bad), bad[0].mend or look)
    if any(finding.level == "unknown" for finding in found) or not found:
        return not_checkable("an audit writes nothing, and only what is written shows whose it becomes", look)
    return passed("\n".join(finding.text for finding in found))


CONTROLS = (
    Control("nfs.intent", "hosts.toml names what is mounted of Atlas, and what is to be: media ro, data and appdata rw",
            "medium", SOURCE,
            intent),
    Control("nfs.mounted", "Every mount of Atlas is there, or made at its first use", "medium", SOURCE, mounted),
    Control("nfs.type", "Each is really NFS, from the export that hosts.toml names", "medium", SOURCE, really),
    Control("nfs.modes", "Each is ro or rw as intended", "high", "system page, Storage Layout and Security Posture",
            modes),
    Control("nfs.answers", "Atlas answers on each", "medium", "system page, Storage Layout and Monitoring", answers),
    Control("nfs.at-boot", "Each comes back after a boot, and no boot waits for Atlas", "medium", SOURCE, at_boot),
    Control("nfs.unused", "The AI stack uses nothing of Atlas", "high", "procedure §1, §3; system page, Storage Layout",
            unused, storage.LOCAL_RULES),
    Control("nfs.owners", "What 1024 writes is 1024's on Atlas", "medium", "system page, Known Limitations", owners),
)  # fmt: skip
