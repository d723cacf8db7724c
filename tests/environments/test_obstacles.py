"""What stands in the way of a target, and what is to be done."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from opsconsole.environments.obstacles import EVERYTHING, Need, obstacles, refuse_obstacles
from opsconsole.environments.readings import ServerRead
from opsconsole.environments.survey import survey
from opsconsole.exceptions import StepFailed
from opsconsole.targets.dsn import Dsn
from tests.conftest import superuser

ALL_IS_WELL = ServerRead(
    version="18.0", major=18, database="shop", user="app", owner="app", encoding="UTF8",
    may_create_databases=True, owns_database=True, maintenance_database="postgres",
    server_limit=97, server_sessions=20,
)  # fmt: skip
BESIDE = {Need.BUILD, Need.EXCHANGE}
ANY_CHANGE = {Need.BUILD, Need.EXCHANGE, Need.MIGRATE}


def test_nothing_is_in_the_way_of_an_ordinary_database():
    assert obstacles(ALL_IS_WELL) == []
    refuse_obstacles(ALL_IS_WELL, EVERYTHING)


@pytest.mark.parametrize(
    ("change", "stops", "about", "remedy"),
    [
        ({"in_recovery": True}, ANY_CHANGE, "server", "address of the primary"),
        ({"read_only_by": "database"}, {Need.MIGRATE}, "read-only",
         'ALTER DATABASE "shop" RESET default_transaction_read_only;'),
        ({"read_only_by": "database user"}, {Need.MIGRATE}, "read-only",
         'ALTER ROLE "app" IN DATABASE "shop" RESET default_transaction_read_only;'),
        ({"read_only_by": "user"}, ANY_CHANGE, "read-only",
         'ALTER ROLE "app" RESET default_transaction_read_only;'),
        ({"read_only_by": "client"}, ANY_CHANGE, "read-only", "options in the address"),
        ({"read_only_by": "configuration file"}, ANY_CHANGE, "read-only", "ALTER SYSTEM SET"),
        ({"maintenance_problem": "no postgres. Name another"}, ANY_CHANGE, "maintenance", "another"),
        ({"maintenance_database": "shop"}, {Need.EXCHANGE}, "maintenance", "?maintenance_database="),
        ({"may_create_databases": False}, BESIDE, "rights", 'ALTER ROLE "app" CREATEDB;'),
        ({"owns_database": False}, {Need.EXCHANGE}, "rights",
         'ALTER DATABASE "shop" OWNER TO "app";'),
        ({"owner": "dba", "may_give_to_owner": False}, {Need.EXCHANGE}, "rights",
         'ALTER DATABASE "shop" OWNER TO "app";'),
        ({"role_limit": 7, "role_sessions": 2}, EVERYTHING, "sessions",
         'ALTER ROLE "app" CONNECTION LIMIT 8;'),
        ({"database_limit": 0}, EVERYTHING, "sessions",
         'ALTER DATABASE "shop" CONNECTION LIMIT 6;'),
        ({"server_sessions": 92}, EVERYTHING, "sessions", "max_connections"),
        ({"tools_problem": "no PostgreSQL 19 client tools"}, {Need.DUMP, *BESIDE}, "tools",
         "migrated where no backup"),
        ({"missing_schema": "sales"}, {Need.MIGRATE}, "schema", 'CREATE SCHEMA "sales";'),
        ({"encoding": "SQL_ASCII"}, set(), "encoding", "byte by byte"),
    ],
)  # fmt: skip
def test_each_obstacle_says_what_it_stops_and_the_remedy(change, stops, about, remedy):
    read = ALL_IS_WELL.model_copy(update=change)
    (found,) = obstacles(read)
    assert (found.about, found.stops) == (about, stops)
    assert remedy in f"{found.text} {found.remedy} {found.command}"
    said = str(found.sentence)
    refuse_obstacles(read, EVERYTHING - stops)
    for need in stops:
        with pytest.raises(StepFailed) as refused:
            refuse_obstacles(read, {need})
        assert str(refused.value) == said


@pytest.mark.parametrize(
    "change",
    [
        {"role_limit": 8, "role_sessions": 2},
        {"database_limit": 6},
        {"server_sessions": 91},
        {"is_superuser": True, "role_limit": 0, "database_limit": 0},
    ],
)
def test_room_for_the_sessions_of_one_run_is_enough(change):
    assert obstacles(ALL_IS_WELL.model_copy(update=change)) == []


def read(address: str) -> ServerRead:
    with psycopg.connect(address.partition("&")[0], application_name="opsconsole:t") as session:
        return ServerRead.model_validate(survey(Dsn.parse(address), session).as_dict())


@pytest.mark.parametrize(
    ("made", "found"),
    [
        ("ALTER DATABASE {0} SET default_transaction_read_only = on", ["read-only"]),
        ("ALTER ROLE {0} SET default_transaction_read_only = on", ["read-only"]),
        ("ALTER ROLE {0} CONNECTION LIMIT 5", ["sessions"]),
        ("ALTER DATABASE {0} CONNECTION LIMIT 5", ["sessions"]),
        ("ALTER ROLE {0} CONNECTION LIMIT 6; ALTER DATABASE {0} CONNECTION LIMIT 6", []),
        ("ALTER ROLE {0} NOCREATEDB", ["rights"]),
        ("ALTER DATABASE {0} OWNER TO postgres", ["rights"]),
    ],
)
def test_obstacle_is_read_of_a_real_server(database, made, found):
    address = database()
    name = sql.Identifier(Dsn.parse(address).database)
    with superuser() as connection:
        connection.execute(sql.SQL(made).format(name))
        try:
            assert [each.about for each in obstacles(read(address))] == found
        finally:
            connection.execute(sql.SQL("ALTER DATABASE {0} OWNER TO {0}").format(name))


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("", []),
        ("&schema=sales", ["schema"]),
        ("&maintenance_database=absent", ["maintenance"]),
    ],
)
def test_what_the_address_asks_for_is_looked_for(database, more, found):
    assert [each.about for each in obstacles(read(database() + more))] == found


def test_tools_are_missing_for_a_server_that_is_newer_than_all_of_them(database, monkeypatch):
    monkeypatch.setattr("opsconsole.environments.survey.find_tools", lambda _folders: [])
    (found,) = obstacles(read(database()))
    assert "no PostgreSQL 18 client tools" in str(found.sentence)
