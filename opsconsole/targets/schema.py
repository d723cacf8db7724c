"""The canonical schema: one line per object, so that two schemas can be compared as sets."""

from __future__ import annotations

import hashlib

import psycopg

OBJECTS = """
WITH spaces AS (
  SELECT oid, nspname FROM pg_namespace
   WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\\_%'
)
SELECT format('table %s.%s', n.nspname, c.relname), '' FROM pg_class c JOIN spaces n
    ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'f')
UNION ALL
SELECT format('column %s.%s.%s', n.nspname, c.relname, a.attname),
       format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
       || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
       || CASE a.attidentity WHEN '' THEN '' ELSE ' identity ' || a.attidentity::text END
       || CASE a.attgenerated WHEN '' THEN '' ELSE ' generated ' || a.attgenerated::text END
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN spaces n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relkind IN ('r', 'p', 'f') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT format('index %s.%s on %s', n.nspname, i.relname, t.relname),
       pg_get_indexdef(i.oid) || CASE WHEN x.indisvalid THEN '' ELSE ' INVALID' END
  FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
  JOIN spaces n ON n.oid = i.relnamespace
UNION ALL
SELECT format('constraint %s on %s.%s', k.conname, n.nspname, c.relname),
       pg_get_constraintdef(k.oid) || CASE WHEN k.convalidated THEN '' ELSE ' NOT VALID' END
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN spaces n ON n.oid = c.relnamespace
 WHERE k.contype <> 'n'
UNION ALL
SELECT format('view %s.%s', n.nspname, c.relname), pg_get_viewdef(c.oid) FROM pg_class c
  JOIN spaces n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm')
UNION ALL
SELECT format('sequence %s.%s', n.nspname, c.relname), '' FROM pg_class c
  JOIN spaces n ON n.oid = c.relnamespace WHERE c.relkind = 'S'
UNION ALL
SELECT format('function %s.%s(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
       md5(CASE WHEN p.prokind = 'a' THEN '' ELSE pg_get_functiondef(p.oid) END)
  FROM pg_proc p JOIN spaces n ON n.oid = p.pronamespace
UNION ALL
SELECT format('trigger %s on %s.%s', g.tgname, n.nspname, c.relname), pg_get_triggerdef(g.oid)
  FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN spaces n ON n.oid = c.relnamespace
 WHERE NOT g.tgisinternal
UNION ALL
SELECT format('enum %s.%s', n.nspname, t.typname), string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
  FROM pg_type t JOIN spaces n ON n.oid = t.typnamespace JOIN pg_enum e ON e.enumtypid = t.oid
 GROUP BY n.nspname, t.typname
"""


def read_schema(connection: psycopg.Connection) -> dict[str, str]:
    """`{object: definition}` of everything the users made in the connected database."""
    return {str(row[0]): str(row[1] or "") for row in connection.execute(OBJECTS)}


def schema_hash(schema: dict[str, str]) -> str:
    text = "\n".join(f"{name} {schema[name]}" for name in sorted(schema))
    return hashlib.sha256(text.encode()).hexdigest()


def schema_changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Lines `+ object`, `- object`, `~ object: old -> new`, sorted by object."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            lines.append(f"+ {name} {after[name]}".rstrip())
        elif name not in after:
            lines.append(f"- {name}")
        elif before[name] != after[name]:
            lines.append(f"~ {name}: {before[name]} -> {after[name]}")
    return lines


def invalid_indexes(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1"
    ).fetchall()
    return [row[0] for row in rows]
