"""Migrated, backed up, proven, restored and taken back, whatever the database is like."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import psycopg
import pytest
from django.conf import settings
from psycopg import sql
from psycopg.conninfo import make_conninfo

from backups_app.models import Backup, ReplacedDatabase
from migrations_app.reading.observation import NAME_NOT_UTF8
from opsconsole.embedded.postgres import set_role
from opsconsole.environments.models import Environment
from opsconsole.environments.secrets import seal
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import Run
from opsconsole.targets import server
from opsconsole.targets.content import read_tables
from opsconsole.targets.dsn import Dsn
from tests.backups_app.conftest import restore
from tests.backups_app.test_restores import undo
from tests.conftest import apply_first
from tests.servers import postgres_15
from tests.worker import observe_target

pytestmark = [pytest.mark.usefixtures("transactional_db"), pytest.mark.needs_postgres15]


@pytest.fixture(scope="module")
def server_15() -> Iterator[str]:
    """A server on which only superusers may connect to `postgres`."""
    with postgres_15() as made:
        with psycopg.connect(made.dsn, autocommit=True) as connection:
            connection.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
            connection.execute("CREATE DATABASE defaultdb")
        yield made.dsn


@pytest.fixture
def on_15(environment, folder, server_15) -> Environment:
    """The environment, its database on that server, one of its two migrations applied."""
    name = f"t{uuid.uuid4().hex[:8]}"
    with psycopg.connect(server_15, autocommit=True) as connection:
        set_role(connection, name, "pw", "LOGIN CREATEDB")
        connection.execute(f"CREATE DATABASE {name} OWNER {name}")
    environment.dsn = server_15.replace("postgres@", f"{name}:pw@").replace("/postgres", f"/{name}")
    environment.targets.update(
        dsn_encrypted=seal(f"{environment.dsn}?maintenance_database=defaultdb")
    )
    apply_first(environment, folder)
    folder.add("20250102000000_more", "ALTER TABLE users ADD COLUMN note text DEFAULT 'none'")
    return environment


def succeeded(run: Run) -> Run:
    assert run.status == RunStatus.SUCCEEDED, run.summary
    return run


@pytest.mark.parametrize(
    ("made", "remedy"),
    [
        ("ALTER DATABASE {0} SET default_transaction_read_only = on", "RESET default_transaction"),
        ("ALTER ROLE {0} CONNECTION LIMIT 5", "CONNECTION LIMIT 6"),
        ("ALTER DATABASE {0} OWNER TO postgres", "OWNER TO"),
    ],
)
def test_migration_is_refused_before_anything_is_dumped(on_15, server_15, migrate, made, remedy):
    with psycopg.connect(server_15, autocommit=True) as connection:
        connection.execute(made.format(Dsn.parse(on_15.dsn).database))
    run = migrate()
    assert (run.status, remedy in run.summary) == (RunStatus.FAILED, True), run.summary
    assert not Backup.objects.exists()


def test_database_that_would_be_renamed_from_itself_is_backed_up_and_not_migrated(
    on_15, run_backup, migrate
):
    own = f"{on_15.dsn}?maintenance_database={Dsn.parse(on_15.dsn).database}"
    on_15.targets.update(dsn_encrypted=seal(own))
    succeeded(run_backup())
    run = migrate()
    assert (run.status, "?maintenance_database=" in run.summary) == (RunStatus.FAILED, True)
    assert Backup.objects.count() == 1


def test_role_that_owns_nothing_is_backed_up_and_the_proof_is_its_own(on_15, server_15, run_backup):
    name = Dsn.parse(on_15.dsn).database
    with psycopg.connect(server_15, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} OWNER TO postgres")
        connection.execute(f"ALTER ROLE {name} CONNECTION LIMIT 4")
    succeeded(run_backup())


def contents(environment: Environment) -> dict[str, Any]:
    with server.connect(Dsn.parse(environment.dsn), application_name="t") as connection:
        return dict(read_tables(connection))


# -- every kind of database

DATES = """
ALTER DATABASE {database} SET "DateStyle" = 'SQL, DMY';
ALTER DATABASE {database} SET "IntervalStyle" = 'sql_standard';
ALTER DATABASE {database} SET "TimeZone" = 'Asia/Kolkata';
ALTER DATABASE {database} SET bytea_output = 'escape';
ALTER DATABASE {database} SET extra_float_digits = -15;
"""
TEXTS = """
ALTER ROLE {role} SET client_encoding = 'LATIN1';
ALTER DATABASE {database} SET standard_conforming_strings = off;
ALTER DATABASE {database} SET quote_all_identifiers = on;
ALTER DATABASE {database} SET transform_null_equals = on;
"""
TRANSACTIONS = """
ALTER DATABASE {database} SET search_path = other, public;
ALTER DATABASE {database} SET default_transaction_isolation = 'serializable';
ALTER DATABASE {database} SET default_transaction_deferrable = on;
ALTER ROLE {role} IN DATABASE {database} SET row_security = off;
ALTER ROLE {role} IN DATABASE {database} SET lock_timeout = '30s';
ALTER ROLE {role} SET statement_timeout = '30s';
"""
LIMITS = """
ALTER ROLE {role} CONNECTION LIMIT 6;
ALTER DATABASE {database} CONNECTION LIMIT 6;
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
GRANT TEMPORARY ON DATABASE {database} TO PUBLIC;
COMMENT ON DATABASE {database} IS 'it''s "this" one';
"""
AWKWARD = """a b"c'd\\e%f{g}.h;i$j-k=l&m?n#o/p@q:r,s_T"""
DIMENSIONS: dict[str, tuple[Any, ...]] = {
    "settings": (DATES, TEXTS, TRANSACTIONS, LIMITS),
    "encoding": ("UTF8", "LATIN1", "SQL_ASCII", "EUC_JP"),
    "locale": ("C", "icu", "builtin"),
    "name": ("plain", AWKWARD, "größe 漢字"),
    "major": (18, 15),
    "has_scratch": (False, True),
}
LETTERS = {"UTF8": "é漢字🎉", "LATIN1": "é", "EUC_JP": "漢字", "SQL_ASCII": "e"}
PROPERTIES = """
SELECT to_jsonb(d) - ARRAY['oid', 'datfrozenxid', 'datminmxid', 'dattablespace', 'datacl'],
       (SELECT array_agg(one::text ORDER BY one::text) FROM unnest(d.datacl) one),
       (SELECT jsonb_agg(to_jsonb(s) - 'setdatabase' ORDER BY s.setrole)
          FROM pg_db_role_setting s WHERE s.setdatabase = d.oid),
       shobj_description(d.oid, 'pg_database')
  FROM pg_database d WHERE datname = %s
"""


@dataclass(frozen=True)
class Kind:
    """One kind of database."""

    settings: str
    encoding: str
    locale: str
    name: str
    major: int
    has_scratch: bool

    @property
    def is_possible(self) -> bool:
        """The embedded PostgreSQL 18 is built without ICU. A name has no encoding of its own."""
        return {
            "C": True,
            "icu": self.encoding != "SQL_ASCII" and self.major == 15,
            "builtin": self.encoding == "UTF8" and self.major == 18,
        }[self.locale] and (self.name.isascii() or self.encoding == "UTF8")

    @property
    def how(self) -> str:
        """The clauses that make it."""
        clauses = f"TEMPLATE template0 ENCODING '{self.encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        return (
            clauses
            + {
                "C": "",
                "icu": " LOCALE_PROVIDER icu ICU_LOCALE 'de-AT'",
                "builtin": " LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
            }[self.locale]
        )

    @property
    def contents(self) -> str:
        letters = LETTERS[self.encoding]
        lines = [
            "CREATE SCHEMA other;",
            f"""CREATE TABLE other."Odd ""{letters}"" \\ 'table'" (id int PRIMARY KEY, "{letters}" text,
               d date, t timestamptz, i interval, f float8, b bytea, m money);""",
            f"""INSERT INTO other."Odd ""{letters}"" \\ 'table'" VALUES
               (1, '{letters}', '2026-02-01', '2026-02-01 12:00+00', '1 mon -2 days', 1/3.0::float8,
               '\\xdeadbeef', '12.34'), (2, convert_from('\\x41', 'SQL_ASCII'), NULL, NULL, NULL, 'NaN',
               '', NULL);""",
            f"COMMENT ON SCHEMA other IS '{letters}';",
            f"CREATE FUNCTION other.f() RETURNS text LANGUAGE sql AS 'SELECT ''{letters}''::text';",
        ]
        if self.encoding == "SQL_ASCII":
            # No UTF-8, and no text in any encoding that is known.
            lines.append("INSERT INTO users (name) VALUES (convert_from('\\xe9ff', 'SQL_ASCII'));")
        if self.locale == "icu":
            lines.append(
                "CREATE COLLATION other.ci (provider = icu, locale = 'und-u-ks-level2',"
                " deterministic = false);"
                "CREATE TABLE other.folded (t text COLLATE other.ci PRIMARY KEY);"
                "INSERT INTO other.folded VALUES ('a'), ('b');"
            )
        return "".join(lines)


def as_kind(row: tuple[Any, ...]) -> Kind:
    return Kind(**dict(zip(DIMENSIONS, row, strict=True)))


def pairs_of(row: tuple[Any, ...]) -> set[tuple[int, Any, int, Any]]:
    return {(i, row[i], j, row[j]) for i, j in combinations(range(len(row)), 2)}


def pairwise() -> list[Kind]:
    """Few kinds in which every possible pair of two values occurs."""
    rows = [row for row in product(*DIMENSIONS.values()) if as_kind(row).is_possible]
    missing, chosen = set().union(*map(pairs_of, rows)), []
    while missing:
        best = max(rows, key=lambda row: len(pairs_of(row) & missing))
        chosen.append(as_kind(best))
        missing -= pairs_of(best)
    return chosen


# Every value of every dimension.
FEW = [
    Kind(DATES, "LATIN1", "icu", AWKWARD, 15, has_scratch=True),
    Kind(TEXTS, "UTF8", "builtin", "größe 漢字", 18, has_scratch=False),
    Kind(TRANSACTIONS, "EUC_JP", "C", "plain", 18, has_scratch=True),
    Kind(LIMITS, "SQL_ASCII", "C", AWKWARD, 15, has_scratch=False),
]
SHORT = {DATES: "dates", TEXTS: "texts", TRANSACTIONS: "transactions", LIMITS: "limits"}


def in_words(kind: Kind) -> str:
    where = f"{kind.major}-{'scratch' if kind.has_scratch else 'beside'}"
    return f"{SHORT[kind.settings]}-{kind.encoding}-{kind.locale}-{kind.name[:5]}-{where}"


@pytest.fixture
def made(environment, folder, server_15) -> Iterator[Callable[[Kind], tuple[str, str]]]:
    """`made(kind)` puts the environment on such a database, one of its two migrations applied; the
    superuser's address and the database's name."""
    roles, addresses = (
        [],
        {15: server_15, 18: settings.OPSCONSOLE_HOME.read_addresses().superuser_dsn},
    )

    def make(kind: Kind) -> tuple[str, str]:
        name = f"{kind.name} {uuid.uuid4().hex[:6]}"
        names = {"database": sql.Identifier(name), "role": sql.Identifier(name)}
        roles.append((addresses[kind.major], name))
        with psycopg.connect(addresses[kind.major], autocommit=True) as connection:
            set_role(connection, name, "pw", "LOGIN CREATEDB")
            connection.execute(
                sql.SQL("CREATE DATABASE {database} OWNER {role} " + kind.how).format(**names)
            )
            parameters = connection.info.get_parameters()
        own = parameters | {"dbname": name, "user": name, "password": "pw"}
        environment.dsn = make_conninfo(**own)
        apply_first(environment, folder)
        with psycopg.connect(
            environment.dsn, autocommit=True, client_encoding="utf8"
        ) as connection:
            connection.execute(kind.contents.encode())
        with psycopg.connect(addresses[kind.major], autocommit=True) as connection:
            connection.execute(sql.SQL(kind.settings).format(**names))
        maintenance = "defaultdb" if kind.major == 15 else "postgres"
        address = f"{environment.dsn} maintenance_database={maintenance}"
        environment.targets.update(dsn_encrypted=seal(address))
        if kind.has_scratch:
            scratch = make_conninfo(**own | {"dbname": maintenance})
            environment.targets.update(
                scratch_dsn_encrypted=seal(f"{scratch} maintenance_database={maintenance}")
            )
        folder.add(
            "20250102000000_more",
            f"ALTER TABLE users ADD COLUMN note text DEFAULT '{LETTERS[kind.encoding]}'",
        )
        return addresses[kind.major], name

    yield make
    for address, role in roles:
        drop_role(address, role)


def drop_role(address: str, role: str) -> None:
    with psycopg.connect(address, autocommit=True) as connection:
        for (name,) in connection.execute(
            "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s", [role]
        ).fetchall():
            connection.execute(
                sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            )
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def properties(address: str, name: str) -> Any:
    with psycopg.connect(address) as connection:
        return connection.execute(PROPERTIES, [name]).fetchone()


@pytest.mark.parametrize(
    "kind",
    [*FEW, *(pytest.param(kind, marks=pytest.mark.long) for kind in pairwise())],
    ids=in_words,
)
def test_any_kind_of_database_goes_there_and_back(made, environment, operator, migrate, kind):
    address, name = made(kind)
    before = properties(address, name)

    backup = Backup.objects.get(run=succeeded(migrate()))
    migrated = contents(environment)
    run = succeeded(restore(operator, backup, environment))
    assert contents(environment) == backup.manifest["content"]["tables"]
    assert properties(address, name) == before
    succeeded(undo(ReplacedDatabase.objects.get(run=run), operator))
    assert contents(environment) == migrated
    assert properties(address, name) == before


def test_name_that_is_not_utf8_is_told_with_the_remedy(made, environment):
    made(FEW[-1])
    with psycopg.connect(environment.dsn, autocommit=True) as connection:
        connection.execute(
            "DO $$ BEGIN EXECUTE 'CREATE TABLE '"
            " || quote_ident(convert_from('\\xe974', 'SQL_ASCII')) || ' (id int)'; END $$"
        )
    assert NAME_NOT_UTF8 in observe_target(environment.targets.get()).error
