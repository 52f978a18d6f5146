"""Exit codes and clean ends, through the real Invoke program and tasks.py."""

from __future__ import annotations

import errno
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from invoke.config import Config
from invoke.context import Context

from pantheon import cli, errors
from pantheon.report import overview, runbooks
from pantheon.report.text import typed

ROOT = Path(__file__).resolve().parents[2]


def invoke(*arguments: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-m", "invoke", *arguments], cwd=ROOT, input=stdin, capture_output=True, text=True,
        timeout=60, check=False, env={**os.environ, **(env or {})},
    )  # fmt: skip


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 1),
        (errors.InventoryError("hosts.toml", ["a", "b"]), 1),
        (errors.StepFailed("x"), 1),
        (errors.LookFailed("x"), 1),
        (errors.Declined("x"), 2),
        (errors.NotTrusted("x"), 3),
        (errors.LinkLost("x"), 3),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("oops"), 1),
    ],
)
def test_every_failure_has_its_exit_code_and_no_traceback(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.guarded(raising(error), Context(Config())) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    if isinstance(error, ZeroDivisionError):
        assert "a defect in pantheon: ZeroDivisionError: oops" in captured.err
        assert "last-error.txt" in captured.err


def test_a_defect_of_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def nobody(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    assert cli.guarded(raising(ZeroDivisionError("oops")), Context(Config())) == 1
    assert "its traceback could not be kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    "problem", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")]
)
def test_a_machine_that_has_run_out_of_something(problem: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.guarded(raising(problem), Context(Config()), as_json=True) == 1
    captured = capsys.readouterr()
    assert "defect" not in captured.err
    assert "Next: ulimit -a" in captured.err
    assert json.loads(captured.out)["result"] == "failed"


def test_a_terminal_that_says_it_has_no_columns_is_written_to_all_the_same() -> None:
    result = invoke("tunnel", "nonsense", env={"COLUMNS": "0", "LINES": "0"})
    assert "no service 'nonsense'" in result.stderr


def test_what_is_opened_never_takes_the_place_of_a_closed_stream() -> None:
    program = (
        "import os; from invoke import Config, Context; from pantheon import cli; "
        "cli.guarded(lambda: os._exit(os.open('/dev/null', os.O_RDONLY)), Context(Config()))"
    )
    argv = shlex.join([sys.executable, "-c", program])
    result = subprocess.run(["sh", "-c", f"{argv} <&- >&- 2>&-"], cwd=ROOT, timeout=60, check=False)
    assert result.returncode > 2


def test_two_commands_in_a_line_with_a_tunnel_are_a_document_too() -> None:
    result = invoke("tunnel", "comfy", "--json", "ollama")
    assert result.returncode == 1
    assert "last command of a line" in json.loads(result.stdout)["error"]


def test_an_invoke_that_lacks_what_make_setup_installs(tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich/__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'rich'\", name='rich')")
    result = invoke("hosts", env={"PYTHONPATH": str(tmp_path)})
    assert result.returncode == 1
    assert "does not have rich" in result.stderr
    assert "Next: make setup" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_hosts_file_in_the_home_directory(tmp_path: Path) -> None:
    """The shell leaves the ~ of --hosts-file=~/hosts.toml as it is."""
    (tmp_path / "hosts.toml").write_text('[hosts.mine]\naddress = "x"\n')
    result = invoke("hosts", "--hosts-file=~/hosts.toml", env={"HOME": str(tmp_path)})
    assert "mine" in result.stdout


def test_ctrl_c_ends_a_tunnel_well() -> None:
    assert cli.guarded(raising(KeyboardInterrupt()), Context(Config()), interrupt_code=0) == 0


def test_errors_name_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    problem = errors.NotTrusted("lab: unknown key", details=["shown"], next_commands=["invoke trust --host lab"])
    cli.guarded(raising(problem), Context(Config()))
    assert capsys.readouterr().err == "✗ lab: unknown key\n    shown\nNext: invoke trust --host lab\n"


def test_commands_to_type_reach_the_same_host(tmp_path: Path) -> None:
    """`--host lab` alone would be another host: the one that the project's own hosts.toml calls lab."""
    file = tmp_path / "my hosts.toml"
    file.write_text('[hosts.lab]\naddress = "127.0.0.1"\nport = 1\n')
    result = invoke("tunnel", "nope", "--hosts-file", str(file))
    assert result.stderr.endswith(f"Next: invoke tunnel comfy --host lab --hosts-file '{file}'\n")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("invoke trust --host h --replace", "invoke trust --host h --hosts-file x --replace"),
        ("invoke storage --host h-1.z, then invoke tunnel comfy --host h.",
         "invoke storage --host h-1.z --hosts-file x, then invoke tunnel comfy --host h --hosts-file x."),
        ("invoke runbook comfy", "invoke runbook comfy"),
        ("invoke fix.gpu-lost --host h", "invoke fix.gpu-lost --host h --hosts-file x"),
        ("invoke fix.driver-mismatch --reboot --host h --yes",
         "invoke fix.driver-mismatch --reboot --host h --hosts-file x --yes"),
        ("invoke fix.wrong-version-number --url https://[::1]:8188 --host h",
         "invoke fix.wrong-version-number --url https://[::1]:8188 --host h --hosts-file x"),
        ("invoke diagnose --host h; invoke logs comfy --host h",
         "invoke diagnose --host h --hosts-file x; invoke logs comfy --host h --hosts-file x"),
        ("ssh ops@h docker logs comfy, or invoke storage", "ssh ops@h docker logs comfy, or invoke storage"),
        ("ssh -t ops@h sudo -l", "ssh -t ops@h sudo -l"),
    ],
)  # fmt: skip
def test_the_hosts_file_is_repeated(command: str, expected: str) -> None:
    assert typed(command, "x") == expected
    assert typed(command, "") == command


def test_a_failure_under_json_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    problem = errors.Declined("lab: nothing was changed", details=["why"], next_commands=["invoke bringup"])
    assert cli.guarded(raising(problem), Context(Config()), as_json=True) == 2
    captured = capsys.readouterr()
    assert "nothing was changed" in captured.err
    assert json.loads(captured.out) == {
        "result": "failed",
        "kind": "Declined",
        "error": "lab: nothing was changed",
        "details": ["why"],
        "next": ["invoke bringup"],
        "exit_code": 2,
    }


@pytest.mark.parametrize("text", ["0", "65536", "-1", "1e3", "٣", "8188x", " 1"])
def test_ports(text: str) -> None:
    with pytest.raises(errors.UsageError):
        cli.port_number(text, "--port")


def test_bare_invoke_prints_the_table() -> None:
    result = invoke()
    assert result.returncode == 0
    assert result.stdout == overview.TABLE


def test_every_command_of_the_table_exists() -> None:
    listed = invoke("--list").stdout
    procedure = ["bringup", "prereqs", "storage", "comfy", "ollama", "openwebui", "validate", "tunnel"]
    procedure += ["tunnel.list", "tunnel.close"]
    around = ["diagnose", "runbook", "facts", "history", "hosts", "trust"]
    lab = ["lab.up", "lab.down", "lab.reset", "lab.status", "lab.shell", "lab.break", "lab.drill"]
    for word in (*procedure, *around, *lab):
        assert re.search(rf"  {word}(\.open)? ", listed), word
        assert word.removeprefix("lab") in overview.TABLE


@pytest.mark.parametrize("task", ["bringup", "prereqs", "storage", "comfy", "ollama", "openwebui", "validate", "tunnel",
                                  "facts", "history", "trust", "diagnose", "fix.gpu-lost"])  # fmt: skip
def test_every_task_that_contacts_a_host_takes_host(task: str) -> None:
    assert "--host=STRING" in invoke("--help", task).stdout


@pytest.mark.parametrize("task", ["bringup", "storage", "comfy", "ollama", "openwebui", "fix.comfy-ownership"])
def test_every_task_that_changes_a_host_takes_plan_yes_details(task: str) -> None:
    text = invoke("--help", task).stdout
    for option in ("--plan", "--yes", "--details", "--json"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["hosts", "--hosts-file", "/nonexistent.toml"], 1, "/nonexistent.toml"),
        (["validate", "--host", "prometeus"], 1, "did you mean prometheus?"),
        (["--dry", "bringup"], 1, "--plan"),
        (["tunnel", "comfi"], 1, "comfy, ollama, openwebui"),
        (["tunnel", "comfy", "--port", "99999"], 1, "--port must be a port"),
        (["tunnel"], 1, "SERVICE: comfy, ollama, openwebui or all"),
        (["tunnel.close"], 1, "SERVICE: comfy, ollama, openwebui or all"),
        (["tunnel", "--help"], 1, "Next: invoke --help tunnel"),
        (["tunnel", "list"], 1, "Next: invoke tunnel.list"),
        (["tunnel", "comfy", "--check", "--background"], 1, "exclude each other"),
        (["tunnel", "comfy", "ollama", "--host", "lab"], 1, "Next: invoke tunnel all --host lab"),
        (["tunnel", "comfy", "validate"], 1, "validate would run once it is closed\nNext: invoke tunnel comfy\n"),
        (["hosts", "tunnel.open", "comfy", "trust"], 1, "a tunnel is the last command of a line: trust"),
        (["runbook", "storag"], 1, "did you mean storage?"),
        (["bringup", "--host", "$(touch x)"], 1, "no host"),
        (["nosuch"], 1, "nosuch"),
    ],
)
def test_called_wrongly(arguments: list[str], code: int, text: str) -> None:
    result = invoke(*arguments)
    assert result.returncode == code
    assert text in result.stderr + result.stdout
    assert "Traceback" not in result.stderr


def test_the_ssh_command_is_shown_and_nothing_is_contacted(tmp_path: Path) -> None:
    hosts, known = tmp_path / "hosts.toml", tmp_path / "known_hosts"
    hosts.write_text('[hosts.x]\naddress = "192.0.2.1"\nuser = "ops"\n[hosts.x.comfy]\nport = 8199\n')
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIJGSv0kFVVbeEZBzhXLnzEPKfcDsZGvXcWRtEfcNhNzI"
    known.write_text(f"192.0.2.1 ssh-ed25519 {key}\n")
    env = {"PANTHEON_HOSTS": str(hosts), "PANTHEON_KNOWN_HOSTS": str(known), "XDG_RUNTIME_DIR": str(tmp_path)}
    result = invoke("tunnel", "all", "--print-ssh", "--host", "x", env=env)
    assert (result.returncode, result.stderr) == (0, "")
    commands = [shlex.split(line) for line in result.stdout.splitlines()]
    assert len(commands) == 3
    for words in commands:
        assert words[0] == "ssh"
        assert words[words.index("-L") + 1].startswith("127.0.0.1:")
    assert commands[0][commands[0].index("-L") + 1].endswith(":127.0.0.1:8199")
    document = json.loads(invoke("tunnel", "comfy", "--print-ssh", "--json", "--host", "x", env=env).stdout)
    assert shlex.split(document["commands"]["comfy"]) == commands[0]


def test_a_closed_pipe_is_no_drama() -> None:
    command = f"{shlex.quote(sys.executable)} -m invoke hosts | head -c 1"
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_output_to_a_full_disk() -> None:
    command = f"{shlex.quote(sys.executable)} -m invoke hosts --json >/dev/full"
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr == "✗ the file that the output goes to: No space left on device\nNext: df -h\n"


def test_every_section_has_a_page() -> None:
    assert {"bringup", "prereqs", "storage", "comfy", "ollama", "openwebui", "validate", "tunnel"} <= set(
        runbooks.names()
    )


def test_a_page_in_a_pipe_is_its_text() -> None:
    assert invoke("runbook", "comfy").stdout == (ROOT / "runbooks" / "comfy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("told", ["", "1"])
def test_what_is_compiled_is_kept(tmp_path: Path, told: str) -> None:
    """Invoke would have each command compile everything anew; what Python itself was told holds."""
    env = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": told}
    assert invoke("--list", env=env).returncode == 0
    assert any(path.name.startswith("cli.") for path in tmp_path.rglob("pantheon/*.pyc")) is (not told)
