"""The tasks of a private way in: `tunnel SERVICE`, `tunnel.list`, `tunnel.close SERVICE`."""

from __future__ import annotations

from invoke import Collection

from pantheon.cli import Call, command, port_number

SERVICE = "comfy, ollama, openwebui or all"


@command(
    name="open",
    json=True,
    interrupt_code=0,
    last=True,
    needs={"service": SERVICE},
    help={
        "service": SERVICE,
        "port": "this local port and no other (default: the service's own, or the next free one)",
        "open": "open the browser when it is ready",
        "background": "keep it open in the background; tunnel.list and tunnel.close manage it",
        "check": "open, prove and close: for scripts",
        "print_ssh": "show the plain ssh command that would do the same, and stop",
    },
)
def open_(
    call: Call,
    service: str,
    port: str = "",
    open: bool = False,
    background: bool = False,
    check: bool = False,
    print_ssh: bool = False,
) -> int:
    """A private way in: http://127.0.0.1:PORT on this machine, until Ctrl-C."""
    from pantheon import tunnels

    wish = tunnels.Wish(
        service, port_number(port, "--port"), open=open, background=background, check=check, print_ssh=print_ssh
    )
    return tunnels.open_(call.host, wish, options=call.options, report=call.report)


@command(host=False, json=True, name="list")
def list_(call: Call) -> int:
    """The tunnels that are open on this machine, whoever's terminal they are in."""
    from pantheon import background

    return background.list_(report=call.report)


@command(
    host=False,
    json=True,
    name="close",
    needs={"service": SERVICE},
    help={"service": SERVICE, "host": "only that host's"},
)
def close(call: Call, service: str, host: str = "") -> int:
    """Close tunnels that are open on this machine."""
    from pantheon import background

    return background.close(service, host, report=call.report)


tunnel = Collection("tunnel", list_, close)
tunnel.add_task(open_, default=True)
