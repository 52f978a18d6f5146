"""What there is to type: the table that bare `invoke` prints."""

from __future__ import annotations

import sys

TABLE = """\
PROCEDURE bringup         all sections, in order
          prereqs         OS, GPU, driver, Docker, toolkit        section 2
          storage         directories, owners, mounts             section 3
          comfy           ComfyUI                                 sections 4-7
          ollama          Ollama                                  sections 4, 5
          openwebui       Open WebUI                              sections 4, 5
          validate        the checklist                           section 8
          tunnel SERVICE  a private way in
INCIDENT  runbook NAME    read the page
LOOK      facts           everything one look sees
          history         who changed this host, when
HOSTS     hosts           what hosts.toml says
          trust           record a host's key
LAB       lab.up .down .reset .status .shell

Every task takes --host; what changes a host takes --plan, --yes and --details.
invoke --help TASK shows a task's options.
"""


def show() -> int:
    """Print the table. Returns 0."""
    sys.stdout.write(TABLE)
    return 0
