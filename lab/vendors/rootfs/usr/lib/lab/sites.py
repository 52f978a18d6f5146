#!/usr/bin/python3 -IS
"""Serves /var/lib/lab-vendors/www/HOST/ over TLS under the names that lab/machine.py points at 127.0.0.3."""

import http.server
import os
import posixpath
import ssl
import urllib.parse

ROOT = "/var/lib/lab-vendors/www"
ADDRESS = ("127.0.0.3", 443)
TLS = "/etc/lab/tls"


class Sites(http.server.SimpleHTTPRequestHandler):
    """Files of the site that the request names, and nothing else: no listing, no way out of the folder."""

    protocol_version = "HTTP/1.1"
    timeout = 60  # a client that keeps its connection and says nothing more

    def translate_path(self, path: str) -> str:
        host = posixpath.basename(self.headers.get("Host", "").partition(":")[0])
        plain = posixpath.normpath("/" + urllib.parse.unquote(path.partition("?")[0]))
        return f"{ROOT}/{host or 'none'}{plain}" if host not in (".", "..") else f"{ROOT}/none"

    def send_head(self):  # type: ignore[no-untyped-def]
        """Everything is sent anew: a fault puts another file in a path's place, perhaps within one second."""
        del self.headers["If-Modified-Since"]
        return super().send_head()

    def list_directory(self, path: object) -> None:
        del path
        self.send_error(404, "File not found")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """The handshake is each connection's own business, so that one that never finishes holds up nobody."""

    daemon_threads = True

    def finish_request(self, request, client_address):  # type: ignore[no-untyped-def]
        request.settimeout(30)
        with context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request, client_address):  # type: ignore[no-untyped-def]
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{TLS}/registry.crt", f"{TLS}/registry.key")
os.makedirs(ROOT, exist_ok=True)

if __name__ == "__main__":
    Server(ADDRESS, Sites).serve_forever()
