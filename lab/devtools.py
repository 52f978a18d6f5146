"""A browser, driven over the DevTools protocol: pages, what they complain of, what their web sockets carry.

    with Browser() as browser:
        page = browser.page("http://127.0.0.1:8188/")
        page.evaluate("document.title"); page.frames; page.complaints

It goes when its pipe closes, so a test run that is killed leaves none behind. Nothing here waits without an end.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from lab import browser
from lab.outer import LabError

ANSWER_S = 30.0  # for one command; a machine under load starts a page in seconds
END_S = 5.0  # for the browser to go by itself

Message = dict[str, Any]


class BrowserError(LabError):
    """The browser did not start, did not answer, or could not do what was asked of it."""


@dataclass(frozen=True)
class Frame:
    """One message of a web socket; binary ones as base64."""

    socket: str  # the browser's number for the web socket
    way: Literal["sent", "received"]
    text: str


class Browser:
    """A browser that runs. `path` is which; the first that is found, if none is given. Raises BrowserError."""

    def __init__(self, path: str = "") -> None:
        path = path or browser.find()
        if not path:
            raise BrowserError("there is no browser on this machine. Next: python -m lab.browser")
        self._folder = tempfile.TemporaryDirectory(prefix="pantheon-browser-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        home = self.folder / "home"
        home.mkdir()
        self._said = self.folder / "said"
        with self._said.open("wb") as said:
            # The protocol is on descriptors 3 and 4; Popen gives 0 and 1, and a shell in between moves them.
            self.process = subprocess.Popen(
                ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >&2', "sh", path, *browser.flags(self.folder / "profile")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(self.folder), "LANG": "C.UTF-8"},
                cwd=self.folder,
                start_new_session=True,
            )
        self._answers: dict[int, queue.SimpleQueue[Message]] = {}
        self._pages: dict[str, Page] = {}
        self._lock, self._number = threading.Lock(), 0
        self._gone = threading.Event()
        self._reader = threading.Thread(target=self._read, name="browser", daemon=True)
        self._reader.start()
        try:
            self.version = str(self.ask("Browser.getVersion")["product"])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def page(self, url: str = "", *, deadline_s: float = ANSWER_S) -> Page:
        """A new tab, loaded if a URL is given."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = str(self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.ask(f"{domain}.enable")
        if url:
            page.open(url, deadline_s=deadline_s)
        return page

    def close(self) -> None:
        """End it, by its own command or by its process group; no process is left, and no file."""
        if not self._gone.is_set():
            with contextlib.suppress(BrowserError):
                self.ask("Browser.close", deadline_s=END_S)
        assert self.process.stdin
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(END_S)  # its pipe ends with the last process that has it
        assert self.process.stdout
        self.process.stdout.close()
        self._folder.cleanup()

    def ask(self, method: str, *, session: str = "", deadline_s: float = ANSWER_S, **parameters: Any) -> Message:
        """A command of the protocol, and its result. Raises BrowserError."""
        with self._lock:
            self._number += 1
            number = self._number
            message = {
                "id": number,
                "method": method,
                "params": parameters,
                **({"sessionId": session} if session else {}),
            }
            answer = self._answers[number] = queue.SimpleQueue()
            assert self.process.stdin
            try:
                self.process.stdin.write(json.dumps(message).encode() + b"\0")
                self.process.stdin.flush()
            except (OSError, ValueError):
                raise self._ended() from None
        try:
            got = answer.get(timeout=deadline_s)
        except queue.Empty:
            raise BrowserError(f"the browser did not answer {method} within {deadline_s:.0f} s") from None
        finally:
            del self._answers[number]
        if "error" in got:
            raise BrowserError(f"{method}: {got['error'].get('message', got['error'])}")
        return dict(got.get("result", {}))

    def _ended(self) -> BrowserError:
        lines = self._said.read_text(errors="replace").splitlines() if self._said.exists() else []
        return BrowserError(f"the browser has ended: {' / '.join(lines[-3:]) or 'without a word'}")

    def _read(self) -> None:
        assert self.process.stdout
        for message in messages(self.process.stdout):
            if "id" in message:
                answer = self._answers.get(message["id"])
                if answer:
                    answer.put(message)
            elif page := self._pages.get(message.get("sessionId", "")):
                page.happened(message["method"], message.get("params", {}))
        self._gone.set()
        for answer in list(self._answers.values()):
            answer.put({"error": {"message": str(self._ended())}})


def messages(pipe: IO[bytes]) -> Iterator[Message]:
    """The JSON documents of the pipe, each ended by a zero byte."""
    rest = b""
    while chunk := os.read(pipe.fileno(), 1 << 16):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from map(json.loads, whole)


class Page:
    """A tab. `complaints` is whatever its console would show in red or yellow, and what it asked for in vain."""

    def __init__(self, owner: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = owner, session, target
        self.complaints: list[str] = []
        self.console: list[str] = []
        self.frames: list[Frame] = []
        self.sockets: dict[str, str] = {}  # the URL of each web socket that was opened, by its number
        self.requests: dict[str, str] = {}  # and of each other request
        self._loaded = threading.Event()

    def ask(self, method: str, *, deadline_s: float = ANSWER_S, **parameters: Any) -> Message:
        return self._browser.ask(method, session=self._session, deadline_s=deadline_s, **parameters)

    def open(self, url: str, *, deadline_s: float = ANSWER_S) -> None:
        """Load, and return when the page says it is. Raises BrowserError when it cannot be reached."""
        self._loaded.clear()
        end = time.monotonic() + deadline_s
        went = self.ask("Page.navigate", url=url, deadline_s=deadline_s)
        if went.get("errorText"):
            raise BrowserError(f"{url}: {went['errorText']}")
        if not self._loaded.wait(max(0.0, end - time.monotonic())):
            raise BrowserError(f"{url} did not load within {deadline_s:.0f} s; complaints: {self.complaints}")

    def evaluate(self, expression: str, *, deadline_s: float = ANSWER_S) -> Any:
        """The value of an expression in the page; of a promise, what it comes to. Raises BrowserError with its
        exception."""
        got = self.ask(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            deadline_s=deadline_s,
        )
        if "exceptionDetails" in got:
            raise BrowserError(f"{expression[:80]}: {exception(got['exceptionDetails'])}")
        return got["result"].get("value")

    def said(self, way: Literal["sent", "received"], text: str) -> list[Frame]:
        """The messages of its web sockets with this text in them."""
        return [frame for frame in list(self.frames) if frame.way == way and text in frame.text]

    def close(self) -> None:
        self._browser.ask("Target.closeTarget", targetId=self._target)

    def happened(self, method: str, told: Message) -> None:
        """An event of the protocol."""
        identity = str(told.get("requestId", ""))
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.consoleAPICalled":
            self._told(told["type"], " ".join(str(one.get("value", one.get("description"))) for one in told["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {exception(told['exceptionDetails'])}")
        elif method == "Log.entryAdded":
            entry = told["entry"]
            self._told(entry["level"], f"{entry['text']} {entry.get('url', '')}".rstrip())
        elif method == "Network.requestWillBeSent":
            self.requests[identity] = told["request"]["url"]
        elif method == "Network.responseReceived" and told["response"]["status"] >= 400:
            self.complaints.append(f"{told['response']['status']}: {told['response']['url']}")
        elif method == "Network.loadingFailed" and not told.get("canceled"):
            self.complaints.append(f"{told['errorText']}: {self.requests.get(identity, '?')}")
        elif method == "Network.webSocketCreated":
            self.sockets[identity] = told["url"]
        elif method == "Network.webSocketFrameError":
            self.complaints.append(f"web socket: {told['errorMessage']}")
        elif method == "Network.webSocketFrameSent":
            self.frames.append(Frame(identity, "sent", told["response"]["payloadData"]))
        elif method == "Network.webSocketFrameReceived":
            self.frames.append(Frame(identity, "received", told["response"]["payloadData"]))
        elif method == "Inspector.targetCrashed":
            self.complaints.append("the page crashed")

    def _told(self, level: str, text: str) -> None:
        self.console.append(f"{level}: {text}")
        if level in ("error", "warning", "assert"):
            self.complaints.append(f"{level}: {text}")


def exception(details: Message) -> str:
    thrown = details.get("exception", {})
    return str(thrown.get("description") or thrown.get("value") or details.get("text"))
