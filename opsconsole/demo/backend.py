"""The demo application's backend: answers GET /health by really asking its database.

Run as `python -m opsconsole.demo.backend HOME/ENVIRONMENT:PORT`.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg

from opsconsole.demo.address import dsn_of, find
from opsconsole.embedded.home import Home

QUERY = 'SELECT (SELECT count(*) FROM "users"), (SELECT count("amount") FROM "targets")'


def health(dsn: str) -> tuple[int, dict]:
    """HTTP status and body, as the application's real backend answers."""
    now = datetime.now(UTC).isoformat()
    try:
        with psycopg.connect(dsn, connect_timeout=3, application_name="sales-commission") as db:
            db.execute("SET statement_timeout = '3s'")
            row = db.execute(QUERY).fetchone()
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()
        return 500, {
            "status": "unhealthy",
            "database": "error",
            "error": reason[0] if reason else type(error).__name__,
            "timestamp": now,
        }
    users, targets = row or (0, 0)
    return 200, {
        "status": "healthy",
        "database": "connected",
        "users": users,
        "targets": targets,
        "timestamp": now,
    }


def handler_for(dsn: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = health(dsn) if self.path == "/health" else (404, {"status": "unknown"})
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: object) -> None:
            """Stay silent: one line a second says nothing."""

    return Handler


def main() -> None:
    place, _colon, port = sys.argv[1].rpartition(":")
    home, slug = Path(place).parent, Path(place).name
    dsn = dsn_of(Home(home), find(slug))
    ThreadingHTTPServer(("127.0.0.1", int(port)), handler_for(dsn)).serve_forever()


if __name__ == "__main__":
    main()
