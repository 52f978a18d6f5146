"""Work with apt, planned: repairs, keys and sources of a vendor, and the steps that install, remove and hold."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from pantheon.facts import Facts, OsRelease
from pantheon.finding import Finding
from pantheon.install.vendors import DISTRIBUTIONS, Vendor
from pantheon.inventory import Host
from pantheon.packages import Packages, Source
from pantheon.plan import Change, Guard, Mend, Run, Step, Write

WHY = "procedure §2"
LOCK_S = 900  # how long whoever has apt's lock is waited for: an upgrade of unattended-upgrades may take that long
FETCH_S, DPKG_S, UPDATE_S, KEY_S = 1800, 1800, 300, 120
MARGIN_S = 120
KEPT = ".before-pantheon"  # apt reads no file that ends so


# ---- steps


def _mend(do: str, names: Iterable[str], says: str, work_s: int, **more: object) -> Mend:
    arguments = {"do": do, "packages": list(names), "lock_s": LOCK_S, "fetch_s": FETCH_S, "dpkg_s": DPKG_S, **more}
    return Mend("apt", arguments, says, timeout_s=LOCK_S + work_s + MARGIN_S)


def update(need: Iterable[str] = ()) -> Mend:
    """apt-get update. It fails when the lists of a repository in `need` (URIs) could not be had; others are only named
    in its output."""
    return _mend("update", (), "apt-get update", UPDATE_S, need=list(need), update_s=UPDATE_S)


def install(
    packages: Iterable[str],
    *,
    expect: Mapping[str, str] | None = None,
    may_remove: Iterable[str] = (),
    pin: Mapping[str, str] | None = None,
    also: Mapping[str, str] | None = None,
    recommends: bool = True,
    again: bool = False,
    stop: Iterable[str] = (),
    says: str = "",
) -> Mend:
    """apt-get install. What would come is simulated first, and nothing is done when a package that matches a pattern of
    `expect` would not have a version that begins as `expect` says, or when one would be removed that matches none of
    `may_remove` (both fnmatch). `pin` (packages -> version, both as apt_preferences(5) has them) is tried, for this one
    step, where apt of itself would not bring what `expect` says, in an older version if need be. `also` come along
    where apt knows them and what they stand for: what could not be known when this was planned. `again`: those that are
    installed are so anew, since something of theirs is gone. The units in `stop`, which something that was removed may
    have left active, are stopped once everything is downloaded."""
    names, units = tuple(packages), list(stop)
    more: dict[str, object] = {"expect": dict(expect or {}), "may_remove": list(may_remove), "pin": dict(pin or {})}
    more |= {"also": dict(also or {}), "recommends": recommends, "again": again, "stop": units}
    says = says or f"apt-get install {shlex.join(names)}{_after(units)}"
    return _mend("install", names, says, FETCH_S + DPKG_S, **more)


def fetch(packages: Iterable[str], *, may_remove: Iterable[str] = ()) -> Mend:
    """The packages and what they depend on, downloaded: what follows needs no network. Fails where others than those in
    `may_remove` would have to go for them, before any has gone."""
    names = tuple(packages)
    says = f"apt-get install --download-only {shlex.join(names)}"
    return _mend("fetch", names, says, FETCH_S, may_remove=list(may_remove))


def remove(packages: Iterable[str], *, stop: Iterable[str] = ()) -> Mend:
    """apt-get remove of exactly these, after the units in `stop` were stopped; where others would go with them nothing
    is done. Their configuration and data stay."""
    names, units = tuple(packages), list(stop)
    return _mend("remove", names, f"apt-get remove {shlex.join(names)}{_after(units)}", DPKG_S, stop=units)


def _after(units: list[str]) -> str:
    return f", after systemctl stop {shlex.join(units)}" if units else ""


def hold(packages: Iterable[str]) -> Mend:
    """apt-mark hold of those that are installed by then."""
    names = tuple(packages)
    return _mend("hold", names, f"apt-mark hold {shlex.join(names)}", 60)


def unhold(packages: Iterable[str]) -> Mend:
    names = tuple(packages)
    return _mend("unhold", names, f"apt-mark unhold {shlex.join(names)}", 60)


def configure() -> Mend:
    """What an installation that was cut short has left is finished."""
    return _mend("configure", (), "dpkg --configure -a, and apt-get --fix-broken install if that is not all", DPKG_S)


# ---- an installation that was cut short


def repair(packages: Packages) -> list[Change]:
    """What finishes an installation that was cut short. While somebody works on packages, half-done is usual."""
    if packages.holder is not None or not (packages.broken or packages.interrupted):
        return []
    named = (
        f" ({', '.join(packages.broken[:5])}{', ..' if len(packages.broken) > 5 else ''})" if packages.broken else ""
    )
    what = f"finish an installation that was cut short{named}"
    return [Change(what, "apt installs nothing before that", (configure(),))]


def held(host: Host, packages: Packages, wanted: Iterable[str], why: str) -> Finding | None:
    """A finding when one of the packages that must be changed is on hold: that was somebody's decision."""
    names = [name for name in wanted if name in packages.installed and packages.installed[name].held]
    if not names:
        return None
    text = f"{', '.join(names)} must be changed, and {'is' if len(names) == 1 else 'are'} on hold"
    mend = f"if that is no longer meant: {host.ssh(f'sudo apt-mark unhold {shlex.join(names)}')}"
    return Finding("prereqs.held", "fail", text, why, mend, WHY)


def upstream(version: str) -> tuple[int, ...]:
    """(29, 1) of "5:29.1.3-1~ubuntu.24.04~noble"; (0, 0) of what has no such numbers."""
    parts = version.rpartition(":")[2].split(".")[:2]
    numbers = ["".join(filter(str.isdigit, part.partition("-")[0].partition("~")[0])) for part in parts]
    return tuple(map(int, numbers)) if len(numbers) == 2 and all(numbers) else (0, 0)


# ---- a vendor's repository


def distribution(facts: Facts) -> str:
    """By what name the vendors know the distribution."""
    name = facts.os.id if isinstance(facts.os, OsRelease) else ""
    return name if name in DISTRIBUTIONS else DISTRIBUTIONS[0]


def uri(facts: Facts, vendor: Vendor) -> str:
    return vendor.uri.format(os=distribution(facts))


def entries(packages: Packages, vendor: Vendor) -> list[Source]:
    """The entries of apt's sources that are this vendor's."""
    return [one for one in packages.sources if any(_is_of(vendor, address) for address in one.uris)]


def _is_of(vendor: Vendor, address: str) -> bool:
    return address.lower().startswith(vendor.site.lower())


def _is_right(host: Host, facts: Facts, packages: Packages, vendor: Vendor, one: Source) -> bool:
    """Whether it is the repository that we would add, in whatever form, signed by exactly the right key."""
    arch = packages.arch
    addresses = {_address(each, arch) for each in one.uris}
    keys = [packages.keys.get(path) for path in one.signed_by.split()]
    return (
        one.enabled
        and "deb" in one.types
        and _address(uri(facts, vendor), arch) in addresses
        and (vendor.suite or packages.codename) in one.suites
        and (not vendor.component or vendor.component in one.components)
        and bool(keys)
        and all(key is not None and set(key.fingerprints) == {vendor.fingerprint(host)} for key in keys)
    )


def has_source(host: Host, facts: Facts, packages: Packages, vendor: Vendor) -> bool:
    """Whether apt has the vendor's repository already, and nothing that contradicts it."""
    right = [one for one in entries(packages, vendor) if _is_right(host, facts, packages, vendor, one)]
    return bool(right) and not _in_the_way(facts, packages, vendor, right[0])


def _in_the_way(facts: Facts, packages: Packages, vendor: Vendor, right: Source | None) -> list[str]:
    """Files with entries that apt would not take beside `right` (None: the one that we write): all entries of one
    repository must name the same key."""
    arch = packages.arch
    address, suite = _address(uri(facts, vendor), arch), vendor.suite or packages.codename
    found = []
    for one in entries(packages, vendor):
        same_place = address in {_address(each, arch) for each in one.uris} and suite in one.suites
        same_key = one.signed_by == (right.signed_by if right else vendor.key_path)
        at_ours = right is None and one.path == vendor.source_path
        if one.enabled and same_place and not same_key and not at_ours:
            found.append(one.path)
    return list(dict.fromkeys(found))


def _address(text: str, arch: str) -> str:
    return text.replace("$(ARCH)", arch).rstrip("/").lower()


def _right(host: Host, facts: Facts, packages: Packages, vendor: Vendor) -> Source | None:
    right = [one for one in entries(packages, vendor) if _is_right(host, facts, packages, vendor, one)]
    return min(right, key=lambda one: one.path != vendor.source_path, default=None)  # the vendor's present form first


def _mixed(packages: Packages, vendor: Vendor, path: str) -> list[Source]:
    """Entries of others in that file."""
    here = [one for one in packages.sources if one.path == path]
    return [one for one in here if not all(_is_of(vendor, address) for address in one.uris)]


def source_findings(host: Host, facts: Facts, packages: Packages, vendor: Vendor, *, wanted: bool) -> list[Finding]:
    """A finding for each file that has an entry of the vendor's which must go, and others besides: such a file is
    nobody's to rename."""
    right = _right(host, facts, packages, vendor)
    files = _in_the_way(facts, packages, vendor, right) if wanted or right or contradict(packages, vendor) else []
    findings = []
    for path in files:
        if _mixed(packages, vendor, path):
            lines = [one for one in entries(packages, vendor) if one.path == path and one.enabled]
            places = ", ".join(f"{path}:{one.line}" for one in lines)
            text = f"{places} names {vendor.name}'s repository with another key, beside entries of others"
            evidence = f"signed by: {lines[0].signed_by or 'any key that apt trusts'}"
            mend = f"take that line out: {host.ssh(f'sudoedit {shlex.quote(path)}')}"
            findings.append(Finding(f"prereqs.source.{path}", "fail", text, evidence, mend, vendor.docs))
    return findings


def contradict(packages: Packages, vendor: Vendor) -> bool:
    """Whether apt refuses the sources as they are: `Conflicting values set for option Signed-By`."""
    said: dict[tuple[str, str], set[str]] = {}
    for one in entries(packages, vendor):
        for address in one.uris if one.enabled else ():
            for suite in one.suites:
                said.setdefault((address.rstrip("/"), suite), set()).add(one.signed_by)
    return any(len(values) > 1 for values in said.values())


def keys(host: Host, facts: Facts, packages: Packages, vendor: Vendor) -> list[Change]:
    """The vendor's key, where its repository is to be added and the key is not there."""
    if _right(host, facts, packages, vendor):
        return []
    wanted = vendor.fingerprint(host)
    there = packages.keys.get(vendor.key_path)
    if there is not None and set(there.fingerprints) == {wanted}:
        return []
    address = vendor.key_url.format(os=distribution(facts))
    arguments = {
        "vendor": vendor.name,
        "url": address,
        "path": vendor.key_path,
        "fingerprint": wanted,
        "setting": f"install.{vendor.setting}",
        "docs": vendor.docs,
        "fetch_s": KEY_S - 30,
    }
    says = f"fetch {address}, and put it into {vendor.key_path} if its fingerprint is {wanted}"
    why = "only packages that are signed with it are installed (§2)"
    return [
        Change(
            f"{vendor.name}'s key",
            why,
            (Mend("apt_key", arguments, says, timeout_s=KEY_S),),
            sign="~" if there else "+",
        )
    ]


def sources(host: Host, facts: Facts, packages: Packages, vendor: Vendor, *, wanted: bool) -> list[Change]:
    """The vendor's repository, where it is `wanted` and apt does not have it; and entries that apt would not take
    beside it, out of its way. Their files are renamed, and only when there is nothing else in them."""
    right = _right(host, facts, packages, vendor)
    if not wanted and not contradict(packages, vendor):
        return []
    if not wanted and right is None:
        return []  # there is no telling which of them is meant: a finding
    files = [path for path in _in_the_way(facts, packages, vendor, right) if not _mixed(packages, vendor, path)]
    steps: list[Step] = [_rename(packages, path) for path in files]
    away = f"{', '.join(files)} renamed ({KEPT})" if files else ""
    if right is not None:
        why = "apt refuses two keys for one repository"
        return [Change(f"one source of {vendor.name}'s packages: {away}", why, tuple(steps))] if files else []
    path = vendor.source_path
    before = packages.files.get(path)
    if before:
        steps.append(_rename(packages, path))
    text = source_text(facts, packages, vendor)
    steps.append(Write(path, text, 0o644, guards=() if before else (Guard("sha256", path, "missing"),)))
    what = f"{vendor.name}'s package repository" + (f"; {away}" if away else "")
    return [Change(what, "as its documentation has it (§2)", tuple(steps), sign="~" if before else "+")]


def _rename(packages: Packages, path: str) -> Run:
    """Renamed so that apt does not read it; a file that has that name already gets a number."""
    guards = (Guard("sha256", path, packages.files[path]),) if path in packages.files else ()
    return Run(("mv", "--backup=numbered", "-T", "--", path, path + KEPT), guards)


def source_text(facts: Facts, packages: Packages, vendor: Vendor) -> str:
    """The source file as the vendor's documentation has it."""
    address, suite = uri(facts, vendor), vendor.suite or packages.codename
    if vendor.source_path.endswith(".list"):
        entry = f"deb [signed-by={vendor.key_path}] {address} {suite} {vendor.component}".rstrip()
        return f"{entry}\n"
    lines = ["Types: deb", f"URIs: {address}", f"Suites: {suite}"]
    lines += [f"Components: {vendor.component}"] if vendor.component else []
    lines += [f"Architectures: {packages.arch}", f"Signed-By: {vendor.key_path}"]
    return "\n".join(lines) + "\n"
