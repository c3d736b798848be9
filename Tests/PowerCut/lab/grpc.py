"""Unary and streaming calls of gRPC over a UNIX socket, made by curl: no package is needed for them."""

import re
import struct
import subprocess
import tempfile

from .programs import Failed

OK, ALREADY_EXISTS = 0, 6


class CallFailed(Failed):
    def __init__(self, method, code, message):
        super().__init__(f"{method}: {message or 'no answer'} (code {code})")
        self.code = code


def call(socket, method, message, timeout=60):
    """`method` is `package.Service/Name`; returns the messages of the answer."""
    with tempfile.TemporaryFile() as body:
        body.write(b"\0" + struct.pack(">I", len(message)) + message)
        body.seek(0)
        # Trailers are among the headers, which go to standard error.
        done = subprocess.run(
            ["curl", "--silent", "--http2-prior-knowledge", "--unix-socket", socket, "--max-time", str(timeout),
             "--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", "@-",
             "--dump-header", "/dev/stderr", f"http://localhost/{method}"],
            stdin=body, capture_output=True)
    status = re.search(rb"^grpc-status: *(\d+)", done.stderr, re.MULTILINE | re.IGNORECASE)
    text = re.search(rb"^grpc-message: *(.*?)\r?$", done.stderr, re.MULTILINE | re.IGNORECASE)
    if not status or int(status[1]) != OK:
        code = int(status[1]) if status else f"of curl {done.returncode}"
        raise CallFailed(method, code, text[1].decode(errors="replace") if text else "")
    return split(done.stdout)


def split(data):
    """Messages, each behind a byte and its length."""
    found, at = [], 0
    while at < len(data):
        length, = struct.unpack_from(">I", data, at + 1)
        found.append(data[at + 5:at + 5 + length])
        at += 5 + length
    return found


# --- as much of protocol buffers as the calls take ---

def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number, value):
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data):
    """Field number -> values: bytes, or numbers."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        value = number()
        if key & 7 == 2:
            value, at = data[at:at + value], at + value
        found.setdefault(key >> 3, []).append(value)
    return found
