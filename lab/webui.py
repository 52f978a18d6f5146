"""What a user and an administrator do with Open WebUI on a lab host, for the faults that are planted in it."""

from __future__ import annotations

import json
import time

from lab.machine import Lab
from lab.outer import LabError

URL = "http://127.0.0.1:3000"
COMPOSE = "/opt/stacks/ai/compose.yaml"
SESSION = "/run/lab-session"  # a header of curl's, with the session in it
READY_S = 60
LOGIN = {"name": "Lab", "email": "lab@example.invalid", "password": "lab"}
SETTINGS = "/etc/lab/stand-in.json"
# Both shapes of the settings, as an administrator's page would leave them.
SET = """
import json, sqlite3, sys
key, value = sys.argv[1], json.loads(sys.argv[2])
base = sqlite3.connect("/app/backend/data/webui.db", timeout=10)
if "key" in {row[1] for row in base.execute("PRAGMA table_info(config)")}:
    base.execute("INSERT OR REPLACE INTO config VALUES (?, ?, ?)", (key, json.dumps(value), 0))
else:
    number, text = base.execute("SELECT id, data FROM config ORDER BY id DESC LIMIT 1").fetchone()
    document = place = json.loads(text)
    *above, name = key.split(".")
    for part in above:
        place = place.setdefault(part, {})
    place[name] = value
    base.execute("UPDATE config SET data = ? WHERE id = ?", (json.dumps(document), number))
base.commit()
"""


def wait_ready(lab: Lab) -> None:
    """It answers, and its health check has said so."""
    deadline = time.monotonic() + READY_S
    health = ("docker", "inspect", "-f", "{{.State.Health.Status}}", "openwebui")
    ready = ("curl", "-fsS", "-o", "/dev/null", f"{URL}/ready")
    while lab.exec(*health).stdout.strip() != "healthy" or lab.exec(*ready, check=False).returncode:
        if time.monotonic() > deadline:
            raise LabError(f"Open WebUI on lab {lab.name} is not ready")
        time.sleep(0.1)


def setting(lab: Lab, key: str, value: object) -> None:
    """One setting in its database. It reads them anew each time it needs one."""
    lab.exec("docker", "exec", "openwebui", "python3", "-c", SET, key, json.dumps(value))


def sign_in(lab: Lab) -> None:
    """A session for SESSION, of an account that is made where there is none."""
    wait_ready(lab)
    answer: dict[str, object] = {}
    for way in ("signin", "signup"):
        body = ("-d", json.dumps(LOGIN), "-H", "Content-Type: application/json")
        answer = json.loads(lab.exec("curl", "-sS", *body, f"{URL}/api/v1/auths/{way}").stdout)
        if "token" in answer:
            break
    header = f"Authorization: Bearer {answer['token']}\n"
    lab.exec("sh", "-c", f"umask 077; cat >{SESSION}", stdin=header.encode())


def ask_for_models(lab: Lab) -> None:
    """What a user's page does: it shows the models of every Ollama that it reaches."""
    sign_in(lab)
    lab.exec("curl", "-sS", "-H", f"@{SESSION}", f"{URL}/api/models")


def with_other_environment(lab: Lab, **values: str) -> None:
    """compose.yaml edited by hand, and the container made from it."""
    edits = []
    for name, value in values.items():
        lab.sh(f"sed -i '/^      {name}: /d' {COMPOSE}")
        edits += ["-e", f'/^      WEBUI_SECRET_KEY_FILE: /i\\      {name}: "{value}"']
    lab.exec("sed", "-i", *edits, COMPOSE)
    lab.exec("docker", "compose", "-f", COMPOSE, "up", "-d", "--no-deps", "openwebui")


def stand_in(lab: Lab, **settings: float) -> None:
    """Settings of the stand-in beside those that it has."""
    have = json.loads(lab.sh(f"cat {SETTINGS}"))
    lab.set_stand_in(**{**have, **settings})
