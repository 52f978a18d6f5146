"""What there is to type: the table that bare `invoke` prints."""

from __future__ import annotations

import sys

from pantheon.symptoms import SYMPTOMS

TABLE = """\
PROCEDURE bringup         all sections, in order   (--install from bare, --adopt)
          prereqs         OS, GPU, driver, Docker, toolkit        section 2
          storage         directories, owners, mounts             section 3
          comfy           ComfyUI                                 sections 4-7
          ollama          Ollama                                  sections 4, 5
          openwebui       Open WebUI                              sections 4, 5
          validate        the checklist                           section 8
          tunnel SERVICE  a private way in   (tunnel.list, tunnel.close SERVICE)
INCIDENT  diagnose        what is wrong, the cause first
          fix.NAME        mend it        (invoke fix shows them all)
          runbook NAME    read the page
LOOK      audit           is the host what the documents say it is
          facts           everything one look sees
          history         who changed this host, when
CHANGE    reboot          in order: nothing is cut short, all comes back
HOSTS     hosts           what hosts.toml says
          trust           record a host's key
          atlas           the NFS mounts of Atlas
LAB       lab.up .down .reset .status .shell .break .drill

Every task takes --host; what changes a host takes --plan, --yes and --details.
invoke --help TASK shows a task's options.
"""

FIXES_END = """
invoke diagnose             says which of them it is
invoke fix.NAME --plan      what it would do, and what stops
invoke runbook fix.NAME     the page
"""


def fixes() -> int:
    """Print the fixes with their symptoms. Returns 0."""
    width = max(map(len, SYMPTOMS)) + len("fix.")
    lines = [f"{'fix.' + name:<{width}}  {symptom}\n" for name, symptom in SYMPTOMS.items()]
    sys.stdout.write("".join(lines))
    sys.stdout.write(FIXES_END)
    return 0


def show() -> int:
    """Print the table. Returns 0."""
    sys.stdout.write(TABLE)
    return 0
