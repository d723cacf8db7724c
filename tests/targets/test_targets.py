"""Addresses, tools, names, locks and measurements of targets."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsconsole.exceptions import AdapterError
from opsconsole.outgoing import CallPolicy, Deadline
from opsconsole.targets import activity, content, schema, server
from opsconsole.targets.availability import Answers
from opsconsole.targets.dsn import Dsn
from opsconsole.targets.tools import ClientTools, choose_tools
from opsconsole.targets.trial import Trial, empty_database
from tests.conftest import autovacuum_at_work


def test_prisma_url_is_understood_and_its_schema_kept():
    dsn = Dsn.parse(
        "postgresql://u:p%40ss@db.example.com:5433/shop?schema=app&connection_limit=5&sslmode=require"
    )
    assert (dsn.user, dsn.password, dsn.host, dsn.database, dsn.schema, dsn.is_local) == (
        "u",
        "p@ss",
        "db.example.com",
        "shop",
        "app",
        False,
    )
    assert dsn.shown() == "u@db.example.com:5433/shop"
    assert dsn.tool_environment(7, "opsconsole:1")["PGSSLMODE"] == "require"


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("options=-c%20statement_timeout%3D5000%20-c%20search_path%3Dpublic",
         {"options": "-c statement_timeout=5000 -c search_path=public"}),
        ("options=-c+lock_timeout%3D1", {"options": "-c lock_timeout=1"}),
        ("max_connection_lifetime=30&max_idle_connection_lifetime=10&pool_timeout=1&schema=", {}),
        ("sslaccept=strict&sslcert=/ca.pem", {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}),
        ("sslmode=require&sslcert=/ca.pem", {"sslmode": "require"}),
        ("sslcert=/me.pem&sslkey=/me.key", {"sslcert": "/me.pem", "sslkey": "/me.key"}),
        ("sslmode=verify-full&sslrootcert=/ca.pem&sslcrl=/crl.pem",
         {"sslmode": "verify-full", "sslrootcert": "/ca.pem", "sslcrl": "/crl.pem"}),
        ("sslmode=prefer&sslaccept=accept_invalid_certs", {"sslmode": "prefer"}),
        ("sslmode=disable&sslaccept=strict", {"sslmode": "disable"}),
        ("sslpassword=x", {}),
        ("ssl=true", {"sslmode": "require"}),
        ("pgbouncer=false", {}),
        ("connection_limit=1&socket_timeout=3&statement_cache_size=0", {}),
        ("socket=/tmp&single_use_connections=true", {}),
        ("connect_timeout=0", {"connect_timeout": "0"}),
        ("application_name=shop", {"application_name": "shop"}),
        ("channel_binding=require", {"channel_binding": "require"}),
        ("client_encoding=LATIN1", {}),
        ("host=/run/postgresql", {"host": "/run/postgresql"}),
        ("host=a,b&port=1,2",
         {"host": "a,b", "port": "1,2", "target_session_attrs": "read-write"}),
        ("host=a,b&target_session_attrs=primary",
         {"host": "a,b", "target_session_attrs": "primary"}),
        ("target_session_attrs=any", {"target_session_attrs": "any"}),
    ],
)  # fmt: skip
def test_parameters_of_a_url_mean_what_they_mean_to_psql_and_prisma(query, found):
    dsn = Dsn.parse(f"postgresql://u:a+b@h/d?{query}")
    assert dsn.parameters == {"user": "u", "password": "a+b", "host": "h", "dbname": "d"} | found
    assert dsn.schema == "public"


@pytest.mark.parametrize("text", ["postgresql:///d", "postgres:///d?host=/tmp&schema=x"])
def test_url_without_a_host_is_understood(text):
    dsn = Dsn.parse(text)
    assert (dsn.database, dsn.is_local) == ("d", True)


def test_address_of_a_pooler_is_refused_with_the_remedy():
    with pytest.raises(AdapterError, match=r"pgbouncer=true.*directUrl"):
        Dsn.parse("postgresql://u@h/d?pgbouncer=true")
    assert Dsn.parse("postgresql://u@h/d?pgbouncer=false").database == "d"


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("sslidentity=s3cret&sslpassword=s3cret", "sslidentity"),
        ("sslcert=/me.pem&sslkey=/me.key&sslpassword=s3cret", "sslpassword"),
        ("statement_timeout=s3cret", "statement_timeout"),
        ("uselibpqcompat=true", "uselibpqcompat"),
        ("ssl=no-verify", "ssl"),
        ("replication=s3cret", "replication"),
        ("service=s3cret", "service"),
        ("passfile=/s3cret", "passfile"),
        ("sslkeylogfile=/s3cret", "sslkeylogfile"),
        ("scram_client_key=s3cret", "scram_client_key"),
        ("host=a,b&target_session_attrs=s3cret", "target_session_attrs"),
        ("hostaddr=10.0.0.1,10.0.0.2&target_session_attrs=any", "target_session_attrs"),
    ],
)
def test_parameter_that_cannot_be_honoured_is_named_without_its_value(query, name):
    with pytest.raises(AdapterError, match=rf"\b{name}\b") as error:
        Dsn.parse(f"postgresql://u:s3cret@h/d?{query}")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("name", ["service", "sslkeylogfile", "replication"])
def test_parameter_of_a_connection_string_is_refused_as_that_of_a_url(name):
    with pytest.raises(AdapterError, match=name):
        Dsn.parse(f"host=h dbname=d {name}=x")


def test_of_several_servers_all_sessions_are_on_the_one_that_takes_writes(database):
    parameters = Dsn.parse(database()).parameters
    several = " ".join(f"{name}='{value}'" for name, value in parameters.items() if name != "host")
    dsn = Dsn.parse(f"{several} host='/nowhere,{parameters['host']}'")
    with server.connect(dsn, application_name="x") as connection:
        connection.execute("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on")
    with pytest.raises(AdapterError):
        server.connect(dsn, application_name="x")


def test_options_of_the_address_reach_the_server_and_the_tools(database):
    dsn = Dsn.parse(database())
    asked = Dsn(dsn.parameters | {"options": "-c work_mem=7MB"})
    with server.connect(asked, application_name="opsconsole:test") as connection:
        assert connection.execute("SHOW work_mem").fetchone() == ("7MB",)
    assert asked.tool_environment(7, "t")["PGOPTIONS"] == "-c work_mem=7MB"


@pytest.mark.parametrize("host", ["/run/sockets", "localhost", "127.0.0.1", "::1", "/a,::1"])
def test_sockets_and_loopback_are_local(host):
    assert Dsn.parse(f"host={host} dbname=x").is_local


@pytest.mark.parametrize("place", ["host=/tmp,db.test", "host=10.0.0.1", "hostaddr=10.0.0.1"])
def test_any_host_elsewhere_is_not_local(place):
    assert not Dsn.parse(f"{place} dbname=x").is_local


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mysql://a:s3cret@b/c",
        "postgresql://u:s3cret@h",
        "a=b s3cret",
        "postgresql://u:s3cret@[bad/x",
        "postgresql://u:pa?s3cret@h/d",
        "postgresql://u:pa?s3cret&x=1@h/d",
    ],
)
def test_malformed_address_is_refused_without_repeating_it(text):
    with pytest.raises(AdapterError) as error:
        Dsn.parse(text)
    assert "s3cret" not in str(error.value)


@given(
    st.text(
        alphabet=st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"]), min_size=1
    )
)
def test_password_is_in_no_argument_and_not_in_repr(password):
    secret = f"Q7{password}Q7"
    dsn = Dsn({"host": "h", "dbname": "d", "user": "u", "password": secret})
    assert secret not in " ".join(dsn.tool_arguments()) + repr(dsn) + dsn.shown()


def test_passfile_escapes_colons_and_backslashes():
    assert Dsn({"dbname": "d", "password": "a:b\\c"}).passfile_line() == "*:*:*:*:a\\:b\\\\c\n"


def tools(major: int, *, tls: bool = True) -> ClientTools:
    return ClientTools(Path(f"/{major}"), major, f"{major}.1", has_tls=tls)


def test_tools_of_the_server_s_own_major_are_chosen():
    found = [tools(14), tools(15), tools(18, tls=False)]
    assert choose_tools(found, server_major=15, is_local=False).major == 15
    assert choose_tools(found, server_major=18, is_local=True).major == 18
    with pytest.raises(
        AdapterError, match=r"18 client tools with TLS.*installed: 14.1, 15.1, 18.1"
    ):
        choose_tools(found, server_major=18, is_local=False)


@given(st.text(min_size=1, max_size=80), st.integers(1, 10**9))
def test_names_beside_fit_in_63_bytes_and_keep_their_suffix(base, number):
    name = server.name_beside(base, f"__new{number}")
    assert len(name.encode()) <= 63
    assert name.endswith(f"__new{number}")


def test_lock_keys_differ_by_database():
    assert server.lock_key("a") != server.lock_key("b")
    assert -(2**63) <= server.lock_key("a") < 2**63


def test_lock_refuses_the_second_and_names_the_holder(database):
    dsn = Dsn.parse(database())
    first, second = server.TargetLock(dsn, "first"), server.TargetLock(dsn, "second")
    first.acquire()
    with pytest.raises(AdapterError, match="another session is changing this database: first"):
        second.acquire()
    first.release()
    with pytest.raises(AdapterError, match="lock on the target was lost"):
        first.check()
    second.release()


def test_lock_counts_in_every_maintenance_database_of_the_server(database):
    own, other = database(), Dsn.parse(database()).database
    first = server.TargetLock(Dsn.parse(own), "first")
    second = server.TargetLock(Dsn.parse(f"{own}&maintenance_database={other}"), "second")
    first.acquire()
    with pytest.raises(AdapterError, match="another session is changing this database: first"):
        second.acquire()
    second.release()
    first.release()


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u@h/d?schema=x&maintenance_database=other%20one",
        "host=h dbname=d user=u schema = 'x' maintenance_database='other one'",
        r"host=h dbname=d maintenance_database=other\ one schema=x user=u",
    ],
)
def test_address_names_its_schema_and_maintenance_database(address):
    dsn = Dsn.parse(address)
    assert (dsn.schema, dsn.maintenance_database) == ("x", "other one")
    assert dsn.parameters == {"host": "h", "dbname": "d", "user": "u"}


def test_value_that_looks_like_a_parameter_of_a_connection_string_stays_a_value():
    dsn = Dsn.parse("host=h dbname=d password='a schema=b' maintenance_database=c")
    assert (dsn.password, dsn.schema) == ("a schema=b", "public")


def test_maintenance_database_that_cannot_be_used_is_named_with_the_remedy(database):
    dsn = Dsn.parse(f"{database()}&maintenance_database=absent")
    with pytest.raises(AdapterError, match=r'"absent" does not exist.*\?maintenance_database='):
        server.TargetLock(dsn, "x")


def test_unreachable_server_is_an_error_without_the_address():
    with pytest.raises(AdapterError) as error:
        server.connect(Dsn.parse("postgresql://u:s3cret@127.0.0.1:1/x"), application_name="x")
    assert "s3cret" not in str(error.value)


def test_missing_database_cannot_be_imitated(database):
    with psycopg.connect(database(), autocommit=True) as connection:
        with pytest.raises(AdapterError, match="there is no database nowhere"):
            server.read_shape(connection, "nowhere")
        shape = server.read_shape(connection, connection.info.dbname)
        with pytest.raises(AdapterError, match="cannot create database"):
            server.create_database(connection, "postgres", shape)
        with pytest.raises(AdapterError, match="cannot drop database"):
            server.drop_database(connection, "postgres")


def test_identity_of_a_server_that_keeps_its_own_to_itself(database):
    dsn = Dsn.parse(database())
    with server.connect(dsn, application_name="x") as connection:
        facts = server.read_facts(connection)
        assert facts.major == 18
        assert (facts.is_superuser, facts.may_create_databases, facts.owns_database) == (
            False,
            True,
            True,
        )
        assert server.system_identifier(connection) == facts.system_identifier


# -- content and schema


def test_differences_name_each_table():
    before = {
        "a": {"rows": 1, "hash": "x"},
        "b": {"rows": 2, "hash": "y"},
        "c": {"rows": 3, "hash": "z"},
    }
    after = {
        "b": {"rows": 1, "hash": "q"},
        "c": {"rows": 3, "hash": "other"},
        "d": {"rows": 0, "hash": "0"},
    }
    assert content.differences(before, after) == [
        "a: missing",
        "b: 2 rows expected, 1 found",
        "c: 3 rows with other content",
        "d: unexpected",
    ]
    assert content.differences(before, before) == []


def test_sequences_may_lie_between_before_and_after_only():
    assert content.sequence_differences({"s": 5}, {"s": 9}, {"s": 7}) == []
    assert content.sequence_differences({"s": 5}, {"s": 9}, {"s": 10}) == [
        "sequence s: 10, expected 5 to 9"
    ]
    assert content.sequence_differences({"s": 5}, {}, {}) == ["sequence s: missing"]


def test_schema_changes_are_lines_with_a_sign():
    before, after = {"table a": "", "column a.x": "int"}, {"column a.x": "text", "table b": ""}
    assert schema.schema_changes(before, after) == [
        "~ column a.x: int -> text",
        "- table a",
        "+ table b",
    ]
    assert schema.schema_hash(before) != schema.schema_hash(after)


# -- availability


def samples(*values: float | None) -> Answers:
    return Answers([(100 + i * 0.02, value) for i, value in enumerate(values)])


def test_outage_lasts_from_the_last_answer_to_the_next():
    summary = samples(1, 1, None, None, 1, 1).summary()
    assert len(summary["outages"]) == 1
    assert summary["down_ms"] == pytest.approx(60, abs=0.2)
    assert (summary["failed"], summary["samples"]) == (2, 6)


@pytest.mark.parametrize(
    ("values", "down"), [((1, 1, 1), 0), ((), 0), ((None, None, 1), 41), ((1, None, None), 39)]
)
def test_outage_at_either_end_counts(values, down):
    assert samples(*values).summary()["down_ms"] == pytest.approx(down, abs=0.2)


def test_bins_show_failures_slow_answers_and_gaps():
    bins = samples(*[1.0] * 10, None, 80.0).summary()["bins"]
    assert 2 in bins
    assert 1 in bins
    assert None in bins


def test_table_that_is_being_copied_is_named_with_its_row(database):
    dsn = database()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE large AS SELECT n, repeat('x', 500) AS t FROM generate_series(1, 40000) n"
        )
        connection.execute("ANALYZE large")
        with psycopg.connect(dsn, application_name="opsconsole:7:backup:dump") as dumping:
            with dumping.cursor() as cursor, cursor.copy("COPY large TO STDOUT") as copy:
                copy.read()
                said = activity.tables_copied(connection, "opsconsole:7:backup:dump")
                assert activity.tables_copied(connection, "opsconsole:8:backup:dump") == []
                for _rest in copy:
                    pass
    assert len(said) == 1
    assert re.fullmatch(r"public\.large, row [\d,]+ of about 40,000", said[0])


def test_empty_database_is_dropped_when_what_is_tried_there_fails(database):
    dsn = Dsn.parse(database())
    trial = Trial(dsn, f"{dsn.database}__trial1", "opsconsole:1:trial")
    with pytest.raises(psycopg.errors.UndefinedTable), empty_database(trial) as made:
        assert made.info.dbname == trial.database
        made.execute("SELECT 1 FROM missing")
    with server.connect(dsn, application_name="opsconsole:test") as session:
        assert server.database_oid(session, trial.database) is None


def test_database_in_which_autovacuum_is_at_work_is_dropped(database):
    dsn = Dsn.parse(database())
    with server.connect(dsn, application_name="x", database="postgres") as connection:
        with autovacuum_at_work(dsn.conninfo(application_name="x")):
            server.drop_database(connection, dsn.database)
        assert server.database_oid(connection, dsn.database) is None


@pytest.mark.parametrize(
    ("address", "hostaddr"),
    [
        ("postgresql://u@127.0.0.1:1/d", "127.0.0.1"),
        ("host=127.0.0.1,127.0.0.2 port=1,2 dbname=d", "127.0.0.1,127.0.0.2"),
        ("host=/tmp,127.0.0.1 port=1 dbname=d", ",127.0.0.1"),
        ("host=name.test hostaddr=127.0.0.3 dbname=d", "127.0.0.3"),
        ("host=/tmp dbname=d", None),
        ("dbname=d", None),
    ],
)
def test_address_is_pinned_to_what_its_hosts_mean(address, hostaddr):
    pinned = Dsn.parse(address).pinned(CallPolicy(), Deadline(5))
    assert pinned.parameters.get("hostaddr") == hostaddr
    assert pinned.host == Dsn.parse(address).host


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://u@169.254.169.254/d",
        "postgresql://u@[::ffff:a9fe:a9fe]/d",
        "host=127.0.0.1,169.254.169.254 dbname=d",
        "host=db.test hostaddr=169.254.169.254 dbname=d",
        "hostaddr=169.254.169.254 dbname=d",
    ],
)
def test_host_that_the_console_does_not_call_is_refused(address):
    with pytest.raises(AdapterError, match="the console does not call"):
        Dsn.parse(address).pinned(CallPolicy(), Deadline(5))


def test_of_several_addresses_the_one_that_answers_is_meant(monkeypatch):
    real = socket.getaddrinfo
    with ExitStack() as held:
        # Bound and not listening: nobody else on this machine answers there meanwhile.
        silent = held.enter_context(socket.socket())
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        held.enter_context(socket.create_server(("127.0.0.2", port)))
        rows = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in ("127.0.0.1", "127.0.0.2", "127.0.0.3")
        ]

        def look_up(host, *rest, **named):
            return rows if host == "db.test" else real(host, *rest, **named)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        pinned = Dsn.parse(f"postgresql://u@db.test:{port}/d").pinned(CallPolicy(), Deadline(5))
    assert pinned.parameters["hostaddr"] == "127.0.0.2"


@pytest.mark.parametrize("port", ["x", "1,2,3"])
def test_ports_that_fit_no_hosts_are_an_error(port):
    with pytest.raises(AdapterError, match="one port, or one for each host"):
        Dsn.parse(f"host=127.0.0.1,127.0.0.2 port={port} dbname=d").pinned(
            CallPolicy(), Deadline(5)
        )


@pytest.fixture
def frozen(database):
    """A session whose backend on the server does nothing any more, not even time itself out."""
    with server.connect(Dsn.parse(database()), application_name="t") as connection:
        pid = connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield connection
        finally:
            os.kill(pid, signal.SIGCONT)


def test_session_on_a_stuck_server_is_cut_off(frozen):
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError), server.cut_off_after(0.5, frozen):
        frozen.execute("SELECT 1")
    assert time.monotonic() - began < 3


def test_session_that_was_in_time_goes_on(database):
    with server.connect(Dsn.parse(database()), application_name="t") as connection:
        with server.cut_off_after(30, connection):
            connection.execute("SELECT 1")
        assert connection.execute("SELECT 2").fetchone() == (2,)
