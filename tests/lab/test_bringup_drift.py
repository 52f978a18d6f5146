"""Hosts that are not as hosts.toml says: what differs is named, and nothing else is touched.

And hosts.toml with values that would be code anywhere else, which never run and arrive as they are.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import SERVICES, World, until

pytestmark = pytest.mark.lab

COMFY_MNT = "/mnt/local/nvme/ai/services/comfy-mnt"
KEY = "/opt/stacks/ai/secrets/webui_secret_key"


BY_HAND = """
docker stop -t 1 comfy
cd "$1"
ln -s /etc/shadow user-link; mkdir -p deep/er; ln -s /etc deep/er/etc; ln -s ../../nothing deep/dangling
chown -Rh 0:0 "$1"; chmod 755 "$1"
"""
# What an operator would do with an editor: in comfy's volumes, two subdirectories instead of the one mount.
EDIT = r"""
import pathlib, re, sys
file = pathlib.Path("/opt/stacks/ai/compose.yaml")
text = file.read_text()
whole = re.search(r'      - type: bind\n +source: .*/comfy-mnt"?\n(?: {8}.*\n)+', text)[0]
parts = "".join(f"      - {sys.argv[1]}/{name}:/comfy/mnt/{name}\n" for name in ("user", "models"))
file.write_text(text.replace(whole, parts))
"""


class TestDrift:
    def test_a_moved_port_recreates_that_service_alone(self, spare: World) -> None:
        """Asked on a terminal and answered with y; the login key outlives the container."""
        ids, key = spare.ids(), spare.sh(f"cat {KEY}")
        spare.inventory(openwebui={"port": 3001})
        with spare.running("bringup", terminal=True) as asked:
            shown = asked.wait_for("to lab? [y/N]")
            asked.type("y\n")
            done = asked.end()
        assert done.code == 0, done.seen
        flat = re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown))
        assert "ports: 127.0.0.1:3000:8080/tcp → 127.0.0.1:3001:8080/tcp" in flat, flat
        assert "Stops openwebui for a moment." in flat, flat
        now = spare.ids()
        assert {name: now[name] == ids[name] for name in ids} == {"comfy": True, "ollama": True, "openwebui": False}
        assert spare.sh("curl -sI http://127.0.0.1:3001").startswith("HTTP/1.1 200")
        assert spare.sh("ss -ltnH 'sport = :3000'") == ""
        assert spare.sh(f"cat {KEY}") == key

        # Ollama's turn: its own task touches its own container, and ComfyUI is none of its business.
        spare.inventory(openwebui={"port": 3001}, ollama={"env": {"OLLAMA_KEEP_ALIVE": "10m"}})
        planned = spare.invoke("ollama", "--plan")
        assert planned.code == 2, planned.seen
        assert "environment OLLAMA_KEEP_ALIVE: 5m → 10m" in planned.out, planned.seen
        done = spare.invoke("ollama", "--yes")
        assert done.code == 0, done.seen
        ids, now = now, spare.ids()
        assert {name: now[name] == ids[name] for name in ids} == {"comfy": True, "ollama": False, "openwebui": True}
        assert spare.docker("exec", "ollama", "printenv", "OLLAMA_KEEP_ALIVE") == "10m"

        # The hosts.toml of before would undo this: it is told, and a --yes alone does not agree to it.
        spare.inventory()
        with spare.unchanged():
            planned = spare.invoke("bringup", "--plan")
            refused = spare.invoke("bringup", "--yes")
        assert planned.code == 2, planned.seen
        assert "this hosts.toml was in use before and has been replaced since" in planned.out, planned.seen
        assert refused.code == 2, refused.seen
        assert "it would undo newer state" in refused.err, refused.seen
        assert "--older" in refused.err, refused.seen
        done = spare.invoke("bringup", "--yes", "--older")
        assert done.code == 0, done.seen
        assert spare.sh("curl -sI http://127.0.0.1:3000").startswith("HTTP/1.1 200")

        # An older pantheon than the one that was here last.
        as_it_was = spare.sh("cat /var/lib/pantheon/state.json")
        spare.sh("""sed -i 's/"version": "[^"]*"/"version": "99.0.0"/' /var/lib/pantheon/state.json""")
        spare.inventory(openwebui={"port": 3002})
        refused = spare.invoke("bringup", "--yes")
        assert refused.code == 2, refused.seen
        assert "is older than the one that brought lab up (99.0.0)" in refused.err, refused.seen
        assert "git pull" in refused.err, refused.seen
        spare.inventory()
        spare.sh('printf "%s\\n" "$1" >/var/lib/pantheon/state.json', as_it_was)
        spare.bring_up("--older")
        spare.state = "up"

    def test_what_was_changed_by_hand_is_named_and_put_back(self, spare: World) -> None:
        ids = spare.ids()
        spare.docker("update", "--restart=no", "ollama")
        spare.docker("stop", "-t", "1", "openwebui")
        spare.sh("chmod 755 /mnt/local/nvme/ai/models; chmod 644 /opt/stacks/ai/secrets/webui_secret_key")
        planned = spare.invoke("bringup", "--plan")
        assert planned.code == 2, planned.seen
        assert "models mode 0755 → 0775" in planned.out, planned.seen
        assert "restart policy: no → unless-stopped" in planned.out, planned.seen
        assert re.search(r"openwebui .*start \(exited, exit code \d+\)", planned.out), planned.seen
        done = spare.invoke("bringup", "--yes", "--json")
        assert done.code == 0, done.seen
        assert done.json["result"] == "done"
        assert done.json["plan"]["stops"] == ["ollama"]
        assert "ollama" in done.err, done.seen  # what a person would watch
        now = spare.ids()
        assert {name: now[name] == ids[name] for name in ids} == {"comfy": True, "ollama": False, "openwebui": True}
        assert spare.sh(f"stat -c %a /mnt/local/nvme/ai/models {KEY}").split() == ["775", "600"]
        spare.state = "up"


class TestComfy:
    def test_sub_mounts_and_a_root_owned_mount_are_brought_right(self, spare: World) -> None:
        """§6, as it went wrong the first time: the Compose file edited by hand to mount subdirectories, everything
        owned by root. Links inside keep their targets' owners, whatever they point to."""
        spare.sh(BY_HAND, COMFY_MNT)
        spare.lab.exec("python3", "-c", EDIT, COMFY_MNT)
        spare.docker("compose", "-f", "/opt/stacks/ai/compose.yaml", "up", "-d", "--no-deps", "comfy")
        until(lambda: "owned by unexpected user/group" in spare.docker("logs", "comfy", check=False), what="the error")
        shadow = spare.sh("stat -c '%u:%g %a %Z' /etc/shadow /etc")
        ids = spare.ids()
        checked = spare.invoke("validate")
        assert checked.code == 2, checked.seen

        planned = spare.invoke("bringup", "--plan")
        assert planned.code == 2, planned.seen
        assert "comfy-mnt owner 0:0 → 1024:1024, and inside" in planned.out, planned.seen
        assert "§6.2" in spare.invoke("bringup", "--plan", "--details").out
        assert "comfy-mnt mode 0755 → 0775" in planned.out, planned.seen
        assert re.search(r"comfy .*mounts: .*→ .*comfy-mnt:/comfy/mnt:rw", planned.out), planned.seen
        done = spare.invoke("bringup", "--yes")
        assert done.code == 0, done.seen
        assert spare.sh(f"find -P {COMFY_MNT} ! -uid 1024 -o ! -gid 1024") == ""
        assert spare.sh(f"stat -c %a {COMFY_MNT}") == "775"
        assert spare.sh("stat -c '%u:%g %a %Z' /etc/shadow /etc") == shadow
        assert spare.sh(f"readlink {COMFY_MNT}/user-link {COMFY_MNT}/deep/er/etc") == "/etc/shadow\n/etc"
        mounts = json.loads(spare.docker("inspect", "-f", "{{json .Mounts}}", "comfy"))
        assert [m["Source"] for m in mounts if m["Destination"].startswith("/comfy/mnt")] == [COMFY_MNT]
        now = spare.ids()
        assert {name: now[name] for name in ("ollama", "openwebui")} == {
            name: ids[name] for name in ("ollama", "openwebui")
        }
        assert spare.invoke("validate").code == 0
        spare.sh(f"rm -r {COMFY_MNT}/user-link {COMFY_MNT}/deep")
        spare.state = "up"

    def test_models_are_shared_read_only_and_outputs_are_its_own(self, brought_up: World) -> None:
        world, models = brought_up, "/mnt/local/nvme/ai/models"
        world.sh(f"mkdir -p {models}/checkpoints {models}/loras; echo model >{models}/checkpoints/big.safetensors")
        world.docker("restart", "comfy")
        world.wait_healthy("comfy")
        try:
            listed = json.loads(world.sh("curl -sf http://127.0.0.1:8188/models/checkpoints"))
            assert listed == ["shared/big.safetensors"]
            inside = "/comfy/mnt/ComfyUI/models/checkpoints/shared"
            assert world.docker("exec", "comfy", "readlink", inside) == "/models/checkpoints"
            for path in ("/models/x", f"{inside}/x", "/userscripts_dir/x"):
                said = world.docker("exec", "comfy", "touch", path, check=False)
                assert "Read-only file system" in said
            # A picture lands on the SSD, owned as §3.2 and §6 want it.
            world.sh(
                "curl -sf http://127.0.0.1:8188/prompt -H 'Content-Type: application/json' "
                """-d '{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "made"}}}}'"""
            )
            made = "/mnt/local/ssd/ai/outputs/comfy/made_00001_.png"
            until(lambda: world.sh(f"ls {made} 2>/dev/null || true"), what="the picture")
            assert world.sh(f"stat -c %u:%g {made}") == "1024:1024"
            # What the service wrote by itself is no drift, nor is what an operator put among the models.
            again = world.invoke("bringup", "--yes")
            assert again.code == 0, again.seen
            assert "nothing to do" in again.out, again.seen
        finally:
            world.sh(f"rm -rf {models}/checkpoints {models}/loras /mnt/local/ssd/ai/outputs/comfy/made_*")


# Values that are code to a shell, to Compose or to YAML; each must reach the container as it stands here.
HOSTILE = {
    "SUBSTITUTION": "$(touch /tmp/pwned) `touch /tmp/pwned` ; touch /tmp/pwned",
    "INTERPOLATION": "${HOME} $HOME $$ ${NONE:?no} %s {{.Names}}",
    "QUOTES": """it's "quoted" 'twice' \\"thrice\\" """,
    "BACKSLASHES": "C:\\new\\table \\\\ \\$",
    "UNICODE": "Prómëthëüs ☃ 火",
    "YAML": "- {a: b} # no comment: &x *y !!tag | >",
    "EQUALS": "a=b=c",
    "YES": "yes",
    "EMPTY": "",
    "MY_TOKEN": "s3cret $(touch /tmp/pwned) 'single' \"double\" \\ ${HOME} # x",
}
ROOTS = {
    "nvme": "/mnt/local/fast disk $(touch /tmp/pwned) 'q' \"d\"",
    "ssd": "/mnt/local/`touch /tmp/pwned`; ${HOME} ü",
}


class TestHostileValues:
    def test_nothing_in_hosts_toml_ever_runs_as_code(self, fresh: World) -> None:
        """Roots with spaces, quotes and substitutions, as real mount points; then the image's own user switch."""
        for root in ROOTS.values():
            fresh.sh('mkdir -p "$1"; mount -t tmpfs -o size=64m none "$1"', root)
        stack_dir = "/opt/stacks/a i $(touch /tmp/pwned) 'x'"
        values: dict[str, Any] = {"storage": ROOTS, "stack_dir": stack_dir}
        values |= {name: {"env": HOSTILE} for name in ("ollama", "openwebui", "comfy")}
        fresh.inventory(**values)
        done = fresh.bring_up()
        assert "s3cret" not in done.all
        self.holds(fresh)
        assert fresh.sh('stat -c "%u:%g %a" "$1"', f"{ROOTS['nvme']}/ai/services/comfy-mnt") == "1024:1024 775"
        again = fresh.invoke("bringup", "--yes")
        assert again.code == 0, again.seen
        assert "nothing to do" in again.out, again.seen
        # The secret one stands in a file for root alone: not in the Compose file, in no log and in no plan.
        assert "s3cret" not in fresh.sh('cat "$1"/compose.yaml /var/log/pantheon/* /var/lib/pantheon/*.json', stack_dir)
        assert fresh.sh('stat -c "%u:%g %a" "$1"/secrets/*.env', stack_dir).split("\n") == ["0:0 600"] * 3
        for argv in (("bringup", "--plan", "--details"), ("facts", "--json"), ("hosts", "--json")):
            assert "s3cret" not in fresh.invoke(*argv).all
        assert not [path for path in fresh.logs.rglob("*") if path.is_file() and "s3cret" in path.read_text()]

        ids = fresh.ids()
        fresh.inventory(**{**values, "comfy": {"env": HOSTILE, "image_user_switch": True}})
        done = fresh.bring_up()
        assert "user: 1024:1024 → comfytoo" in done.out, done.seen
        seen = json.loads(fresh.docker("inspect", "comfy"))[0]
        assert [cap.removeprefix("CAP_") for cap in sorted(seen["HostConfig"]["CapAdd"])] == [
            "CHOWN",
            "DAC_OVERRIDE",
            "SETGID",
            "SETUID",
        ]
        assert seen["HostConfig"]["CapDrop"] == ["ALL"]
        assert "Restarting as comfy user" in fresh.docker("logs", "comfy", check=False)
        assert fresh.docker("exec", "-u", "comfy", "comfy", "id", "-u") == "1024"
        now = fresh.ids()
        assert {name: now[name] == ids[name] for name in ids} == {"comfy": False, "ollama": True, "openwebui": True}
        self.holds(fresh)

    def holds(self, world: World) -> None:
        assert world.sh("ls /tmp/pwned /root/pwned 2>/dev/null || true") == ""
        for service in SERVICES:
            # printenv ends each value with a newline, and `sh` here would strip a trailing space.
            for name, value in HOSTILE.items():
                assert world.lab.exec("docker", "exec", service, "printenv", name).stdout == f"{value}\n"
