"""What belongs to a database besides its rows and its schema: read, compared, carried over.

Some of it lies outside of the database and stays with its number when names are exchanged (owner,
rights, settings), some is left out by a restore (publications), or made only by some roles (event
triggers). The schema itself is what an archive holds, and pg_restore makes all of it or fails;
`tests/targets/test_belongings.py` says of every catalogue where it stands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from opsconsole.targets.extensions import PG_CRON

# Settings whose value is a list of names; the others are one text (pg_dump's
# variable_is_guc_list_quote).
LISTS_OF_NAMES = {
    "local_preload_libraries", "search_path", "session_preload_libraries",
    "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories",
}  # fmt: skip
NAME_IN_LIST = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')
OBJECTS = {"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES", "n": "SCHEMAS",
           "L": "LARGE OBJECTS"}  # fmt: skip
FIRST_WITH_PARTS_OF_TABLES_PUBLISHED = 150000

# A database that is made anew has the version of the library that its indexes were built with.
RENEWED = "collation version"
LARGE_OBJECTS = "large objects"
EVENT_TRIGGER = "event trigger"
# A copy of these would receive what the first one receives.
OF_ANOTHER_SERVER = {"subscription", "replication slot"}
TAKE_RIGHTS = {"setting", "security label", "publication"}
REMEDIES = {
    "subscription": "a copy would receive everything twice: drop it or set its slot to NONE, and "
    "make it again after the exchange",
    "replication slot": "it stays with the database that is put aside: drop it, and make it again "
    "after the exchange",
    EVENT_TRIGGER: "only a superuser makes it: have one make it again after the exchange",
}
HOW = {"missing": "would be missing", "other": "would be another", "unexpected": "would come back"}


@dataclass(frozen=True)
class Belonging:
    """One thing that belongs to a database, as it is compared: by kind and name, and its value.

    `makes` are the statements that make it in the replacement, `unmakes` those that take it away
    there; empty where nothing can. What `is_dumped` is in an archive of the database.
    """

    kind: str
    name: str
    value: str
    makes: tuple[str, ...] = ()
    unmakes: tuple[str, ...] = ()
    is_dumped: bool = False

    @property
    def what(self) -> str:
        """What people call it, and consent to."""
        return f"{self.kind} {self.name}".rstrip()

    @property
    def digest(self) -> str:
        """Its value as it is kept: nothing can be read from it."""
        return hashlib.sha256(self.value.encode()).hexdigest()


Belongings = dict[str, Belonging]


@dataclass(frozen=True)
class Difference:
    """How a replacement differs from the live database, and the statements that end it.

    One that `is_meant` was asked for: the replacement has it as the backup does, or cannot have
    it otherwise. `reason` is why the server refused the statements.
    """

    what: str
    how: str
    kind: str
    statements: tuple[str, ...] = ()
    is_meant: bool = False
    reason: str = ""

    def __str__(self) -> str:
        remedy = REMEDIES.get(self.kind) if self.how != "unexpected" else None
        text = f"{self.what} {HOW[self.how]}" + (f" ({remedy})" if remedy else "")
        return f"{text}: {self.reason}" if self.reason else text


def differences(
    live: Belongings,
    built: Belongings,
    *,
    recorded: Mapping[str, str] | None = None,
    keeps_owners: bool = True,
) -> list[Difference]:
    """What is not equal in both.

    `recorded` is what the restored backup held, by digest, where that is what is gone back to:
    what is as recorded is meant. Without owners kept, those of large objects are not compared.
    """
    found = []
    for what in [*live, *(what for what in built if what not in live)]:
        old, new = live.get(what), built.get(what)
        one = old or new
        assert one is not None
        if (old and old.value) == (new and new.value) and bool(old) == bool(new):
            continue
        if one.kind == LARGE_OBJECTS and not keeps_owners:
            continue
        how = "missing" if new is None else "other" if old else "unexpected"
        statements = (new.unmakes if new else ()) + (old.makes if old else ())
        # Nothing is lost when something is there that the live database has not.
        comes_with_the_archive = one.is_dumped and old is None and not statements
        as_recorded = (
            one.is_dumped
            and recorded is not None
            and recorded.get(what) == (new.digest if new else None)
        )
        is_meant = one.kind == RENEWED or as_recorded or comes_with_the_archive
        found.append(Difference(what, how, one.kind, () if is_meant else statements, is_meant))
    return found


def certain_to_stay(live: Belongings, *, is_superuser: bool) -> list[Difference]:
    """What no replacement will have that a role with or without all rights restores."""
    never = OF_ANOTHER_SERVER if is_superuser else OF_ANOTHER_SERVER | {EVENT_TRIGGER}
    return [
        Difference(what, "missing", one.kind)
        for what, one in live.items()
        if one.kind in never or what == f"extension {PG_CRON}"
    ]


def to_try(live: Belongings) -> list[Difference]:
    """What can be tried in an empty database, because only a right may be missing to make it there."""
    return [
        Difference(what, "missing", one.kind, one.makes[:1])
        for what, one in live.items()
        if one.kind in TAKE_RIGHTS
    ]


def recorded(found: Belongings) -> dict[str, str]:
    """What an archive of the database holds of it, by digest, to be kept with the archive."""
    return {what: one.digest for what, one in sorted(found.items()) if one.is_dumped}


def read_belongings(connection: psycopg.Connection, replacement: str) -> Belongings:
    """Everything that belongs to the connected database.

    The statements are for a database of the name `replacement`, whichever this one is.
    """
    # Names are written as SQL reads them, whatever the session's search path.
    with connection.transaction():
        connection.execute("SET LOCAL search_path = ''")
        found = [
            *_of_the_database(connection, sql.Identifier(replacement)),
            *_settings(connection, sql.Identifier(replacement)),
            *_labels(connection, sql.Identifier(replacement)),
            *_default_rights(connection),
            *_publications(connection),
            *_with_another_server(connection),
            *_dumped(connection),
        ]
    return {one.what: one for one in found}


def carry_over(connection: psycopg.Connection, found: Iterable[Difference]) -> list[Difference]:
    """Make the connected replacement equal where statements can; returns what the server refused.

    Where a transaction is open, all of it is a part of that.
    """
    refused = []
    for difference in found:
        try:
            with connection.transaction():
                connection.execute("SET LOCAL search_path = ''")
                for statement in difference.statements:
                    connection.execute(statement.encode())
        except psycopg.Error as error:
            reason = str(error.diag.message_primary or error)
            refused.append(replace(difference, reason=reason))
    return refused


# -- the row of the database, and what hangs on it

DATABASE = """
SELECT pg_get_userbyid(d.datdba), t.spcname,
       concat_ws(' ', pg_encoding_to_char(d.encoding), to_jsonb(d)->>'datlocprovider', d.datcollate,
                 d.datctype, coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale'),
                 to_jsonb(d)->>'daticurules'),
       coalesce(to_jsonb(d)->>'datcollversion', ''), d.datconnlimit, d.datistemplate,
       shobj_description(d.oid, 'pg_database')
  FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace
 WHERE d.datname = current_database()
"""
RIGHTS = """
SELECT DISTINCT CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type,
       a.is_grantable
  FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
 WHERE d.datname = current_database() ORDER BY 1 NULLS FIRST, 2, 3
"""
Right = tuple[str | None, str, bool]


def _of_the_database(connection: psycopg.Connection, target: sql.Identifier) -> Iterator[Belonging]:
    row = connection.execute(DATABASE).fetchone()
    assert row is not None
    owner, tablespace, locale, version, limit, is_template, comment = row
    alter = sql.SQL("ALTER DATABASE {} {} {}")

    def altered(how: str, value: sql.Composable) -> tuple[str, ...]:
        return (_text(alter.format(target, sql.SQL(how), value)),)

    yield Belonging("owner", "", owner, altered("OWNER TO", sql.Identifier(owner)))
    # Only a database without sessions can be moved, and its files with it.
    yield Belonging("tablespace", "", tablespace)
    yield Belonging("encoding and locale", "", locale)
    yield Belonging(RENEWED, "", version)
    yield Belonging(
        "connection limit", "", str(limit), altered("CONNECTION LIMIT", sql.Literal(limit))
    )
    yield Belonging(
        "template flag", "", str(is_template), altered("IS_TEMPLATE", sql.Literal(is_template))
    )
    says = sql.SQL("COMMENT ON DATABASE {} IS {}").format(target, sql.Literal(comment))
    yield Belonging("comment", "", str(comment or ""), (_text(says),))
    yield _rights(connection, target, owner)


def _rights(connection: psycopg.Connection, target: sql.Identifier, owner: str) -> Belonging:
    rights: list[Right] = connection.execute(RIGHTS).fetchall()
    on = sql.SQL("ON DATABASE {}").format(target)
    holders = {None, owner, *(role for role, _privilege, _grantable in rights)}
    revoke = _text(_revoking(on, holders) + sql.SQL(" CASCADE"))
    grants = tuple(_text(_granting(on, right)) for right in rights)
    return Belonging("rights", "", "; ".join(grants), (revoke, *grants), (revoke,))


SETTINGS = """
SELECT r.rolname, c.setting
  FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
  LEFT JOIN pg_roles r ON r.oid = s.setrole,
       unnest(s.setconfig) WITH ORDINALITY AS c (setting, place)
 WHERE d.datname = current_database() ORDER BY r.rolname, c.place
"""


def _settings(connection: psycopg.Connection, target: sql.Identifier) -> Iterator[Belonging]:
    for role, setting in connection.execute(SETTINGS).fetchall():
        parameter, _equals, value = setting.partition("=")
        whose = (
            sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(role), target)
            if role
            else sql.SQL("ALTER DATABASE {}").format(target)
        )
        name = sql.Identifier(*parameter.split("."))
        values = _listed(value) if parameter.lower() in LISTS_OF_NAMES else [value]
        sets = sql.SQL("{} SET {} = {}").format(
            whose, name, sql.SQL(", ").join(map(sql.Literal, values))
        )
        yield Belonging(
            "setting",
            f"{parameter} of {role}" if role else parameter,
            value,
            (_text(sets),),
            (_text(sql.SQL("{} RESET {}").format(whose, name)),),
        )


def _listed(value: str) -> list[str]:
    """The names in a setting's value as the catalogue has it: `app, "a, b"` (SplitGUCList)."""
    return [quoted.replace('""', '"') or plain for quoted, plain in NAME_IN_LIST.findall(value)]


LABELS = """
SELECT l.provider, l.label FROM pg_shseclabel l JOIN pg_database d ON d.oid = l.objoid
 WHERE l.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass
   AND d.datname = current_database() ORDER BY 1
"""


def _labels(connection: psycopg.Connection, target: sql.Identifier) -> Iterator[Belonging]:
    for provider, label in connection.execute(LABELS).fetchall():

        def labels(value: str | None, provider: str = provider) -> tuple[str, ...]:
            statement = sql.SQL("SECURITY LABEL FOR {} ON DATABASE {} IS {}")
            return (_text(statement.format(sql.Identifier(provider), target, sql.Literal(value))),)

        yield Belonging("security label", provider, label, labels(label), labels(None))


# -- rights that new objects will have

DEFAULT_RIGHTS = """
SELECT r.rolname, n.nspname, d.defaclobjtype::text,
       ARRAY(SELECT DISTINCT jsonb_build_array(
                 CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type,
                 a.is_grantable) FROM aclexplode(d.defaclacl) a ORDER BY 1),
       ARRAY(SELECT jsonb_build_array(
                 CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type,
                 a.is_grantable)
               FROM aclexplode(acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's'
                                          ELSE d.defaclobjtype END, d.defaclrole)) a
              WHERE d.defaclnamespace = 0)
  FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole
  LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace ORDER BY 1, 2, 3
"""


def _default_rights(connection: psycopg.Connection) -> Iterator[Belonging]:
    """Those of a schema are added to those of the role, which begin with what PostgreSQL gives."""
    for role, schema, kind, rights, usual in connection.execute(DEFAULT_RIGHTS).fetchall():
        head = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} ").format(sql.Identifier(role))
        if schema:
            head += sql.SQL("IN SCHEMA {} ").format(sql.Identifier(schema))
        on = sql.SQL("ON ") + sql.SQL(OBJECTS[kind])
        holders = {right[0] for right in [*rights, *usual]}
        revoke = (_text(head + _revoking(on, holders)),) if holders else ()
        grants = tuple(_text(head + _granting(on, tuple(right))) for right in rights)
        usually = tuple(_text(head + _granting(on, tuple(right))) for right in usual)
        where = f" in {schema}" if schema else ""
        yield Belonging(
            "default rights",
            f"of {role} on {OBJECTS[kind].lower()}{where}",
            "; ".join(grants),
            revoke + grants,
            revoke + usually,
            is_dumped=True,
        )


def _revoking(on: sql.Composable, roles: Iterable[str | None]) -> sql.Composed:
    names = sql.SQL(", ").join(map(_grantee, sorted(roles, key=lambda role: role or "")))
    return sql.SQL("REVOKE ALL {} FROM {}").format(on, names)


def _granting(on: sql.Composable, right: Right) -> sql.Composed:
    role, privilege, is_grantable = right
    return sql.SQL("GRANT {} {} TO {}{}").format(
        sql.SQL(privilege),
        on,
        _grantee(role),
        sql.SQL(" WITH GRANT OPTION" if is_grantable else ""),
    )


def _grantee(role: str | None) -> sql.Composable:
    return sql.SQL("PUBLIC") if role is None else sql.Identifier(role)


# -- what is shared with other servers

PUBLICATIONS = """
SELECT p.pubname, pg_get_userbyid(p.pubowner), obj_description(p.oid, 'pg_publication'),
       p.puballtables,
       concat_ws(', ', CASE WHEN p.pubinsert THEN 'insert' END, CASE WHEN p.pubupdate THEN 'update' END,
                 CASE WHEN p.pubdelete THEN 'delete' END, CASE WHEN p.pubtruncate THEN 'truncate' END),
       p.pubviaroot, to_jsonb(p)->>'pubgencols',
       ARRAY(SELECT format('TABLE ONLY %I.%I', n.nspname, c.relname) || {part}
               FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = p.oid {schemas}
              ORDER BY 1)
  FROM pg_publication p ORDER BY 1
"""
PART = """
coalesce((SELECT ' (' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')'
            FROM pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs)), '')
|| coalesce(' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')', '')
"""
SCHEMAS = """
UNION ALL SELECT format('TABLES IN SCHEMA %I', n.nspname)
  FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid WHERE s.pnpubid = p.oid
"""
GENERATED_COLUMNS = {"n": "none", "s": "stored"}


def _publications(connection: psycopg.Connection) -> Iterator[Belonging]:
    has_parts = connection.info.server_version >= FIRST_WITH_PARTS_OF_TABLES_PUBLISHED
    query = PUBLICATIONS.format(
        part=PART if has_parts else "''", schemas=SCHEMAS if has_parts else ""
    )
    for row in connection.execute(query.encode()).fetchall():
        name, owner, comment, has_all, actions, is_by_root, generated, members = row
        publication = sql.SQL("PUBLICATION {}").format(sql.Identifier(name))
        options = sql.SQL("publish = {}, publish_via_partition_root = {}").format(
            sql.Literal(actions), sql.Literal(is_by_root)
        )
        if generated:
            options += sql.SQL(", publish_generated_columns = {}").format(
                sql.SQL(GENERATED_COLUMNS[generated])
            )
        makes = [
            sql.SQL("CREATE {}{} WITH ({})").format(
                publication, sql.SQL(" FOR ALL TABLES" if has_all else ""), options
            ),
            *(sql.SQL("ALTER {} ADD {}").format(publication, sql.SQL(m)) for m in members),
            sql.SQL("COMMENT ON {} IS {}").format(publication, sql.Literal(comment)),
            sql.SQL("ALTER {} OWNER TO {}").format(publication, sql.Identifier(owner)),
        ]
        statements = tuple(map(_text, makes))
        drop = _text(sql.SQL("DROP {}").format(publication))
        yield Belonging("publication", name, "; ".join(statements), statements, (drop,))


SHARED = """
SELECT 'subscription', s.subname::text,
       concat_ws(' ', s.subenabled, s.subslotname, s.subpublications, pg_get_userbyid(s.subowner))
  FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
 WHERE d.datname = current_database()
UNION ALL
SELECT 'replication slot', slot_name::text, plugin::text FROM pg_replication_slots
 WHERE database = current_database() AND NOT temporary
 ORDER BY 1, 2
"""


def _with_another_server(connection: psycopg.Connection) -> Iterator[Belonging]:
    for kind, name, value in connection.execute(SHARED).fetchall():
        yield Belonging(kind, name, value)


# -- what an archive holds, and a restore may not make

# The options of a user mapping are secrets, and mostly not to be seen: only their names are read.
DUMPED = """
WITH members AS MATERIALIZED (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')
SELECT 'event trigger', e.evtname::text,
       concat_ws(' ', e.evtevent, e.evttags::text, e.evtfoid::regproc, e.evtenabled)
  FROM pg_event_trigger e
 WHERE e.evtname NOT LIKE 'opsconsole\\_log\\_%'
   AND ('pg_event_trigger'::regclass, e.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT 'statistics', format('%I.%I', n.nspname, s.stxname),
       concat_ws(' ', pg_get_statisticsobjdef(s.oid), s.stxstattarget)
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
 WHERE ('pg_statistic_ext'::regclass, s.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT 'foreign-data wrapper', f.fdwname::text,
       concat_ws(' ', f.fdwhandler::regproc, f.fdwvalidator::regproc, f.fdwoptions::text)
  FROM pg_foreign_data_wrapper f
 WHERE ('pg_foreign_data_wrapper'::regclass, f.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT 'foreign server', s.srvname::text,
       concat_ws(' ', f.fdwname, s.srvtype, s.srvversion, s.srvoptions::text)
  FROM pg_foreign_server s JOIN pg_foreign_data_wrapper f ON f.oid = s.srvfdw
UNION ALL
SELECT 'user mapping', concat(m.usename, ' on ', m.srvname),
       ARRAY(SELECT split_part(o, '=', 1) FROM unnest(m.umoptions) o ORDER BY 1)::text
  FROM pg_user_mappings m
UNION ALL
SELECT 'language', l.lanname::text, concat_ws(' ', l.lanpltrusted, l.lanplcallfoid::regproc)
  FROM pg_language l
 WHERE l.lanispl AND ('pg_language'::regclass, l.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT 'cast', format('%s as %s', c.castsource::regtype, c.casttarget::regtype),
       concat_ws(' ', c.castfunc::regprocedure, c.castcontext, c.castmethod)
  FROM pg_cast c
 WHERE c.oid >= 16384 AND ('pg_cast'::regclass, c.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT 'transform', format('for %s in %s', t.trftype::regtype, l.lanname),
       concat_ws(' ', t.trffromsql::regproc, t.trftosql::regproc)
  FROM pg_transform t JOIN pg_language l ON l.oid = t.trflang
 WHERE ('pg_transform'::regclass, t.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT 'access method', a.amname::text, concat_ws(' ', a.amhandler::regproc, a.amtype)
  FROM pg_am a
 WHERE a.oid >= 16384 AND ('pg_am'::regclass, a.oid) NOT IN (SELECT classid, objid FROM members)
UNION ALL
SELECT 'extension', x.extname::text, x.extversion FROM pg_extension x
UNION ALL
SELECT 'large objects', 'of ' || pg_get_userbyid(m.lomowner),
       string_agg(DISTINCT coalesce(m.lomacl::text, ''), ' ' ORDER BY coalesce(m.lomacl::text, ''))
  FROM pg_largeobject_metadata m GROUP BY m.lomowner
"""


def _dumped(connection: psycopg.Connection) -> Iterator[Belonging]:
    for kind, name, value in connection.execute(DUMPED.encode()).fetchall():
        yield Belonging(kind, name, value or "", is_dumped=True)


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None)
