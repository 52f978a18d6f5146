"""Every way in which a command can end without having done its work.

PantheonError                         exit 1   failed
├── UsageError                                 called wrongly
├── InventoryError                             hosts.toml is wrong: every problem in it, with its key path
├── ApplyError                                 a change did not work
│   ├── Locked                                 somebody else is changing this host
│   ├── HostChanged                            the host is no longer what the plan was made from
│   └── StepFailed                             one command failed; carries its last lines
├── LookFailed                                 the probe gave no usable answer
├── NotAsItShouldBe                   exit 2   changes pending, findings, a failed validation
│   └── Declined                               the operator said no, or could not be asked
├── HostError                         exit 3   the host was not reached or not trusted
│   ├── NotReached                             no DNS, no route, refused, timeout, link lost
│   │   └── LinkLost                           it was reached, and then the link died
│   ├── NotTrusted                             its key is unknown, changed or revoked
│   ├── LoginRefused                           none of the keys offered was accepted
│   └── NotAllowed                             logged in, but no sudo, no python3 or no session
└── Interrupted                       exit 130 Ctrl-C
"""

from __future__ import annotations

from collections.abc import Sequence


class PantheonError(Exception):
    """Something went wrong that an operator can act on.

    `next_commands` are the commands to type next; `details` are evidence lines (the last lines of a command,
    secrets already masked).
    """

    exit_code = 1

    def __init__(self, message: str, *, next_commands: Sequence[str] = (), details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.next_commands = tuple(next_commands)
        self.details = tuple(details)


class UsageError(PantheonError):
    pass


class InventoryError(PantheonError):
    def __init__(self, path: str, problems: Sequence[str]) -> None:
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(f"{path}: {count}", details=problems, next_commands=[f"edit {path}"])
        self.problems = tuple(problems)


class ApplyError(PantheonError):
    pass


class Locked(ApplyError):
    pass


class HostChanged(ApplyError):
    pass


class StepFailed(ApplyError):
    pass


class LookFailed(PantheonError):
    pass


class NotAsItShouldBe(PantheonError):
    exit_code = 2


class Declined(NotAsItShouldBe):
    pass


class HostError(PantheonError):
    exit_code = 3


class NotReached(HostError):
    pass


class LinkLost(NotReached):
    pass


class NotTrusted(HostError):
    pass


class LoginRefused(HostError):
    pass


class NotAllowed(HostError):
    pass


class Interrupted(PantheonError):
    exit_code = 130
