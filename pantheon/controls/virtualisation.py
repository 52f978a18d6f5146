"""Virtual machines, where there are any (system page, Virtualization Stack). By libvirt's own definitions."""

from __future__ import annotations

from pantheon.circumstances import Cards, Domain, Virtual
from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import not_applicable, on, passed, unknown
from pantheon.facts import Unknown
from pantheon.incident import Case

SOURCE = "system page, Virtualization Stack"


def _virtual(case: Case) -> Virtual | Verdict:
    """libvirt's machines; one that cannot be read may be any."""
    found = case.evidence.virtual
    if found is None:
        return not_applicable("there is no libvirt on the host")
    if isinstance(found, Unknown):
        return unknown(found)
    if found.unread:
        return unknown(Unknown("; ".join(found.unread)))
    return found if found.domains else not_applicable("libvirt has no virtual machine")


def _edit(case: Case, domain: Domain) -> str:
    return on(case, "sudo", "virsh", "edit", domain.name)


def libvirt(case: Case) -> Verdict:
    """The others of these controls read libvirt's definitions: of a machine beside it they know nothing."""
    found = case.evidence.virtual
    if found is None:
        return not_applicable("no virtual machine is there")
    if isinstance(found, Unknown):
        return unknown(found)
    if found.strangers:
        told = "\n".join(f"{one} is no machine of libvirt's" for one in found.strangers)
        look = on(case, "sudo", "ps", "-o", "pid,user,args", "-p", found.strangers[0].rpartition(" ")[2].rstrip(")"))
        return Verdict("fail", told, f"define it in libvirt (virsh define), or end it: {look}")
    return passed("; ".join(one.name for one in found.domains) or "no virtual machine runs")


def hypervisor(case: Case) -> Verdict:
    found = _virtual(case)
    if isinstance(found, Verdict):
        return found
    wrong = [one for one in found.domains if one.type != "kvm"]
    if wrong:
        told = "\n".join(f"{one.name}: type {one.type or 'not set'}" for one in wrong)
        return Verdict("fail", told, f"{_edit(case, wrong[0])}  (there: <domain type='kvm'>)")
    return passed("\n".join(f"{one.name}: kvm" for one in found.domains))


def cpu_mode(case: Case) -> Verdict:
    found = _virtual(case)
    if isinstance(found, Verdict):
        return found
    wrong = [one for one in found.domains if one.cpu_mode != "host-passthrough"]
    if wrong:
        told = "\n".join(f"{one.name}: CPU mode {one.cpu_mode or 'not set'}" for one in wrong)
        return Verdict("fail", told, f"{_edit(case, wrong[0])}  (there: <cpu mode='host-passthrough'/>)")
    return passed("\n".join(f"{one.name}: host-passthrough" for one in found.domains))


def cpus(case: Case) -> Verdict:
    found = _virtual(case)
    if isinstance(found, Verdict):
        return found
    if not found.cpus:
        return unknown(Unknown("how many CPUs the host has is not known"))
    return _sum(case, found, {one.name: one.vcpus for one in found.domains}, found.cpus, "vCPUs", "CPUs")


def memory(case: Case) -> Verdict:
    found = _virtual(case)
    if isinstance(found, Verdict):
        return found
    if not found.memory_mib:
        return unknown(Unknown("how much memory the host has is not known"))
    return _sum(case, found, {one.name: one.memory_mib for one in found.domains}, found.memory_mib, "MiB", "MiB")


def _sum(case: Case, found: Virtual, needs: dict[str, int], has: int, unit: str, of: str) -> Verdict:
    """One machine alone, and all that run or are started at the boot together, fit into the host."""
    large = [one for one in found.domains if needs[one.name] > has]
    if large:
        told = "\n".join(f"{one.name} has {needs[one.name]} {unit}, the host {has} {of}" for one in large)
        return Verdict("fail", told, _edit(case, large[0]))
    together = [one for one in found.domains if one.running or one.autostart]
    total = sum(needs[one.name] for one in together)
    told = ", ".join(f"{one.name} {needs[one.name]}" for one in together) or "none runs or is started at the boot"
    if total > has:
        return Verdict("fail", f"together {total} {unit}, the host has {has} {of}: {told}", _edit(case, together[0]))
    return passed(f"{total} {unit} of {has} {of}: {told}")


def passthrough(case: Case) -> Verdict:
    """Containers are to have the card: neither libvirt nor the boot may take it away from the driver."""
    cards, virtual = case.evidence.cards, case.evidence.virtual
    if not isinstance(cards, Cards):
        return unknown(cards)
    if isinstance(virtual, Unknown):
        return unknown(virtual)
    wrong = [f"{card.address} ({card.ids}) is bound to vfio-pci" for card in cards.cards if card.driver == "vfio-pci"]
    wrong += [*cards.vfio]
    handed_to: list[Domain] = []
    mine = {card.address.rpartition(".")[0] for card in cards.cards}
    for one in virtual.domains if virtual else ():
        handed = [device for device in one.devices if device.rpartition(".")[0] in mine or not mine]
        handed_to += [one] if handed else []
        wrong += [f"{one.name} ({one.path}) has the PCI device {device} handed through" for device in handed]
    if wrong:
        return Verdict("fail", "\n".join(wrong), _give_back(case, handed_to))
    if virtual is None and not cards.cards:
        return passed("nothing hands a card of NVIDIA's to a virtual machine")
    return passed("no card is handed to a virtual machine or kept for one")


def _give_back(case: Case, machines: list[Domain]) -> str:
    if machines:
        return f"{_edit(case, machines[0])}  (take its <hostdev> out)"
    made = case.host.ssh("sudo update-initramfs -u && sudo update-grub")
    return f"take NVIDIA's ids (10de:) from vfio-pci, {made}, then: invoke reboot --host {case.host.name}"


CONTROLS = (
    Control("virt.libvirt", "Virtual machines are managed by libvirt", "low", SOURCE, libvirt),
    Control("virt.kvm", "Virtual machines run on KVM", "low", SOURCE, hypervisor),
    Control("virt.cpu-mode", "Virtual machines have CPU mode host-passthrough", "low", SOURCE, cpu_mode),
    Control("virt.cpu-overcommit", "Virtual machines have no more CPUs than the host", "medium", SOURCE, cpus),
    Control("virt.memory-overcommit", "Virtual machines have no more memory than the host", "medium", SOURCE, memory),
    Control("virt.gpu", "The card is not passed through to a virtual machine", "high", SOURCE, passthrough),
)
