"""What belongs to a database: every catalogue is read, proven, or none of our business."""

from __future__ import annotations

import re

import pytest

from opsconsole.targets import belongings
from opsconsole.targets.belongings import (
    LARGE_OBJECTS,
    RENEWED,
    Belonging,
    Difference,
    differences,
    read_belongings,
)
from tests.conftest import superuser

# pg_restore makes all of it, or stops at the first error: then nothing is proven or exchanged.
OF_THE_ARCHIVE = {
    "pg_aggregate", "pg_amop", "pg_amproc", "pg_attrdef", "pg_attribute", "pg_class",
    "pg_collation", "pg_constraint", "pg_conversion", "pg_description", "pg_enum",
    "pg_foreign_table", "pg_index", "pg_inherits", "pg_init_privs", "pg_largeobject",
    "pg_namespace", "pg_opclass", "pg_operator", "pg_opfamily", "pg_partitioned_table",
    "pg_policy", "pg_proc", "pg_range", "pg_rewrite", "pg_seclabel", "pg_sequence", "pg_trigger",
    "pg_ts_config", "pg_ts_config_map", "pg_ts_dict", "pg_ts_parser", "pg_ts_template", "pg_type",
}  # fmt: skip
NONE_OF_OURS = {
    "pg_auth_members": "roles are the server's: both databases have the same",
    "pg_authid": "roles are the server's: both databases have the same",
    "pg_depend": "what hangs on what: PostgreSQL keeps it itself",
    "pg_parameter_acl": "the server's: rights on its settings",
    "pg_replication_origin": "the server's: where a subscription is, which is told by itself",
    "pg_shdepend": "what hangs on what: PostgreSQL keeps it itself",
    "pg_statistic": "ANALYZE gathers it in the replacement",
    "pg_statistic_ext_data": "ANALYZE gathers it in the replacement",
    "pg_subscription_rel": "how far a subscription is, which is told by itself",
}
# Read through a view or a function.
BY_WAY_OF = {"pg_user_mapping": "pg_user_mappings", "pg_shdescription": "shobj_description"}


def queries() -> str:
    return " ".join(v for n, v in vars(belongings).items() if n.isupper() and isinstance(v, str))


def test_every_catalogue_is_read_or_proven_or_named_with_a_reason():
    with superuser() as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = 'pg_catalog'::regnamespace"
        ).fetchall()
    sources = set(re.findall(r"(?:FROM|JOIN) (\w+)|\b(shobj_description)\b", queries()))
    names = {table or function for table, function in sources}
    read = {name for (name,) in rows if BY_WAY_OF.get(name, name) in names}
    assert {name for (name,) in rows} == read | OF_THE_ARCHIVE | NONE_OF_OURS.keys()


def test_every_column_of_the_row_of_a_database_is_read_or_its_own():
    """What is its own: its number and name, what the exchange sets, and the age of its rows."""
    own = {"oid", "datname", "datallowconn", "dathasloginevt", "datfrozenxid", "datminmxid"}
    with superuser() as connection:
        rows = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'pg_database'::regclass"
            " AND attnum > 0"
        ).fetchall()
    assert {name for (name,) in rows} == own | {
        name for (name,) in rows if name not in own and re.search(rf"\b{name}\b", queries())
    }


MAKES = Belonging("setting", "work_mem", "7MB", ("SET",), ("RESET",))
OTHER = Belonging("setting", "work_mem", "9MB", ("SET 9",), ("RESET",))
SLOT = Belonging("replication slot", "s", "pgoutput")
TRIGGER = Belonging("event trigger", "e", "on x", is_dumped=True)
RIGHTS = Belonging("default rights", "of r", "g", ("GRANT",), ("REVOKE",), is_dumped=True)
OWNED = Belonging(LARGE_OBJECTS, "of r", "", is_dumped=True)


def listed(*found: Belonging) -> belongings.Belongings:
    return {one.what: one for one in found}


@pytest.mark.parametrize(
    ("live", "built", "more", "expected"),
    [
        ([MAKES, SLOT], [MAKES, SLOT], {}, None),
        ([MAKES], [], {}, ("missing", ("SET",), False)),
        ([MAKES], [OTHER], {}, ("other", ("RESET", "SET"), False)),
        ([], [MAKES], {}, ("unexpected", ("RESET",), False)),
        ([SLOT], [], {}, ("missing", (), False)),
        ([], [SLOT], {}, ("unexpected", (), False)),
        ([TRIGGER], [], {}, ("missing", (), False)),
        ([], [TRIGGER], {}, ("unexpected", (), True)),
        ([TRIGGER], [], {"recorded": {}}, ("missing", (), True)),
        ([TRIGGER], [], {"recorded": {TRIGGER.what: TRIGGER.digest}}, ("missing", (), False)),
        ([MAKES], [], {"recorded": {}}, ("missing", ("SET",), False)),
        ([RIGHTS], [], {}, ("missing", ("GRANT",), False)),
        ([], [RIGHTS], {}, ("unexpected", ("REVOKE",), False)),
        ([], [RIGHTS], {"recorded": {RIGHTS.what: RIGHTS.digest}}, ("unexpected", (), True)),
        ([OWNED], [], {"keeps_owners": False}, None),
        ([Belonging(RENEWED, "", "1")], [Belonging(RENEWED, "", "2")], {}, ("other", (), True)),
    ],
)
def test_what_differs_is_made_equal_or_meant_or_stops(live, built, more, expected):
    found = [
        (one.how, one.statements, one.is_meant)
        for one in differences(listed(*live), listed(*built), **more)
    ]
    assert found == ([expected] if expected else [])


def test_difference_says_what_to_do():
    assert str(Difference("replication slot s", "missing", "replication slot")) == (
        "replication slot s would be missing (it stays with the database that is put aside: drop "
        "it, and make it again after the exchange)"
    )
    assert str(Difference("tablespace", "other", "tablespace")) == "tablespace would be another"


def test_role_without_rights_reads_all_of_it(target):
    with superuser(target.info.dbname) as connection:
        assert read_belongings(target, "x") == read_belongings(connection, "x")
