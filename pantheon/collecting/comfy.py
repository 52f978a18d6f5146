"""ComfyUI's own directories in comfy-mnt, and what the stack's override files say of /comfy/mnt.

What lies there was written by whatever ran in ComfyUI: nothing of it is run, no link in it is followed, and of each
file only its beginning is read.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pantheon.looks.engine import Engine, Missing
from pantheon.looks.files import Ground, read_text
from pantheon.looks.logs import last_lines, start_of_log
from pantheon.looks.text import Json, Object, Unread, masked, plain, seconds, shown, unknown, why

MOST_PACKAGES = 5000
MOST_NAMED = 20
YOUNG_S = 3.0
REPOSITORY, MOST_OTHERS = "comfyui-nvidia-docker", 3
LOG_S, BEFORE_LINES = 3.0, 120
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
PATH_FILE = re.compile(r"(?m)^[^/,\n]+\.pth,")
TORCHES = ("torch", "torchvision", "torchaudio")


def tree(spec: Object, root: str) -> Json:
    """evidence.Evidence.comfy; None where there is no comfy-mnt."""
    path = str(spec["comfy_mnt"])
    ground = Ground(root)
    real, found = ground.walk(path)
    mount = ground.mounts.of(real)
    if found is None:
        return None
    if mount and ground.mounts.remote(mount):
        raise Unread(f"{path} lies on {mount['target']} ({mount['fstype']}): not looked into")
    try:
        top = os.open(root + real, DIRECTORY)
    except NotADirectoryError:
        raise Unread(f"{path} is no directory of its own") from None
    try:
        out: Object = {"old_venvs": sorted(shown(name) for name in os.listdir(top) if name.startswith("venv-"))}
        out["old_venvs"] = out["old_venvs"][:MOST_NAMED]
        return {**out, **clone(top), **venv(top)}
    finally:
        os.close(top)


def overrides(spec: Object, root: str) -> Json:
    """evidence.Evidence.overrides: the lines of each file that speak of /comfy/mnt; None where there is none."""
    found: Object = {}
    for path in spec.get("overrides") or ():
        try:
            text = read_text(root + path, 256 * 1024)
        except (OSError, Unread) as error:
            found[path] = unknown(why(error))
            continue
        lines = [masked(plain(line)).strip() for line in (text or "").splitlines() if "/comfy/mnt" in line]
        found[path] = None if text is None else [line for line in lines if not line.startswith("#")][:MOST_NAMED]
    return found


def before(spec: Object, root: str) -> Json:
    """evidence.Evidence.comfy_before. Docker makes one that has failed start again at once, and what it died of stands
    in the log of the start before this one."""
    del spec
    return _before(Engine(root), "comfy")


def others_before(spec: Object, root: str) -> Json:
    """evidence.Evidence.others_before: of containers of another name that run ComfyUI, by name."""
    engine = Engine(root)
    image = str(spec["images"]["comfy"])
    found: Object = {}
    for one in engine.get("/containers/json?all=1"):
        name = str((one.get("Names") or ["/"])[0]).lstrip("/")
        is_comfy = REPOSITORY in str(one.get("Image")) or one.get("Image") == image
        if name and name != "comfy" and is_comfy and one.get("State") in ("running", "restarting"):
            try:
                found[shown(name)] = _before(engine, str(one["Id"]))
            except Unread as error:
                found[shown(name)] = unknown(why(error))
        if len(found) >= MOST_OTHERS:
            break
    return found


def _before(engine: Engine, container: str) -> Json:
    try:
        found = engine.get(f"/containers/{container}/json")
        if 0 <= time.time() - seconds(found["State"].get("StartedAt") or "") < YOUNG_S:
            time.sleep(YOUNG_S / 3)  # one that fails at once is between two starts most of the time
            found = engine.get(f"/containers/{container}/json")
    except Missing:
        return None
    since = start_of_log(found["State"])
    if not found.get("RestartCount") or not since:
        return None
    return last_lines(engine, found, keep=BEFORE_LINES, end=time.monotonic() + LOG_S, until=since)


def clone(top: int) -> Object:
    """What became of `git clone`. A clone that was killed leaves a .git without an index, and no working files."""
    state = kind_of(top, "ComfyUI")
    if state != "dir":
        return {"clone": {"": "missing", "link": "link"}.get(state, "broken"), "clone_detail": ""}
    with below(top, "ComfyUI") as folder:
        if folder is None:
            return {"clone": "missing"}
        if not first(folder):
            return {"clone": "empty"}
        missing = [name for name in ("main.py", "requirements.txt") if kind_of(folder, name) != "file"]
        git = kind_of(folder, ".git")
        if git == "dir":
            with below(folder, ".git") as inside:
                missing += [f".git/{n}" for n in ("HEAD", "index") if inside is None or kind_of(inside, n) != "file"]
        elif not git:
            missing.append(".git")
    return {"clone": "broken" if missing else "complete", "clone_detail": f"no {', '.join(missing)}" if missing else ""}


def venv(top: int) -> Object:
    """The virtual environment. Its interpreter is a link into the image, which leads nowhere here: whether there is a
    link is all that can be told."""
    state = kind_of(top, "venv")
    if state != "dir":
        return {"venv": {"": "missing", "link": "link"}.get(state, "broken"), "venv_detail": ""}
    with below(top, "venv") as folder:
        if folder is None:
            return {"venv": "missing"}
        out: Object = {"venv": "complete", "build_base": line_of(folder, ".build_base.txt")}
        version = re.search(r"(?m)^version(?:_info)? *= *(\d+\.\d+)", text_of(folder, "pyvenv.cfg"))
        out["venv_python"] = version[1] if version else None
        missing = [name for name in ("bin/activate", "bin/python3") if not kind_of(folder, *name.split("/"))]
        with below(folder, "lib") as lib:
            pythons = sorted(n for n in os.listdir(lib) if re.fullmatch(r"python3\.\d+", n)) if lib is not None else []
        if not pythons:
            missing.append("lib/python3.*")
        elif version and f"python{version[1]}" not in pythons:
            missing.append(f"lib/python{version[1]}")
        else:
            out.update(packages(folder, f"python{version[1]}" if version else pythons[-1]))
        if missing:
            out.update(venv="broken", venv_detail=f"no {', '.join(missing)}")
    return out


def packages(folder: int, python: str) -> Object:
    """What pip has a record of: the torches with their CUDA, and packages whose files are gone."""
    torch: Object = {}
    gone: list[str] = []
    cuda = None
    with below(folder, "lib", python, "site-packages") as site:
        if site is None:
            return {"venv": "broken", "venv_detail": f"no lib/{python}/site-packages"}
        names = set()
        with os.scandir(site) as entries:
            for entry in entries:
                names.add(entry.name)
                if len(names) >= MOST_PACKAGES:
                    break
        for name in sorted(names):
            found = re.fullmatch(r"([A-Za-z0-9._]+)-([A-Za-z0-9.+!_]+)\.dist-info", name)
            if not found:
                continue
            if found[1].lower() in TORCHES:
                torch[found[1].lower()] = found[2]
            tops = tops_of(site, name)
            if PATH_FILE.search(text_of(site, name, "RECORD")):
                continue  # installed in place (`pip install -e`): it lies elsewhere
            if tops and not any(is_there(names, one) for one in tops) and len(gone) < MOST_NAMED:
                gone.append(min(tops))
        if "torch" in torch:
            said = re.search(r"(?m)^cuda\b[^=\n]*= *['\"](\d+\.\d+)['\"]", text_of(site, "torch", "version.py"))
            cuda = said[1] if said else cuda_of(torch["torch"])
    listed = [f"{name} {torch[name]}" for name in TORCHES if name in torch]
    return {"torch": listed, "venv_cuda": cuda, "missing_modules": gone}


def tops_of(site: int, info: str) -> set[str]:
    """The names under which a package can be imported, by pip's own record."""
    listed = text_of(site, info, "top_level.txt").split()
    if not listed:
        firsts = (line.split(",")[0].split("/")[0] for line in text_of(site, info, "RECORD").splitlines()[:-1])
        listed = [name.partition(".")[0] if name.endswith((".py", ".so")) else name for name in firsts]
    return {name for name in listed if re.fullmatch(r"[A-Za-z_]\w*", name) and name != "__pycache__"}


def is_there(names: set[str], top: str) -> bool:
    return top in names or f"{top}.py" in names or any(n.startswith(f"{top}.") and n.endswith(".so") for n in names)


def cuda_of(version: str) -> str | None:
    """`2.9.1+cu130` -> 13.0"""
    found = re.search(r"\+cu(\d+)(\d)\b", version)
    return f"{found[1]}.{found[2]}" if found else None


# ---- below an open directory, without following any link


@contextmanager
def below(folder: int, *names: str) -> Iterator[int | None]:
    """A directory below an open one; None where it is not there, or a link."""
    fd = os.dup(folder)
    try:
        for name in names:
            inner = os.open(name, DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = inner
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        os.close(fd)
        yield None
        return
    except OSError as error:
        os.close(fd)
        raise Unread(why(error)) from None
    try:
        yield fd
    finally:
        os.close(fd)


def kind_of(folder: int, *names: str) -> str:
    """dir, file, link, other, or "" for nothing there."""
    with below(folder, *names[:-1]) as inside, suppress(FileNotFoundError):
        if inside is not None:
            mode = os.stat(names[-1], dir_fd=inside, follow_symlinks=False).st_mode
            tests = ((stat.S_ISDIR, "dir"), (stat.S_ISREG, "file"), (stat.S_ISLNK, "link"))
            return next((name for test, name in tests if test(mode)), "other")
    return ""


def first(folder: int) -> str:
    with os.scandir(folder) as entries:
        return next((entry.name for entry in entries), "")


def text_of(folder: int, *names: str) -> str:
    """The first 64 KiB of a regular file, "" where there is none."""
    with below(folder, *names[:-1]) as inside, suppress(OSError):
        if inside is not None:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(names[-1], flags, dir_fd=inside), "rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return file.read(64 * 1024).decode("utf-8", "replace")
    return ""


def line_of(folder: int, name: str) -> str | None:
    lines = text_of(folder, name).splitlines()
    return plain(lines[0])[:100] if lines else None
