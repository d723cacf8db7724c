"""Addresses of target databases, with their password kept out of sight."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote, urlencode, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from opsconsole.exceptions import AdapterError
from opsconsole.outgoing import CallPolicy, Deadline, answers, resolve

# Parameters of Prisma's own that say nothing of how to reach the database (its documentation of
# the PostgreSQL connector, and `PostgresUrl` in quaint).
PRISMA_ONLY = {
    "connection_limit", "pool_timeout", "socket_timeout",
    "statement_cache_size", "max_connection_lifetime", "max_idle_connection_lifetime",
    "socket", "single_use_connections",
}  # fmt: skip
# What libpq knows, each with the variable that says the same to its tools, "" for none.
LIBPQ = {
    option.keyword.decode(): (option.envvar or b"").decode() for option in Conninfo.get_defaults()
}
# What a connection string says as well, though libpq does not know it.
NOT_LIBPQ = {"schema", "pgbouncer", "maintenance_database"}
PAIR = re.compile(
    r"(?P<name>\w+)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<plain>(?:[^\s\\]|\\.)*))", re.DOTALL
)
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
# Asked for when a session begins: a role or database may have another one, in which the server could
# not even say its name.
CLIENT_ENCODING = "UTF8"
# What cannot be honoured, each with the reason.
NOT_FOR_TOOLS = "pg_dump and pg_restore cannot be told it"
REFUSED = {
    "replication": "such a session takes no SQL",
    "service": "it leads to a file of the workers: say here where the database is",
    "passfile": "pg_dump is given another one: put the password into the address",
    "sslkeylogfile": "it writes the secrets of every session into a file",
    "sslpassword": f"{NOT_FOR_TOOLS}: give a key that has no password",
} | {name: NOT_FOR_TOOLS for name in LIBPQ if name.startswith(("oauth_", "scram_"))}
# On which of several servers a session may be. Any other, and a run would be on two of them.
ON_THE_PRIMARY = ("read-write", "primary")
IN_ARGUMENTS = {"dbname", "host", "port", "user", "password", "passfile", "application_name"}


@dataclass(frozen=True)
class Dsn:
    """A parsed address. `schema` is Prisma's `?schema=`, by default public.

    `own_database` is the identity of the console's own, on which no session is opened. `is_direct`:
    it says `pgbouncer=false`, so what looks like a pooler on the way keeps sessions apart.
    `maintenance_database` is where sessions are opened that must not be in the target: the lock on
    it, and those that create, rename and drop databases.
    """

    parameters: dict[str, str] = field(repr=False)
    schema: str = "public"
    own_database: tuple[int, int] | None = None
    is_direct: bool = False
    maintenance_database: str = "postgres"

    @classmethod
    def parse(cls, text: str) -> Dsn:
        """Parse a URL or a libpq string. Raises AdapterError that never repeats the text."""
        cleaned = text.strip()
        try:
            if cleaned.startswith(("postgres://", "postgresql://")):
                parts = urlsplit(cleaned)
                asked = _query(parts.query)
                parts = parts._replace(query=urlencode(_for_libpq(asked), quote_via=quote))
                # Not by `geturl`, which leaves out the slashes before an empty host.
                fragment = f"#{parts.fragment}" if parts.fragment else ""
                cleaned = f"{parts.scheme}://{parts.netloc}{parts.path}?{parts.query}{fragment}"
            else:
                asked, cleaned = _own_of(cleaned)
            parameters = {k: str(v) for k, v in conninfo_to_dict(cleaned).items() if v is not None}
            # The console reads UTF-8, and a dump is in the encoding of its database.
            parameters.pop("client_encoding", None)
        except (ProgrammingError, ValueError):
            raise AdapterError(
                "the address is not a PostgreSQL URL (postgresql://user:password@host:5432/name) "
                "or connection string"
            ) from None
        if not parameters.get("dbname"):
            raise AdapterError("the address names no database")
        _refuse_pooler(asked)
        _refuse_by_name(parameters)
        return cls(
            _on_one_server(parameters),
            asked.get("schema") or cls.schema,
            is_direct=asked.get("pgbouncer", "").lower() == "false",
            maintenance_database=asked.get("maintenance_database") or cls.maintenance_database,
        )

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
        places = self.host or self.parameters.get("hostaddr", "")
        return all(map(_is_local, places.split(",")))

    def pinned(self, policy: CallPolicy, deadline: Deadline) -> Dsn:
        """The same with the address that each host means now: no session looks a name up again.

        libpq knows no deadline for that. Raises AdapterError for a host that may not be called or
        is not known in time.
        """
        hosts = self.host.split(",")
        if not any(map(_is_on_a_network, hosts)) and not self.parameters.get("hostaddr"):
            return self
        given = self.parameters.get("hostaddr", "").split(",")
        ports = self.parameters.get("port", "").split(",")
        try:
            places = [
                (address or host, int(port or 5432))
                for host, address, port in zip(
                    hosts, _spread(given, len(hosts)), _spread(ports, len(hosts)), strict=True
                )
            ]
        except ValueError:
            raise AdapterError("the address needs one port, or one for each host") from None
        pinned = [_address_of(host, port, policy, deadline) for host, port in places]
        return replace(self, parameters=self.parameters | {"hostaddr": ",".join(pinned)})

    def conninfo(self, *, application_name: str, database: str | None = None) -> str:
        """Return a libpq connection string, password included: never log it."""
        return make_conninfo(
            **self.parameters
            | {
                "dbname": database or self.database,
                "application_name": application_name,
                "client_encoding": CLIENT_ENCODING,
                "connect_timeout": self.parameters.get("connect_timeout", "10"),
            }
        )

    def shown(self) -> str:
        """The address without its password, for people."""
        return f"{self.role_shown()}/{self.database}"

    def role_shown(self) -> str:
        """The role and the server of the address, for people."""
        where = self.host or "local socket"
        port = self.parameters.get("port", "5432")
        return f"{self.user}@{where}:{port}"

    def tool_arguments(self, database: str | None = None) -> list[str]:
        """Arguments that make pg_dump or pg_restore connect there, without the password."""
        arguments = [f"--dbname={_quoted_dbname(database or self.database)}", "--no-password"]
        for option, name in (("--host", "host"), ("--port", "port"), ("--username", "user")):
            if self.parameters.get(name):
                arguments.append(f"{option}={self.parameters[name]}")
        return arguments

    def tool_environment(self, passfile: int, application_name: str) -> dict[str, str]:
        """Environment of a tool: its password file (a descriptor), and what else the address asks
        for (TLS, options), but for what its arguments say."""
        environment = {
            "PGPASSFILE": f"/proc/self/fd/{passfile}",
            "PGAPPNAME": application_name,
            "PGCLIENTENCODING": CLIENT_ENCODING,
        }
        asked = {
            variable: self.parameters[name]
            for name, variable in LIBPQ.items()
            if variable and self.parameters.get(name) and name not in IN_ARGUMENTS
        }
        return asked | environment

    def passfile_line(self) -> str:
        """One line of a PGPASSFILE that fits any host and database."""
        password = self.password.replace("\\", "\\\\").replace(":", "\\:")
        return f"*:*:*:*:{password}\n"


def _is_local(host: str) -> bool:
    if not _is_on_a_network(host) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_on_a_network(host: str) -> bool:
    return bool(host) and not host.startswith(("/", "@"))


def _spread(values: list[str], number: int) -> list[str]:
    """One value for each host: libpq takes one for all of them."""
    return values * number if len(values) == 1 else values


def _address_of(host: str, port: int, policy: CallPolicy, deadline: Deadline) -> str:
    """The address to connect to; "" for a socket. Of several it is the first that takes a call."""
    if not _is_on_a_network(host):
        return ""
    found = [str(each) for each in resolve(host, port, policy=policy, deadline=deadline)]
    return next((each for each in found[:-1] if answers(each, port, deadline)), found[-1])


def _query(text: str) -> dict[str, str]:
    """The parameters of a URL, decoded as libpq does: `+` is a plus sign, but for `options`, which
    takes no bare one and in which Prisma reads it as a space.

    Raises ValueError for a bare `@`: then this is the rest of a password, with a bare `?` in it.
    """
    if "@" in text:
        raise ValueError("a bare @")
    pairs = [part.partition("=") for part in text.split("&") if part]
    query = {unquote(name): unquote(value) for name, _equals, value in pairs}
    if "options" in query:
        query["options"] = query["options"].replace("+", " ")
    return query


def _own_of(text: str) -> tuple[dict[str, str], str]:
    """What a connection string says to the console alone, and the rest of it for libpq."""
    pairs = list(PAIR.finditer(text))
    own = [pair for pair in pairs if pair["name"] in NOT_LIBPQ]
    if not own:
        return {}, text
    values = {pair["name"]: pair["quoted"] or pair["plain"] or "" for pair in own}
    rest = " ".join(pair[0] for pair in pairs if pair not in own)
    return {name: ESCAPED.sub(r"\1", value) for name, value in values.items()}, rest


def _refuse_pooler(asked: dict[str, str]) -> None:
    """Raise AdapterError when the address itself says that it leads through a pooler."""
    if asked.get("pgbouncer", "").lower() == "true":
        raise AdapterError(
            "the address leads through a connection pooler (pgbouncer=true): give the server's own "
            "address, as for Prisma's directUrl"
        )


def _refuse_by_name(parameters: dict[str, str]) -> None:
    """Raise AdapterError that names a parameter which cannot be honoured."""
    for name in parameters:
        if name in REFUSED:
            raise AdapterError(f"the address has the parameter {name}: {REFUSED[name]}")


def _on_one_server(parameters: dict[str, str]) -> dict[str, str]:
    """The same for one host; with several, every session is on the one that takes writes.

    Raises AdapterError when they are asked to be on others.
    """
    if "," not in parameters.get("host", "") + parameters.get("hostaddr", ""):
        return parameters
    wanted = parameters.get("target_session_attrs", ON_THE_PRIMARY[0])
    if wanted not in ON_THE_PRIMARY:
        raise AdapterError(
            "the address has more than one host, and its target_session_attrs lets the sessions of a "
            f"run be on different servers: say {ON_THE_PRIMARY[0]}"
        )
    return parameters | {"target_session_attrs": wanted}


def _for_libpq(query: dict[str, str]) -> dict[str, str]:
    """What libpq needs of a URL's parameters, those of Prisma in libpq's words.

    Raises AdapterError that names a parameter which neither of them knows, or which asks for what
    libpq cannot do.
    """
    kept = {name: value for name, value in query.items() if name not in PRISMA_ONLY | NOT_LIBPQ}
    if "sslkey" not in kept:
        # Prisma's is the password of its sslidentity.
        kept.pop("sslpassword", None)
    if kept.get("ssl") == "true":
        # As libpq itself reads it in a URL, for JDBC's sake.
        kept.setdefault("sslmode", "require")
        del kept["ssl"]
    if "sslidentity" in kept:
        raise AdapterError(
            "the address's parameter sslidentity (a PKCS#12 file) is Prisma's own: give the "
            "certificate and its key as PEM files in sslcert and sslkey"
        )
    is_strict = kept.pop("sslaccept", "accept_invalid_certs") != "accept_invalid_certs"
    if "sslcert" in kept and "sslkey" not in kept:
        # libpq's is a client's certificate and goes with its key; Prisma's is the authority's.
        authority = kept.pop("sslcert")
        if is_strict:
            kept.setdefault("sslrootcert", authority)
    if is_strict and kept.get("sslmode") != "disable":
        kept["sslmode"] = "verify-full"
    for name in kept:
        if name not in LIBPQ:
            raise AdapterError(f"the address has a parameter that PostgreSQL does not know: {name}")
    return kept


def _quoted_dbname(name: str) -> str:
    # A name with an equals sign would be read as a connection string.
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{escaped}'"
