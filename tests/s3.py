"""An S3 server that does as it is told: enough of the protocol to store, and every way to fail."""

from __future__ import annotations

import base64
import hashlib
import http.server
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PIECE_BYTES = 1024 * 1024


class ScriptedS3:
    """One bucket in memory. `script` is asked before each request: `(method, key) -> fault`.

    A fault is None, a status (`503`), `"slow"`, `"drop"` (the connection is closed), or
    `"flip"` (a bit of the body that is sent is changed), `"drip"` (a MiB of it each 0.1 s), or an
    address that it redirects to.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self.script = lambda _method, _key: None
        self.code = {403: "AccessDenied", 404: "NoSuchBucket", 503: "SlowDown"}
        self.slow_seconds = 0.5

    @property
    def url(self) -> str:
        return f"s3://bucket/console?endpoint=http://127.0.0.1:{self.port}&region=eu-1"


def _handler(s3: ScriptedS3) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        pace = 0.0

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            parts = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
            key = unquote(parts.path).removeprefix("/bucket").lstrip("/")
            s3.requests.append((self.command, key))
            fault = s3.script(self.command, key)
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "slow":
                time.sleep(s3.slow_seconds)
            if str(fault).startswith("http"):
                self.send(307, b"", Location=str(fault))
                return
            if isinstance(fault, int):
                self.error(fault, s3.code.get(fault, "InternalError"))
                return
            wanted = self.headers.get("x-amz-checksum-sha256")
            if wanted and base64.b64encode(hashlib.sha256(body).digest()).decode() != wanted:
                self.error(400, "BadDigest")
                return
            getattr(self, f"on_{self.command.lower()}")(key, query, body, fault)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def on_put(self, key: str, query: dict, body: bytes, _fault: object) -> None:
            if "uploadId" in query:
                s3.uploads[query["uploadId"]][int(query["partNumber"])] = body
            else:
                s3.objects[key] = body
            self.send(200, b"", ETag=f'"{hashlib.md5(body).hexdigest()}"')

        def on_post(self, key: str, query: dict, body: bytes, _fault: object) -> None:
            if "delete" in query:
                gone = re.findall(r"<Key>(.*?)</Key>", body.decode())
                for one in gone:
                    s3.objects.pop(one, None)
                rows = "".join(f"<Deleted><Key>{one}</Key></Deleted>" for one in gone)
                self.send(200, f"<DeleteResult>{rows}</DeleteResult>".encode())
                return
            if "uploads" in query:
                upload = uuid.uuid4().hex
                s3.uploads[upload] = {}
                self.send(200, _xml("InitiateMultipartUploadResult", UploadId=upload, Key=key))
                return
            parts = s3.uploads.pop(query["uploadId"])
            s3.objects[key] = b"".join(parts[number] for number in sorted(parts))
            self.send(200, _xml("CompleteMultipartUploadResult", ETag='"whole"', Key=key))

        def on_get(self, key: str, query: dict, _body: bytes, fault: object) -> None:
            if not key:
                self.listing(query.get("prefix", ""))
            elif key not in s3.objects:
                self.error(404, "NoSuchKey")
            else:
                body = bytearray(s3.objects[key])
                if fault == "flip":
                    body[len(body) // 2] ^= 1
                self.pace = 0.1 if fault == "drip" else 0
                headers = {"ETag": '"whole"', "Last-Modified": "Sun, 22 Nov 2026 10:00:00 GMT"}
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if asked:
                    start, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
                    headers["Content-Range"] = f"bytes {start}-{last}/{len(body)}"
                    body = body[start : last + 1]
                self.send(206 if asked else 200, bytes(body), **headers)

        on_head = on_get

        def on_delete(self, key: str, query: dict, _body: bytes, _fault: object) -> None:
            if "uploadId" in query:
                s3.uploads.pop(query["uploadId"], None)
            else:
                s3.objects.pop(key, None)
            self.send(204, b"")

        def listing(self, prefix: str) -> None:
            rows = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(body)}</Size>"
                '<ETag>"x"</ETag><LastModified>2026-11-22T10:00:00Z</LastModified></Contents>'
                for key, body in sorted(s3.objects.items())
                if key.startswith(prefix)
            )
            text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
            self.send(200, text.encode())

        def error(self, status: int, code: str) -> None:
            self.send(status, _xml("Error", Code=code, Message=f"scripted {code}"))

        def send(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                for start in range(0, len(body), PIECE_BYTES):
                    self.wfile.write(body[start : start + PIECE_BYTES])
                    time.sleep(self.pace)

        def log_message(self, *_arguments: object) -> None:
            """Quiet."""

    return Handler


def _xml(name: str, **fields: str) -> bytes:
    inner = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in fields.items())
    return f"<{name}>{inner}</{name}>".encode()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def scripted_s3() -> Iterator[ScriptedS3]:
    s3 = ScriptedS3()
    server = _Server(("127.0.0.1", 0), _handler(s3))
    s3.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        server.server_close()
