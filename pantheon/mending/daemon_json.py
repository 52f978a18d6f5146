"""Docker's daemon.json with what the stack needs put in: everything else in it stays as and where it is.

arguments: path; log (whether logs are to be rotated); nvidia (whether the nvidia runtime is to be in it, as nvidia-ctk
writes it); restart (whether the engine is restarted even if the file is right already); answer_s (how long the engine
may take until it answers).

dockerd checks the new text before anything is replaced. The file before is kept beside it. When the engine does not
come up with the new one, the one before is put back, and the engine started with that. From the replacement on the work
is done in a session of its own: a run that is ended in the middle leaves neither a host without its engine nor a file
that nobody tried. Done again, nothing is left to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from typing import Any

from pantheon.mending.commands import run
from pantheon.mending.dockerd import MOST_BYTES, refusal, rendered, staged
from pantheon.mending.words import Failed

KEPT = ".before-pantheon"
CTK_S, RESTART_S = 60, 150
NO_SOCKET = "no sockets found via socket activation"
ROTATION = {"max-size": "10m", "max-file": "5"}


def say(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever listened may be gone
        print(line, flush=True)


def main() -> int:
    told = json.loads(sys.argv[1])
    try:
        mend(told)
    except Failed as refused:
        for line in refused.args:
            say(line)
        return 1
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        say(f"{told['path']}: {error}")
        return 1
    return 0


def mend(told: dict[str, Any]) -> None:
    path = told["path"]
    text, config, added = "", dict[str, Any](), list[str]()
    if told["log"] or told["nvidia"]:  # else the engine is restarted with what is there, whatever it is
        text = current(path)
        config = parsed(text, path)
    if told["log"]:
        added += rotate(config)
    if told["nvidia"]:
        added += merge(config, with_runtime(path, text))
    if not added and not told["restart"]:
        say(f"{path} is right already")
        return
    if added:
        beside = staged(path, rendered(config, text))
        try:
            validate(beside)
        except BaseException:
            os.unlink(beside)
            raise
        say(f"{path}: {', '.join(added)}; dockerd takes it")
    else:
        beside = ""
    if apart(lambda: replace(path, beside, told["answer_s"])):
        raise Failed()


# ---- the text


def current(path: str) -> str:
    """ "" where there is no file, and for an empty one, which dockerd takes as well."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return ""
    if not stat.S_ISREG(found.st_mode):
        raise Failed(f"{path} is not a regular file, and is left alone")
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise Failed(f"{path} is larger than any such file, and is left alone")
    return text


def parsed(text: str, path: str) -> dict[str, Any]:
    if not text.strip():
        return {}
    try:
        config = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise Failed(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}; it is left alone") from None
    except ValueError as error:
        raise Failed(f"{path}: {error}; it is left alone") from None
    if not isinstance(config, dict):
        raise Failed(f"{path} holds no object, and is left alone")
    return config


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key that is in it twice one would get lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is in it twice")
    return found


def rotate(config: dict[str, Any]) -> list[str]:
    """Rotation of containers' logs, where they go into files that nothing else bounds."""
    if config.get("log-driver", "json-file") != "json-file":
        return []
    options = {} if config.get("log-opts") is None else config["log-opts"]
    if not isinstance(options, dict) or "max-size" in options:
        return []
    config.setdefault("log-driver", "json-file")
    config["log-opts"] = {**options, **{name: value for name, value in ROTATION.items() if name not in options}}
    return ["log rotation"]


def with_runtime(path: str, text: str) -> dict[str, Any]:
    """The file as `nvidia-ctk runtime configure` would have it, made from a copy."""
    with tempfile.TemporaryDirectory(prefix="pantheon-daemon-") as folder:
        copy = f"{folder}/daemon.json"
        with open(copy, "w", encoding="utf-8") as file:
            file.write(text if text.strip() else "{}")
        argv = ["nvidia-ctk", "runtime", "configure", "--runtime=docker", f"--config={copy}"]
        try:
            done = run(argv, CTK_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(f"nvidia-ctk could not be asked for the runtime: {error}") from None
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()[-3:]
            raise Failed("nvidia-ctk could not configure the runtime", *said)
        return parsed(current(copy), path)


def merge(config: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Puts into `config` what only `other` has. The names of what was added; nothing that is there is changed."""
    added = []
    for name, value in other.items():
        if config.get(name) is None:  # null is as good as nothing to dockerd
            config[name] = value
            added.append(prefix + name + ("" if prefix or not isinstance(value, dict) else f".{'/'.join(value)}"))
        elif isinstance(value, dict) and isinstance(config[name], dict) and not prefix:
            added += merge(config[name], value, f"{name}.")
    return added


def validate(path: str) -> None:
    try:
        why = refusal(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"dockerd could not check the new daemon.json: {error}; nothing was changed") from None
    if why:
        raise Failed("dockerd does not take the new daemon.json; nothing was changed", *why)


# ---- the file and the engine


def apart(work: Any) -> int:
    """`work` in a child with a session of its own, which is not ended with this program: its status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.setsid()
        work()
        status = 0
    except Failed as refused:
        for line in refused.args:
            say(line)
    except Exception as error:
        say(f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def replace(path: str, beside: str, answer_s: float) -> None:
    """The file put in its place and the engine restarted; both as before, if that does not do."""
    kept = keep(path) if beside else ""
    if beside:
        os.rename(beside, path)
        if kept:
            say(f"the one before is kept as {kept}")
    say("restarting the engine")
    began = time.time()
    why = restart(answer_s)
    if not why:
        say(f"the engine answers after {time.time() - began:.0f} s")
        return
    words = [f"the engine does not come up: {why}", *journal(began)]
    if not beside:
        raise Failed(*words)
    os.rename(path, f"{path}.refused")
    if kept:
        copy(kept, f"{path}.part")
        os.rename(f"{path}.part", path)
    back = restart(answer_s)
    words.append(f"{path} is as it was before{'' if kept else ' (not there)'}; what was refused: {path}.refused")
    words.append("the engine runs again, as before" if not back else f"with that it does not come up either: {back}")
    raise Failed(*words)


def keep(path: str) -> str:
    """A copy of the file under a name that nothing has yet; "" where there is no file."""
    if not os.path.lexists(path):
        return ""
    kept, number = path + KEPT, 1
    while os.path.lexists(kept):
        kept, number = f"{path}{KEPT}.~{number}~", number + 1
    copy(path, kept)
    return kept


def copy(path: str, to: str) -> None:
    shutil.copy2(path, to)
    owner = os.stat(path)
    os.chown(to, owner.st_uid, owner.st_gid)


def restart(answer_s: float, *with_it: str, again: bool = True) -> str:
    """Why the engine does not answer after a restart; "" when it does. A socket that systemd has kept from an engine of
    other packages is of no use to this one, and is restarted `with_it`."""
    began = time.time()
    units = ["docker.service", "docker.socket"]
    # After some restarts in a row systemd refuses the next, unless told to forget them.
    for words in (["systemctl", "reset-failed", *units], ["systemctl", "restart", *with_it, units[0]]):
        try:
            done = run(words, RESTART_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.returncode:
        if again and any(NO_SOCKET in line for line in journal(began)):
            return restart(answer_s, "docker.socket", again=False)
        return (done.stderr + done.stdout).strip().partition("\n")[0] or f"systemctl: exit {done.returncode}"
    end = time.monotonic() + answer_s
    why = "it does not answer"
    while time.monotonic() < end:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            asked = run(["docker", "version", "--format", "{{.Server.Version}}"], 10)
            if asked.returncode == 0:
                return ""
            why = asked.stderr.strip().partition("\n")[0] or why
        time.sleep(0.3)
    return f"{why} (after {answer_s:.0f} s)"


def journal(since: float) -> list[str]:
    """dockerd's own last words."""
    argv = [
        "journalctl",
        "-u",
        "docker.service",
        "--no-pager",
        "-q",
        "-o",
        "cat",
        "-n",
        "60",
        f"--since=@{since - 1:.0f}",
    ]
    try:
        done = run(argv, 20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    told = [
        line for line in done.stdout.splitlines() if re.search(r"level=(?:error|fatal)|[Ff]ailed to|unable to", line)
    ]
    words = [
        line for line in told if not re.match(r"(?:Failed to start|docker\.service:|docker\.socket:)", line)
    ] or told
    return [f"dockerd: {line[:300]}" for line in list(dict.fromkeys(words))[-3:]]


if __name__ == "__main__":
    sys.exit(main())
