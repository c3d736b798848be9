"""A registry of OCI layouts: HTTP with single ranges. It can be slow, it can be off, and it counts what it sends."""

import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .images import read_blob

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PIECE = 64 << 10


class Registry:
    def __init__(self, images, port=0):
        self.images = images
        self.is_on = True
        # Bytes of layers and configurations that were sent.
        self.sent = 0
        # Bytes a second of all connections together; None: as fast as it goes.
        self.rate = None
        self.lock, self.free_at = threading.Lock(), 0.0
        self.server = Server(("127.0.0.1", port), type("Handler", (Handler,), {"registry": self}))
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def reference(self, name):
        return f"localhost:{self.port}/{name}:1"

    def name(self, reference):
        return reference.rpartition("/")[2].removesuffix(":1")

    def count(self, size):
        """Waits as long as so many bytes take."""
        with self.lock:
            self.sent += size
            now = time.monotonic()
            self.free_at = max(now, self.free_at) + (size / self.rate if self.rate else 0)
            pause = self.free_at - now
        if pause > 0:
            time.sleep(pause)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, address):
        """A client that went away is nothing to print."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry = None

    def log_message(self, *words):
        """Requests are nothing to print."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if not self.registry.is_on:
            return self.hang_up()
        if self.path.rstrip("/") == "/v2":
            return self.answer(200, b"{}", "application/json")
        match = re.fullmatch(r"/v2/([a-z0-9-]+)/(manifests|blobs)/(.+)", self.path)
        try:
            layout = self.registry.images[match[1]].layout
            return self.manifest(layout, match[3]) if match[2] == "manifests" else self.blob(layout, match[3])
        except (TypeError, KeyError, FileNotFoundError):
            return self.answer(404, b'{"errors": [{"code": "NAME_UNKNOWN"}]}', "application/json")

    def hang_up(self):
        self.close_connection = True
        self.connection.close()

    def answer(self, status, data, kind, headers=()):
        self.head(status, len(data), kind, headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def head(self, status, size, kind, headers):
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(size)), *headers):
            self.send_header(name, value)
        self.end_headers()

    def manifest(self, layout, name):
        if not name.startswith("sha256:"):
            with open(f"{layout}/index.json") as file:
                name = json.load(file)["manifests"][0]["digest"]
        data = read_blob(layout, name)
        self.answer(200, data, json.loads(data).get("mediaType", MANIFEST), [("Docker-Content-Digest", name)])

    def blob(self, layout, digest):
        with open(f"{layout}/blobs/{digest.replace(':', '/')}", "rb") as file:
            size = os.fstat(file.fileno()).st_size
            headers = [("Docker-Content-Digest", digest), ("Accept-Ranges", "bytes")]
            first, end = wanted_range(self.headers.get("Range", ""), size)
            if first >= size:
                return self.answer(416, b"", "text/plain")
            status = 200 if (first, end) == (0, size) else 206
            if status == 206:
                headers.append(("Content-Range", f"bytes {first}-{end - 1}/{size}"))
            self.head(status, end - first, "application/octet-stream", headers)
            if self.command != "HEAD":
                self.send_bytes(file, first, end)

    def send_bytes(self, file, first, end):
        file.seek(first)
        while first < end:
            if not self.registry.is_on:
                return self.hang_up()
            data = file.read(min(end - first, PIECE))
            self.wfile.write(data)
            first += len(data)
            self.registry.count(len(data))


def wanted_range(text, size):
    """`bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT` (RFC 9110, 14.1.2); all of it where it is none of these."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text)
    if not match or not (match[1] or match[2]):
        return 0, size
    if not match[1]:
        return max(0, size - int(match[2])), size
    return int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
