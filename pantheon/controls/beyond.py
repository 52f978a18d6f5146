"""What the documents promise and no host can show: kept in the list, so that somebody looks (system page)."""

from __future__ import annotations

from collections.abc import Callable

from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import not_checkable
from pantheon.incident import Case


def _elsewhere(evidence: str, look: str) -> Callable[[Case], Verdict]:
    def judge(case: Case) -> Verdict:
        mgmt, servers = case.host.mgmt_network or "MGMT (99)", case.host.servers_network or "SERVERS (60)"
        return not_checkable(evidence, look.format(mgmt=mgmt, servers=servers, name=case.host.name))

    return judge


CONTROLS = (
    Control("beyond.firewall", "Cerberus enforces the zones", "high", "system page, Network",
            _elsewhere("a host does not see the rules of the firewall before it",
                       "on Cerberus: the rules of the zones of {mgmt} and {servers}, and their hit counters")),
    Control("beyond.vlans", "No way leads here from USER or GUEST", "high", "system page, Network",
            _elsewhere("VLANs end at the switch: the host has untagged frames or its own tags only",
                       "on the switch: the VLANs of both ports (60 and 99); from a machine in USER and one in GUEST: "
                       "nc -vz {name} 22 must fail")),
    Control("beyond.mgmt-only", "Only administrators reach MGMT", "high", "system page, Network and Security Posture",
            _elsewhere("who may enter MGMT is decided before the host",
                       "on Cerberus: what may connect to {mgmt}")),
    Control("beyond.reservation", "DHCP gives the host the same addresses each time", "medium",
            "system page, Network and Known Limitations",
            _elsewhere("a lease does not say that it is reserved",
                       "on Cerberus: DHCP reservations for the addresses that net.mgmt-address and net.dhcp show")),
    Control("beyond.atlas-model", "Atlas's shares follow the Array-only model", "medium",
            "system page, Storage Layout",
            _elsewhere("where a share lies is seen on Atlas alone",
                       "on Atlas: each share's storage setting, primary storage Array, no cache")),
    Control("beyond.exports", "Atlas enforces RO and RW by its own exports", "medium",
            "system page, Security Posture",
            _elsewhere("a mount shows how it was asked for, not what the server would allow",
                       "invoke atlas --verify --host {name} tries; on Atlas: the NFS rule of each share")),
    Control("beyond.backup", "Atlas is backed up", "high", "system page, Backup & Recovery",
            _elsewhere("backups are made from Atlas, to where its own strategy says",
                       "on Atlas: the last run of its backup, and a file restored from it")),
    Control("beyond.promoted", "What is worth keeping is promoted to Atlas", "medium",
            "system page, Storage Layout; procedure §1",
            _elsewhere("what of the outputs and datasets matters, people know",
                       "in ai/outputs and /mnt/atlas/datasets: is anything here that is nowhere else?")),
    Control("beyond.rebuild", "The host can be rebuilt without losing data", "high",
            "system page, Role in Pantheon and Backup & Recovery; procedure §1",
            _elsewhere("storage.state shows that services write to the storage model only; the rest is a rehearsal",
                       "on a host to spare: Ubuntu Server, then invoke bringup --install")),
    Control("beyond.documents", "Every service is documented under services/", "low",
            "system page, Services Hosted",
            _elsewhere("the documents are not on the host", "in the documentation: services/ has a page for each "
                       "container that `docker ps` shows on {name}")),
)  # fmt: skip
