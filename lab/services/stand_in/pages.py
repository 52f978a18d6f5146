"""The pages of ComfyUI and Open WebUI, as far as a browser and what lies between it and them can tell: a script and an
icon of their own, requests to the API, a web socket that carries messages both ways and is opened again when it closes.
"""

from __future__ import annotations

import struct
import zlib

COMFY = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>ComfyUI</title>
<link rel="icon" type="image/png" href="/assets/favicon.png">
<script type="module" src="/assets/index.js"></script>
</head>
<body><p id="status">connecting</p><div id="vue-app"></div></body>
</html>
"""

# What the real one has at window.comfyAPI.api.api is there too: its socket, and its client's name.
COMFY_SCRIPT = b"""\
const api = { socket: null, clientId: sessionStorage.getItem("clientId"), reconnects: 0 };
window.comfyAPI = { api: { api } };
const show = (text) => { document.getElementById("status").textContent = text; };
const ask = (path) => fetch("/api" + path, { cache: "no-cache" }).then((answer) => answer.json());

function connect(again) {
    const query = api.clientId ? "?clientId=" + api.clientId : "";
    const socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/ws" + query);
    api.socket = socket;
    socket.onopen = () => {
        socket.send(JSON.stringify({ type: "feature_flags", data: { supports_preview_metadata: true } }));
        if (again) {
            api.reconnects += 1;
            ask("/queue");
        }
    };
    socket.onclose = () => {
        show("reconnecting");
        setTimeout(() => connect(true), 300);
    };
    socket.onmessage = ({ data }) => receive(JSON.parse(data));
}

function receive({ type, data }) {
    if (type === "status") {
        if (data.sid) {
            api.clientId = data.sid;
            sessionStorage.setItem("clientId", data.sid);
        }
        show("queue: " + data.status.exec_info.queue_remaining);
    }
    for (const image of (type === "executed" && data.output.images) || []) {
        const picture = document.createElement("img");
        picture.src = "/api/view?" + new URLSearchParams(image) + "&rand=" + Math.random();
        document.getElementById("vue-app").append(picture);
    }
}

await Promise.all([ask("/system_stats"), ask("/object_info")]);
connect(false);
"""

WEBUI = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Open WebUI</title>
<link rel="icon" type="image/png" href="/static/favicon.png">
<script type="module" src="/_app/immutable/entry/start.js"></script>
</head>
<body><p id="status">connecting</p></body>
</html>
"""

# Socket.IO 5 over Engine.IO 4 over a web socket: 0 open, 2 ping, 3 pong, 40 connected, 42 event, 43 its answer.
WEBUI_SCRIPT = b"""\
const answers = new Map();
const state = { socket: null, sid: "", reconnects: -1, emit };
window.socket = state;
const show = (text) => { document.getElementById("status").textContent = text; };
let number = 0;
let pause = 1000;

function emit(event, data) {
    number += 1;
    state.socket.send("42" + number + JSON.stringify([event, data]));
    return new Promise((resolve) => answers.set(String(number), resolve));
}

function connect() {
    const origin = (location.protocol === "https:" ? "wss://" : "ws://") + location.host;
    const socket = new WebSocket(origin + "/ws/socket.io/?EIO=4&transport=websocket");
    state.socket = socket;
    socket.onmessage = ({ data }) => {
        if (data.startsWith("0")) {
            socket.send("40" + JSON.stringify({ token: localStorage.token }));
        } else if (data.startsWith("2")) {
            socket.send("3" + data.slice(1));
        } else if (data.startsWith("40")) {
            state.sid = JSON.parse(data.slice(2)).sid;
            state.reconnects += 1;
            pause = 1000;
            show("connected");
            emit("user-join", { auth: { token: localStorage.token } });
        } else if (data.startsWith("43")) {
            const [, id, values] = data.match(/^43(\\d+)(.*)$/s);
            answers.get(id)?.(JSON.parse(values));
            answers.delete(id);
        }
    };
    socket.onclose = () => {
        show("reconnecting");
        answers.clear();
        setTimeout(connect, pause);
        pause = Math.min(2 * pause, 5000);
    };
}

setInterval(() => { if (state.socket.readyState === WebSocket.OPEN && state.sid) emit("heartbeat", {}); }, 30000);
document.title = (await (await fetch("/api/config")).json()).name;
connect();
"""


def png(side: int = 64) -> bytes:
    """A grey square: enough of a picture for a viewer to open."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    header = struct.pack("!IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = (b"\0" + b"\x7f" * side) * side
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
