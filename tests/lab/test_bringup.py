"""The path itself: a fresh host to three validated services, shown before it is done, done as shown, done once."""

from __future__ import annotations

import json
import re

import pytest
from conftest import PORTS, SERVICES, World, steps

pytestmark = pytest.mark.lab

# What a bring-up makes and a plan must not.
OURS = (
    "/var/lib/pantheon",
    "/run/pantheon",
    "/var/log/pantheon",
    "/opt/stacks",
    "/mnt/local/nvme/ai",
    "/mnt/local/ssd/ai",
)


class TestPlan:
    def test_a_plan_changes_nothing(self, untouched: World) -> None:
        with untouched.unchanged():
            shown = untouched.invoke("bringup", "--plan")
            detailed = untouched.invoke("bringup", "--plan", "--details")
            data = untouched.invoke("bringup", "--plan", "--json")
        assert [shown.code, detailed.code, data.code] == [2, 2, 2], shown.seen + detailed.seen + data.seen
        assert untouched.sh('for path; do [ ! -e "$path" ] || echo "$path"; done', *OURS) == ""

        # The first screen is a summary, the second the commands themselves.
        assert shown.out.startswith("PLAN lab (ops@127.0.0.1)"), shown.seen
        assert re.search(r"^\+ storage +create 11 directories$", shown.out, re.MULTILINE), shown.seen
        for name, port in PORTS.items():
            assert re.search(rf"^\+ {name} .*127\.0\.0\.1:{port}, pull about", shown.out, re.MULTILINE), shown.seen
        assert "10-20 min" in shown.out
        assert "install -d" not in shown.out
        assert "$ install -d -m0775 -o1024 -g1024 -- /mnt/local/nvme/ai/services/comfy-mnt" in detailed.out, (
            detailed.seen
        )
        assert "+++ /opt/stacks/ai/compose.yaml" in detailed.out, detailed.seen
        assert "create_host_path: false" in detailed.out, detailed.seen
        assert data.json["plan"]["changes"] == 7
        assert data.err == ""

    def test_without_a_terminal_and_without_a_yes_nothing_is_done(self, untouched: World) -> None:
        with untouched.unchanged():
            done = untouched.invoke("bringup")
        assert done.code == 2, done.seen
        assert "no terminal" in done.err
        assert "--yes" in done.err

    def test_invokes_own_dry_run_is_refused(self, untouched: World) -> None:
        with untouched.unchanged():
            done = untouched.invoke("--dry", "bringup", "--yes")
        assert done.code == 1, done.seen
        assert "--plan" in done.err

    def test_a_service_alone_says_what_comes_first(self, untouched: World) -> None:
        """Not on directories that are not there, and Open WebUI not without Ollama."""
        with untouched.unchanged():
            early = untouched.invoke("comfy", "--yes")
        assert early.code == 2, early.seen
        assert "invoke storage" in early.out

    def test_the_terminal_is_asked_and_a_no_changes_nothing(self, untouched: World) -> None:
        with untouched.unchanged(), untouched.running("bringup", terminal=True) as asked:
            asked.wait_for("Apply 7 changes to lab? [y/N]")
            asked.type("n\n")
            done = asked.end()
        assert done.code == 2, done.seen
        assert "nothing was changed" in done.out


class TestFreshHost:
    """One bring-up of a fresh host, with everything that is to be seen of it."""

    def test_a_fresh_host_ends_validated_as_it_was_shown(self, fresh: World) -> None:
        planned = fresh.invoke("bringup", "--plan", "--json")
        assert planned.code == 2, planned.seen
        done = fresh.bring_up()

        # What an operator sees in a pipe: plain lines, no control sequences, what was done, what answers, what next.
        assert "\x1b" not in done.out
        assert re.search(r"^✓ lab +\d+ changes, [\d.:]+( s)?\. Looked again: nothing to do$", done.out, re.MULTILINE), (
            done
        )
        assert re.search(r"^  comfy +healthy +200 host +200 here +GPU$", done.out, re.MULTILINE), done.seen
        assert re.search(r"^  ollama +healthy +200 host +200 here +GPU$", done.out, re.MULTILINE), done.seen
        assert re.search(r"^  openwebui +healthy +200 host +200 here$", done.out, re.MULTILINE), done.seen
        assert "Loopback only; logs clean." in done.out, done.seen
        assert done.out.rstrip().endswith("Next: invoke tunnel comfy --host lab"), done.seen
        assert done.err == "", done.seen

        # The procedure's own checklist (§8), in its own words.
        shown = fresh.docker("ps", "--format", "{{.Names}}\t{{.Status}}\t{{.Ports}}")
        for name, port in PORTS.items():
            assert re.search(rf"^{name}\tUp .*\(healthy\)\t127\.0\.0\.1:{port}->\d+/tcp$", shown, re.MULTILINE), shown
            assert fresh.sh(f"curl -sI http://127.0.0.1:{port}").startswith("HTTP/1.1 200 OK")
        log = fresh.docker("logs", "--tail=50", "comfy", check=False)
        assert "Starting server" in log
        assert "owned by unexpected" not in log

        # What ran is what was shown: the same steps in the same order, and nothing else.
        keys = ("run", "write", "make_secret", "sha256", "mode", "uid", "gid")
        wanted = [{key: step[key] for key in keys if step.get(key) is not None} for step in steps(planned.json["plan"])]
        ran = fresh.commands()
        assert ran == wanted
        history = fresh.invoke("history", "--json").json["runs"]
        assert [(run["what"], run["result"], run["plan"], run["steps"]) for run in history] == [
            ("bringup", "done", planned.json["plan"]["hash"], len(wanted))
        ]

        # The directories of §3, as ls has them.
        owners = fresh.sh('stat -c "%U:%G %u:%g %a %n" "$@"', *_directories())
        assert owners.splitlines() == [
            "UNKNOWN:UNKNOWN 1024:1024 775 /mnt/local/nvme/ai/services/comfy-mnt",
            "root:docker 0:" + fresh.sh("getent group docker | cut -d: -f3") + " 775 /mnt/local/nvme/ai/models",
            "UNKNOWN:UNKNOWN 1024:1024 775 /mnt/local/ssd/ai/outputs/comfy",
        ]
        fresh.state = "up"  # the next tests find what this one has made

    def test_the_second_run_finds_nothing_to_do(self, brought_up: World) -> None:
        """One connection, at most two execs, as sshd itself counts them. (How long it takes: bench/converged.py.)"""
        with brought_up.counting() as said, brought_up.unchanged():
            again = brought_up.invoke("bringup", "--yes")
        assert again.code == 0, again.seen
        assert re.fullmatch(r"✓ lab +nothing to do \([\d.]+ s\)\n", again.out), again.seen
        assert again.err == ""
        assert sum(line.startswith("Accepted publickey for ops") for line in said) == 1, said
        assert 1 <= sum(line.startswith("Starting session: ") for line in said) <= 2, said

    def test_a_finished_host_has_an_empty_plan(self, brought_up: World) -> None:
        with brought_up.unchanged():
            planned = brought_up.invoke("bringup", "--plan")
            sections = [brought_up.invoke(name, "--plan") for name in ("storage", *SERVICES)]
        assert planned.code == 0, planned.seen
        assert re.search(r"^✓ lab +nothing to do$", planned.out, re.MULTILINE), planned.seen
        assert [section.code for section in sections] == [0, 0, 0, 0], [section.seen for section in sections]

    def test_json_is_one_document_and_nothing_else(self, brought_up: World) -> None:
        for argv in (
            ("bringup", "--yes"),
            ("validate",),
            ("facts",),
            ("history",),
            ("hosts",),
            ("prereqs",),
            ("comfy",),
        ):
            done = brought_up.invoke(*argv, "--json")
            assert done.code == 0, done.seen
            assert isinstance(done.json, dict), done.seen
            assert done.out.endswith("}\n"), done.seen
        validated = brought_up.invoke("validate", "--json").json
        assert validated["good"] is True
        assert {finding["level"] for finding in validated["findings"]} == {"ok"}

    def test_the_login_key_never_leaves_its_file(self, brought_up: World) -> None:
        """Made once on the host, for root alone; in no output, in no log, not in docker inspect."""
        world = brought_up
        path = "/opt/stacks/ai/secrets/webui_secret_key"
        assert world.sh(f"stat -c '%u:%g %a' {path}; stat -c %a $(dirname {path})").split() == ["0:0", "600", "700"]
        key = world.sh(f"cat {path}")
        assert re.fullmatch(r"[0-9a-f]{64}", key)
        said = [world.invoke(*argv).all for argv in (
            ("bringup", "--yes", "--details"), ("bringup", "--plan", "--json"), ("facts", "--json"),
            ("validate", "--json"), ("history", "--json"))]  # fmt: skip
        assert world.sh(f"cat {path}") == key
        said += [path.read_text() for path in world.logs.rglob("*") if path.is_file()]
        said += [world.docker("inspect", *SERVICES), world.sh("cat /opt/stacks/ai/compose.yaml")]
        said += [world.sh("cat /var/log/pantheon/* /var/lib/pantheon/state.json; journalctl -o cat -n 2000")]
        assert not [text for text in said if key in text]
        # The service has it, else everyone is logged out at each recreate.
        assert world.docker("exec", "openwebui", "cat", "/run/secrets/webui_secret_key") == key

    def test_the_stack_has_the_least_privilege_that_works(self, brought_up: World) -> None:
        seen = json.loads(brought_up.docker("inspect", *SERVICES))
        by_name = {one["Name"].strip("/"): one for one in seen}
        assert by_name["comfy"]["Config"]["User"] == "1024:1024"
        for one in seen:
            host = one["HostConfig"]
            assert host["CapDrop"] == ["ALL"]
            assert not host["Privileged"]
            assert "no-new-privileges:true" in host["SecurityOpt"]
            assert host["RestartPolicy"]["Name"] == "unless-stopped"
            assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
            assert host["Init"] is True
        listening = brought_up.sh("ss -ltnH | awk '{print $4}'").split()
        for port in PORTS.values():
            assert [address for address in listening if address.endswith(f":{port}")] == [f"127.0.0.1:{port}"]
        assert brought_up.docker("exec", "comfy", "id", "-u") == "1024"


def _directories() -> tuple[str, ...]:
    return ("/mnt/local/nvme/ai/services/comfy-mnt", "/mnt/local/nvme/ai/models", "/mnt/local/ssd/ai/outputs/comfy")


class TestSections:
    def test_each_section_alone_in_order(self, fresh: World) -> None:
        """Section by section, each touching its own alone: after each, the containers of the others are the same."""
        ids: dict[str, str] = {}
        first = fresh.invoke("prereqs", "--install", "--yes")  # a ready lab has all of section 2, as it installs it
        assert first.code == 0, first.seen
        assert "prereqs.docker-kept" not in fresh.invoke("prereqs", "--install", "--json").out
        early = fresh.invoke("openwebui", "--yes")
        assert early.code == 2, early.seen
        storage = fresh.invoke("storage", "--yes")
        assert storage.code == 0, storage.seen
        assert fresh.ids() == {}
        # Open WebUI needs a healthy Ollama, and says so.
        early = fresh.invoke("openwebui", "--yes")
        assert early.code == 2, early.seen
        assert "ollama is not healthy" in early.out
        for name in ("ollama", "openwebui", "comfy"):
            done = fresh.invoke(name, "--yes")
            assert done.code == 0, done.seen
            now = fresh.ids()
            assert {key: now[key] for key in ids} == ids
            assert set(now) == {*ids, name}
            ids = now
        assert fresh.invoke("validate").code == 0
        again = fresh.invoke("bringup", "--install", "--yes")
        assert again.code == 0, again.seen
        assert re.fullmatch(r"✓ lab +nothing to do \([\d.]+ s\)\n", again.out), again.seen
        assert fresh.ids() == ids
        whats = [run["what"] for run in fresh.invoke("history", "--json").json["runs"]]
        assert whats == ["storage", "ollama", "openwebui", "comfy"]
        fresh.state = "up"
