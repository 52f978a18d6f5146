"""What of the monitoring is declared to be there (system page, Monitoring)."""

from __future__ import annotations

from pantheon.control import Control, Verdict
from pantheon.controls.verdicts import containers, not_applicable, not_checkable, passed, place, unknown
from pantheon.incident import Case

SOURCE = "system page, Monitoring"
EXPORTER = "dcgm-exporter"
DOCS = "https://docs.nvidia.com/datacenter/cloud-native/gpu-telemetry/latest/dcgm-exporter.html"


def dcgm(case: Case) -> Verdict:
    if not case.host.monitoring.dcgm_exporter:
        return not_applicable("hosts.toml: monitoring.dcgm_exporter = false")
    everything, listeners = containers(case), case.facts.listeners
    mine = [c for c in everything or () if EXPORTER in c.image or EXPORTER in c.name]
    running = [c for c in mine if c.state == "running" and c.health != "unhealthy"]
    heard = [one for one in listeners if one.process.startswith(EXPORTER)] if isinstance(listeners, tuple) else []
    if running:
        return passed("; ".join(f"container {c.name}: {c.image}" for c in running))
    if heard:
        return passed("; ".join(f"{one.process} on {place(one.address, one.port)}" for one in heard))
    if everything is None:
        return unknown(case.facts.containers)
    if not isinstance(listeners, tuple):
        return unknown(listeners)
    told = "; ".join(f"container {c.name} is {c.state}{', ' + c.health if c.health else ''}" for c in mine)
    text = told or "no container or process of the DCGM exporter is there"
    return Verdict("fail", text, f"start it ({DOCS}), or hosts.toml: monitoring.dcgm_exporter = false")


def alerts(case: Case) -> Verdict:
    text = "alerts on the card, on Atlas's mounts and on disk pressure are rules of the monitoring server"
    return not_checkable(text, f"its rules; what they would say now: invoke validate --host {case.host.name}")


def metrics(case: Case) -> Verdict:
    """Whether anybody collects them; that they could be read is hw.nvidia-smi and storage.pressure."""
    del case
    text = "CPU, memory, disk and network are recorded by the monitoring stack, when that is on"
    return not_checkable(text, "the targets page of the monitoring server: is this host among them?")


CONTROLS = (
    Control("mon.dcgm", "The DCGM exporter runs, where hosts.toml declares it", "low", SOURCE, dcgm),
    Control("mon.metrics", "The host's own metrics are collected", "low", SOURCE, metrics),
    Control("mon.alerts", "Somebody is told of a lost card, a lost mount, a full disk", "low", SOURCE, alerts),
)
