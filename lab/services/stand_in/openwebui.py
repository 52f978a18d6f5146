"""Open WebUI's server: health and readiness, accounts and sessions, Ollama's models, the Socket.IO socket."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import secrets
import signal
import sqlite3
import sys
import threading
import time
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

from lab.services.stand_in import pages, tokens
from lab.services.stand_in.openwebui_settings import Settings
from lab.services.stand_in.sockets import WebSocket
from lab.services.stand_in.web import Answer, App, Request, listen, setting

VERSION = os.environ.get("STAND_IN_VERSION", "0.12.4")
WRONG = "The email or password provided is incorrect. Please check for typos and try logging in again."
EXPIRED = "Your session has expired or the token is invalid. Please sign in again."
NO_SIGNUP = "You do not have permission to access this resource. Please contact your administrator for assistance."


def ask_ollama(url: str, path: str) -> Any:
    """Ollama's JSON; OSError with the words of the real client, or ValueError, where there is none."""
    target = urllib.parse.urlsplit(url)
    host, port = target.hostname or "localhost", target.port or (443 if target.scheme == "https" else 80)
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.connect()
        if target.scheme == "https":  # there is no ssl module here, and no TLS on the other side
            raise OSError(f"host {host}:{port} ssl:default [[SSL: WRONG_VERSION_NUMBER] wrong version number]")
        connection.request("GET", f"{target.path.rstrip('/')}{path}")
        return json.loads(connection.getresponse().read())
    except OSError as error:
        reason = str(error) if "ssl:" in str(error) else f"host {host}:{port} ssl:default [{error.strerror or error}]"
        raise OSError(f"Cannot connect to {reason}") from error
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def hash_password(password: str, salt: str) -> str:
    return hashlib.sha256(f"{salt}{password}".encode()).hexdigest()


class Database(Settings):
    """webui.db: the settings and the users."""

    def add(self, name: str, email: str, password: str) -> dict[str, str] | None:
        """The new user; the first is the administrator, and closes the door behind him (None) unless told otherwise."""
        with self.open() as database:
            first = not database.execute("SELECT count(*) FROM user").fetchone()[0]
            if not first and os.environ.get("ENABLE_SIGNUP", "").lower() != "true":
                return None
            salt, identity = secrets.token_hex(8), str(uuid.uuid4())
            role = "admin" if first else os.environ.get("DEFAULT_USER_ROLE", "pending")
            row = (identity, name, email.lower(), role, salt, hash_password(password, salt))
            database.execute("INSERT INTO user VALUES (?, ?, ?, ?, ?, ?)", row)
        return self.find("id", identity)

    def find(self, column: str, value: str) -> dict[str, str] | None:
        query = {"id": "SELECT * FROM user WHERE id = ?", "email": "SELECT * FROM user WHERE email = ?"}[column]
        with self.open() as database:
            row = database.execute(query, (value,)).fetchone()
        return dict(row) if row else None


class OpenWebui(App):
    def __init__(self, data: Path, secret: str) -> None:
        self.data = data
        self.secret = secret
        self.ready = False
        self.accounts: Database | None = None
        super().__init__(
            {
                "GET /": lambda _: Answer(pages.WEBUI),
                "GET /_app/immutable/entry/start.js": lambda _: Answer(pages.WEBUI_SCRIPT, kind="text/javascript"),
                "GET /static/favicon.png": lambda _: Answer(pages.png(16), kind="image/png"),
                "GET /health": lambda _: Answer({"status": True}),
                "GET /health/db": self.health,
                "GET /ready": self.health,
                "GET /api/version": lambda _: Answer({"version": VERSION, "deployment_id": ""}),
                "GET /api/config": self.config,
                "POST /api/v1/auths/signup": self.sign_up,
                "POST /api/v1/auths/signin": self.sign_in,
                "GET /api/v1/auths/": lambda request: Answer(self.session(self.user(request))),
                "GET /api/models": self.models,
                "GET /ollama/api/(?P<path>tags|version|ps)": self.ollama,
                "GET /ws/socket.io/?": self.socket_io,
            }
        )

    def unknown(self, request: Request) -> Answer:
        if request.command in ("GET", "HEAD") and not request.path.startswith(("/api", "/ollama", "/ws")):
            return Answer(pages.WEBUI)  # the pages of a single-page application
        return Answer({"detail": "Not Found"}, 404)

    def log(self, request: Request, text: str) -> None:
        status = text.split('" ')[-1].split()[0]
        print(
            f'INFO:     {request.client_address[0]}:{request.client_address[1]} - "{request.requestline}" {status}',
            flush=True,
        )

    def start(self) -> None:
        """The slow part of a start, after the port is open: the database, and on an empty data directory the models."""
        first = not (self.data / "webui.db").exists()
        (self.data / "uploads").mkdir(parents=True, exist_ok=True)
        if first:
            print("INFO  [open_webui.env] Fetching 30 files: sentence-transformers/all-MiniLM-L6-v2", flush=True)
            time.sleep(setting("openwebui_first_seconds", 1.5))
            (self.data / "cache/embedding/models").mkdir(parents=True, exist_ok=True)
        time.sleep(setting("openwebui_start_seconds", 0.7))
        database = Database(self.data / "webui.db")
        database.upgrade()
        database.seed()
        self.accounts = database
        self.ready = True
        print("INFO:     Application startup complete.", flush=True)

    def health(self, request: Request) -> Answer:
        del request
        return Answer({"status": True}) if self.ready else Answer({"detail": "Startup not complete"}, 503)

    def config(self, request: Request) -> Answer:
        del request
        return Answer(
            {
                "status": True,
                "name": "Open WebUI",
                "version": VERSION,
                "features": {"auth": True, "enable_websocket": True},
            }
        )

    def database(self) -> Database:
        if self.accounts is None:
            raise Answer({"detail": "Startup not complete"}, 503)
        return self.accounts

    def session(self, user: dict[str, str]) -> dict[str, str]:
        shown = {name: user[name] for name in ("id", "email", "name", "role")}
        token = tokens.make({"id": user["id"], "jti": str(uuid.uuid4())}, self.secret)
        return {"token": token, "token_type": "Bearer", "profile_image_url": "/user.png", **shown}

    def user(self, request: Request) -> dict[str, str]:
        """Whose session the request carries, in a header or a cookie; 401 without one that our key signed."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer":
            cookies = dict(part.strip().partition("=")[::2] for part in request.headers.get("Cookie", "").split(";"))
            token = cookies.get("token", "")
        if not token:
            raise Answer({"detail": "Not authenticated"}, 401)
        claims = tokens.read(token, self.secret)
        user = self.database().find("id", str(claims.get("id"))) if claims else None
        if user is None:
            raise Answer({"detail": EXPIRED}, 401)
        return user

    def signed_in(self, user: dict[str, str]) -> Answer:
        session = self.session(user)
        return Answer(session, headers={"Set-Cookie": f"token={session['token']}; HttpOnly; Path=/; SameSite=lax"})

    def sign_up(self, request: Request) -> Answer:
        body = request.json
        name, email, password = (str(body.get(key, "")) for key in ("name", "email", "password"))
        if "@" not in email or not password:
            return Answer(
                {"detail": "The email format you entered is invalid. Please double-check and try again."}, 400
            )
        if self.database().find("email", email.lower()):
            return Answer(
                {"detail": "Uh-oh! This email is already registered. Sign in with your existing account."}, 400
            )
        user = self.database().add(name, email, password)
        return self.signed_in(user) if user else Answer({"detail": NO_SIGNUP}, 403)

    def sign_in(self, request: Request) -> Answer:
        body = request.json
        user = self.database().find("email", str(body.get("email", "")).lower())
        if not user or hash_password(str(body.get("password", "")), user["salt"]) != user["password"]:
            return Answer({"detail": WRONG}, 400)
        return self.signed_in(user)

    def models(self, request: Request) -> Answer:
        self.user(request)
        listed = []
        for url in self.ollama_urls():
            with contextlib.suppress(OSError, ValueError):
                listed += self.ask(url, "/api/tags")["models"]
        return Answer(
            {
                "data": [
                    {
                        "id": model["name"],
                        "name": model["name"],
                        "object": "model",
                        "owned_by": "ollama",
                        "ollama": model,
                    }
                    for model in listed
                ]
            }
        )

    def ollama(self, request: Request) -> Answer:
        self.user(request)
        for url in self.ollama_urls():
            with contextlib.suppress(OSError, ValueError):
                return Answer(self.ask(url, f"/api/{request.groups['path']}"))
        return Answer({"detail": "Open WebUI: Server Connection Error"}, 500)

    def ollama_urls(self) -> list[str]:
        """Those that are in use: read anew each time, since the settings can change under us."""
        database = self.database()
        if not database.get("ollama.enable"):
            return []
        configs = database.get("ollama.api_configs") or {}
        urls = enumerate(database.get("ollama.base_urls") or [])
        return [url for index, url in urls if configs.get(str(index), configs.get(url, {})).get("enable", True)]

    def ask(self, url: str, path: str) -> Any:
        try:
            return ask_ollama(url, path)
        except OSError as error:
            print(f"ERROR    | open_webui.routers.ollama:send_get_request:106 - Connection error: {error}", flush=True)
            raise

    def socket_io(self, request: Request) -> None:
        """Engine.IO 4 over a web socket alone; polling is refused, so a tunnel or proxy must carry web sockets."""
        if request.query.get("EIO") != "4" or request.query.get("transport") != "websocket":
            raise Answer(b'"Invalid transport"', 400, "application/json")
        origin, accepted = request.headers.get("Origin"), os.environ.get("CORS_ALLOW_ORIGIN", "*").split(";")
        if origin and accepted != ["*"] and origin not in accepted:
            # Uvicorn's answer where a web socket is closed before it was accepted.
            print(f"ERROR:engineio.server:{origin} is not an accepted origin.", flush=True)
            raise Answer(b"", 403, "text/plain")
        client = request.websocket()
        interval = setting("openwebui_ping_seconds", 25)
        timing = {"pingInterval": int(interval * 1000), "pingTimeout": 20000, "maxPayload": 1000000}
        client.connection.settimeout(interval + 20)
        closed = threading.Event()
        with contextlib.suppress(OSError):
            client.send("0" + json.dumps({"sid": secrets.token_urlsafe(15), "upgrades": [], **timing}))
            threading.Thread(target=self.ping, args=(client, interval, closed), daemon=True).start()
            while (message := client.receive()) is not None:
                self.answer(client, message)
        closed.set()

    def ping(self, client: WebSocket, interval: float, closed: threading.Event) -> None:
        """In Engine.IO 4 it is the server that pings; a client that is silent for too long is dropped."""
        with contextlib.suppress(OSError):
            while not closed.wait(interval):
                client.send("2")

    def answer(self, client: WebSocket, message: str) -> None:
        event = re.fullmatch(r"42(\d*)(\[.*\])", message, re.DOTALL)
        if message.startswith("40"):
            client.send("40" + json.dumps({"sid": secrets.token_urlsafe(15)}))
        elif message.startswith("2"):
            client.send("3" + message[1:])
        elif event and event[1]:
            name, *values = json.loads(event[2])
            if name in ("user-join", "heartbeat", "usage"):
                client.send(f"43{event[1]}" + json.dumps(self.joined(values) if name == "user-join" else []))

    def joined(self, values: list[Any]) -> list[dict[str, str]]:
        """The answer to a page that says whose it is: nothing, where that is nobody."""
        token = (values[0].get("auth") or {}).get("token") if values and isinstance(values[0], dict) else None
        claims = tokens.read(str(token), self.secret) if token else None
        user = self.database().find("id", str(claims.get("id"))) if claims and self.accounts else None
        return [{"id": user["id"], "name": user["name"]}] if user else []


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    secret = os.environ.get("WEBUI_SECRET_KEY", "")
    data = Path(os.environ.get("DATA_DIR", "/app/backend/data"))
    if not secret:
        print("ValueError: Required environment variable not found. Terminating now.", file=sys.stderr, flush=True)
        return 1
    print(f"v{VERSION} - building the best AI user interface.\nhttps://github.com/open-webui/open-webui", flush=True)
    try:
        data.mkdir(parents=True, exist_ok=True)
        app = OpenWebui(data, secret)
        server = listen(app, os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8080")))  # noqa: S104
    except OSError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    print("INFO:     Started server process\nINFO:     Waiting for application startup.", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        app.start()
    except (OSError, sqlite3.Error) as error:
        print(f"ERROR:    Application startup failed. Exiting. {error}", file=sys.stderr, flush=True)
        return 3
    print(f"INFO:     Uvicorn running on http://0.0.0.0:{server.server_port} (Press CTRL+C to quit)", flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
