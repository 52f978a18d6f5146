"""Who may read what is secret on the host, and who may write where the stack lives."""

from __future__ import annotations

from pantheon import layout
from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import on
from pantheon.facts import Entry, TextFile, Unknown
from pantheon.incident import Case
from pantheon.inventory import SERVICES
from pantheon.upkeep import OpenTree, SecretFile

SOURCE = "practice"


def stack(case: Case) -> Verdict:
    """Our own: the folder 0700 and the files 0600, all root's; and any .env file that somebody put beside."""
    host, facts = case.host, case.facts
    folder = facts.paths.get(layout.secrets(host))
    asked = [layout.secret_key(host), *(layout.env_file(host, name) for name in SERVICES)]
    files = [facts.files.get(path) for path in asked]
    reasons = [value.reason for value in (folder, *files) if isinstance(value, Unknown)]
    found = case.evidence.secret_files
    if isinstance(found, Unknown):
        reasons.append(found.reason)
    wrong = []
    if isinstance(folder, Entry) and (folder.uid or folder.mode & 0o077):
        wrong.append(f"{folder.path} is {folder.owner}'s, mode {folder.mode:04o}: it should be root's, 0700")
    told = set()
    for file in files:
        if isinstance(file, TextFile):
            told.add(file.path)
            if file.uid or file.mode & 0o077:
                wrong.append(_open(file.path, file.uid, file.mode))
    for one in found if isinstance(found, tuple) else ():
        if one.kind == "stack" and one.path not in told and (one.uid or one.mode & 0o077):
            wrong.append(_open(one.path, one.uid, one.mode))
    if wrong:
        return Verdict("fail", "\n".join(wrong), _mend(case, asked, wrong))
    if reasons:
        return Verdict("unknown", "\n".join(dict.fromkeys(reasons)), f"invoke diagnose --host {host.name}")
    if not isinstance(folder, Entry):
        return Verdict("not applicable", "the stack is not there yet")
    return Verdict("pass", f"{folder.path} and what is in it are root's alone")


def _mend(case: Case, asked: list[str], wrong: list[str]) -> str:
    """bringup puts right what it made; what somebody else put there is named."""
    ours = [*asked, layout.secrets(case.host)]
    if any(line.startswith(tuple(f"{path} is " for path in ours)) for line in wrong):
        return f"invoke bringup --host {case.host.name}"
    path = wrong[0].partition(" is ")[0]
    return on(case, "sudo", "chmod", "0600", path)


def _open(path: str, uid: int, mode: int) -> str:
    return f"{path} is mode {mode:04o}, of user {uid}: it should be root's, 0600"


def tokens(case: Case) -> Verdict:
    return _files(case, "token", lambda one: one.to_all, "every user of the host can read it", "0600")


def host_keys(case: Case) -> Verdict:
    return _files(case, "host key", lambda one: bool(one.uid or one.mode & 0o077), "not root's alone", "0600")


def _files(case: Case, kind: str, is_open: object, why: str, wanted: str) -> Verdict:
    found = case.evidence.secret_files
    if isinstance(found, Unknown):
        return Verdict("unknown", found.reason, f"invoke diagnose --host {case.host.name}")
    these = [one for one in found or () if one.kind == kind]
    assert callable(is_open)
    wrong = [one for one in these if is_open(one)]
    if wrong:
        said = "\n".join(f"{one.path} is mode {one.mode:04o}, of {_owner(one)}: {why}" for one in wrong)
        return Verdict("fail", said, on(case, "sudo", "chmod", wanted, *(one.path for one in wrong)))
    if not these:
        return Verdict("not applicable", f"none is where a {kind} usually lies")
    return Verdict("pass", "\n".join(f"{one.path} is mode {one.mode:04o}" for one in these))


def _owner(one: SecretFile) -> str:
    return f"{one.uid}:{one.gid}"


def world_writable(case: Case) -> Verdict:
    trees = case.evidence.open_trees
    if not trees:
        return Verdict("unknown", "it was not looked at", f"invoke audit --host {case.host.name}")
    reasons = [f"{path}: {tree.reason}" for path, tree in trees.items() if isinstance(tree, Unknown)]
    known = [tree for tree in trees.values() if isinstance(tree, OpenTree)]
    wrong = [tree for tree in known if tree.count]
    if wrong:
        lines = [line for tree in wrong for line in tree.examples]
        more = sum(tree.count for tree in wrong) - len(lines)
        lines += [f"and {more} more"] if more > 0 else []
        return Verdict("fail", "\n".join(lines), on(case, "sudo", "chmod", "-R", "o-w", *(tree.path for tree in wrong)))
    parts = [f"{tree.path}: not all of it, {tree.looked} entries" for tree in known if not tree.complete]
    if reasons or parts:
        mend = on(
            case, "sudo", "find", *trees, "-xdev", "-perm", "-0002", "-not", "-type", "l", "-not", "-perm", "-1000"
        )
        return Verdict("unknown", "\n".join([*reasons, *parts]), mend)
    if not known:
        return Verdict("not applicable", "the stack is not there yet")
    return Verdict("pass", f"nothing in {', '.join(tree.path for tree in known)}")


CONTROLS = (
    Control("secrets.stack", "The stack's secrets are root's alone", "high", SOURCE, stack),
    Control("secrets.tokens", "Tokens and private keys cannot be read by every user", "high", SOURCE, tokens),
    Control("secrets.host-keys", "sshd's private keys are root's alone", "high", SOURCE, host_keys),
    Control(
        "secrets.world-writable",
        "Nothing in the stack's trees can be written by everybody",
        "medium",
        SOURCE,
        world_writable,
    ),
)
