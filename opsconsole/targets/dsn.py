"""Addresses of target databases, with their password kept out of sight."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from opsconsole.exceptions import AdapterError

# Parameters that Prisma reads from the URL and libpq does not know.
PRISMA_ONLY = {
    "schema", "pgbouncer", "connection_limit", "pool_timeout", "socket_timeout",
    "statement_cache_size", "sslidentity", "sslpassword", "sslaccept", "socket", "single_use_connections",
}  # fmt: skip


@dataclass(frozen=True)
class Dsn:
    """A parsed address. `schema` is Prisma's `?schema=`, by default public."""

    parameters: dict[str, str] = field(repr=False)
    schema: str = "public"

    @classmethod
    def parse(cls, text: str) -> Dsn:
        """Parse a URL or a libpq string. Raises AdapterError that never repeats the text."""
        schema = "public"
        cleaned = text.strip()
        try:
            if cleaned.startswith(("postgres://", "postgresql://")):
                parts = urlsplit(cleaned)
                query = parse_qsl(parts.query)
                schema = dict(query).get("schema", schema)
                kept = [(name, value) for name, value in query if name not in PRISMA_ONLY]
                cleaned = urlunsplit(parts._replace(query=urlencode(kept)))
            parameters = {k: str(v) for k, v in conninfo_to_dict(cleaned).items() if v is not None}
        except (ProgrammingError, ValueError):
            raise AdapterError(
                "the address is not a PostgreSQL URL (postgresql://user:password@host:5432/name) "
                "or connection string"
            ) from None
        if not parameters.get("dbname"):
            raise AdapterError("the address names no database")
        return cls(parameters, schema)

    @property
    def database(self) -> str:
        return self.parameters["dbname"]

    @property
    def user(self) -> str:
        return self.parameters.get("user", "")

    @property
    def password(self) -> str:
        return self.parameters.get("password", "")

    @property
    def host(self) -> str:
        return self.parameters.get("host", "")

    @property
    def is_local(self) -> bool:
        """Whether it is reached without leaving this machine: a socket, or loopback."""
        if not self.host or self.host.startswith("/") or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def conninfo(self, *, application_name: str, database: str | None = None) -> str:
        """Return a libpq connection string, password included: never log it."""
        return make_conninfo(
            **self.parameters
            | {
                "dbname": database or self.database,
                "application_name": application_name,
                "connect_timeout": self.parameters.get("connect_timeout", "10"),
            }
        )

    def shown(self) -> str:
        """The address without its password, for people."""
        where = self.host or "local socket"
        port = self.parameters.get("port", "5432")
        return f"{self.user}@{where}:{port}/{self.database}"

    def tool_arguments(self, database: str | None = None) -> list[str]:
        """Arguments that make pg_dump or pg_restore connect there, without the password."""
        arguments = [f"--dbname={_quoted_dbname(database or self.database)}", "--no-password"]
        for option, name in (("--host", "host"), ("--port", "port"), ("--username", "user")):
            if self.parameters.get(name):
                arguments.append(f"{option}={self.parameters[name]}")
        return arguments

    def tool_environment(self, passfile: int, application_name: str) -> dict[str, str]:
        """Environment of a tool: its password file (a descriptor), TLS as the address asks."""
        environment = {"PGPASSFILE": f"/proc/self/fd/{passfile}", "PGAPPNAME": application_name}
        for name in ("sslmode", "sslrootcert", "sslcert", "sslkey"):
            if self.parameters.get(name):
                environment[f"PG{name.upper()}"] = self.parameters[name]
        return environment

    def passfile_line(self) -> str:
        """One line of a PGPASSFILE that fits any host and database."""
        password = self.password.replace("\\", "\\\\").replace(":", "\\:")
        return f"*:*:*:*:{password}\n"


def _quoted_dbname(name: str) -> str:
    # A name with an equals sign would be read as a connection string.
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"
