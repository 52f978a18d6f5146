"""The waivers of hosts.toml themselves: one for a control that there is not has never been in force."""

from __future__ import annotations

from collections import Counter

from pantheon.control import Control, Verdict
from pantheon.hostsfile import nearest
from pantheon.incident import Case


def known(case: Case) -> Verdict:
    from pantheon import controls

    waivers = case.host.waivers
    if not waivers:
        return Verdict("not applicable", "there are none in hosts.toml")
    ids = [control.id for control in controls.every()]
    wrong = []
    for waiver in waivers:
        if waiver.control not in ids:
            guess = nearest(waiver.control, ids)
            wrong.append(f"{waiver.control}: there is no such control{f' (did you mean {guess}?)' if guess else ''}")
        elif waiver.control == controls.NEVER_WAIVED:
            wrong.append(f"{waiver.control}: this one cannot be waived")
    twice = Counter(waiver.control for waiver in waivers)
    wrong += [f"{name}: {number} waivers for it; the first counts" for name, number in twice.items() if number > 1]
    if wrong:
        return Verdict("fail", "\n".join(wrong), f"put it right in hosts.toml, [[hosts.{case.host.name}.waivers]]")
    return Verdict("pass", ", ".join(waiver.control for waiver in waivers))


CONTROLS = (Control("audit.waivers", "Each waiver in hosts.toml names a control", "low", "practice", known),)
