"""Upgrade the database of DATABASE_URL, use every row and page of it, and print what went wrong.

A process of its own, started by `test_upgrade.py`, because settings name one database. It knows
models by their names and pages by their patterns, so that both may move.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import django
from django.apps import apps
from django.core.management import call_command
from django.db import connection, models
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import timezone

from tests import pseudo

ADDRESSES = Path(__file__).parent / "addresses_0.1.txt"
ADMIN, PASSWORD = "admin", "upgrade-0.1"

# Tables that a migration since 0.1 renamed, with their new names.
RENAMED: dict[str, str] = {}
# `table.column` of 0.1 that a migration moves or rewrites on purpose; say why beside each.
REWRITTEN: set[str] = {
    # It meant "asked to be dropped", which is now `drop_requested_at`; a worker looks again.
    "backups_app_replaceddatabase.dropped_at",
    # They belong to the environment's target now.
    "backups_app_restorecheck.environment_id",
    "backups_app_scheduledoccurrence.environment_id",
}

# -- the rows

# Each row as JSON, by its primary key, by its table.
Rows = dict[str, dict[str, dict[str, Any]]]


def rows_of(table: str) -> dict[str, dict[str, Any]]:
    """Every row of a table as JSON, by its primary key."""
    with connection.cursor() as cursor:
        key = connection.introspection.get_primary_key_column(cursor, table)
        cursor.execute(f'SELECT "{key}"::text, to_jsonb(t) FROM "{table}" t')
        return {pk: json.loads(row) for pk, row in cursor.fetchall()}


def all_rows() -> Rows:
    with connection.cursor() as cursor:
        return {name: rows_of(name) for name in connection.introspection.table_names(cursor)}


def lost_values(before: Rows, after: Rows) -> list[str]:
    """What of the rows from before is no longer there, or is no longer the same."""
    return [
        f"{table} {pk}: {problem}"
        for table, rows in before.items()
        for pk, row in rows.items()
        for problem in differences(table, row, after.get(RENAMED.get(table, table), {}).get(pk))
    ]


def differences(table: str, before: dict[str, Any], after: dict[str, Any] | None) -> Iterator[str]:
    if after is None:
        yield "the row is gone"
        return
    for column, value in before.items():
        if f"{table}.{column}" in REWRITTEN:
            continue
        if column not in after:
            yield f"{column} is gone"
        elif after[column] != value:
            yield f"{column} was {value!r} and is {after[column]!r}"


def project_models() -> list[type[models.Model]]:
    root = str(Path(__file__).resolve().parent.parent.parent)
    return [
        model
        for config in apps.get_app_configs()
        if config.path.startswith(root) and "site-packages" not in config.path
        for model in config.get_models()
    ]


def broken_objects() -> list[str]:
    """Rows that cannot be loaded, shown, or that hold a value which no choice names."""
    return [
        f"{model.__name__} {thing.pk}: {problem}"
        for model in project_models()
        for thing in model._default_manager.order_by("pk")
        for problem in problems_of(thing)
    ]


def problems_of(thing: models.Model) -> Iterator[str]:
    asked: dict[str, Callable[[], object]] = {"str": thing.__str__}
    for owner in type(thing).__mro__:
        if owner.__module__.startswith("django."):
            break
        for name, value in vars(owner).items():
            if isinstance(value, property):
                asked[name] = lambda name=name: getattr(thing, name)
    if hasattr(thing, "get_absolute_url"):
        asked["url"] = thing.get_absolute_url
    for name, ask in asked.items():
        try:
            ask()
        except Exception as error:
            yield f"{name}: {type(error).__name__}: {error}"
    for field in thing._meta.concrete_fields:
        value = getattr(thing, field.attname)
        known = {key for key, _word in field.flatchoices}
        if known and value not in known and not (field.blank and value == ""):
            yield f"{field.name}: no choice is {value!r}"


def broken_secrets() -> list[str]:
    """What the console's key no longer opens."""
    from cryptography.fernet import Fernet, InvalidToken
    from django.conf import settings

    box = Fernet(settings.ENCRYPTION_KEYS[0])
    broken, opened = [], 0
    for model in project_models():
        for name in [f.name for f in model._meta.concrete_fields if f.name.endswith("_encrypted")]:
            for pk, token in model._default_manager.exclude(**{name: ""}).values_list("pk", name):
                try:
                    opened += bool(box.decrypt(token.encode()))
                except InvalidToken:
                    broken.append(f"{model.__name__} {pk}: {name}")
    return broken if opened else ["nothing is sealed"]


# -- the pages

PARAMETER = re.compile(r"<(?:(?P<converter>\w+):)?(?P<name>\w+)>")
# Whose key a number is, by the part of the address before it; elsewhere the part names the model.
SEGMENTS = {
    "audit": "AuditEvent",
    "replaced": "ReplacedDatabase",
    "connections": "Environment",
    "checks": "HealthCheck",
    "check": "RestoreCheck",
    "samples": "HealthResult",
    "sources": "Draft",
    "people": "User",
    "sessions": "OpenSession",
}
# A row with one of these is no longer shown: its pages may be gone, too.
HIDDEN = ("archived_at", "dropped_at", "undone_at")
# Only in debug mode, and only where a contact is set.
SELDOM_THERE = {"styleguide", ".well-known/security.txt"}
# For whoever was handed the address: it is of no object that a page shows.
HANDED_OUT = {"sign-in/link/<uidb64>/<token>"}
# Of what a person has only who has added it.
OF_FACTORS = {
    "preferences/factors/app/remove",
    "preferences/factors/codes",
    "preferences/factors/passkeys/<int:pk>",
    "preferences/factors/passkeys/<int:pk>/remove",
}
OWNERS = {"application", "backup", "environment", "target"}
# Of pages about an object that are not its own (a form, a fragment, a download): so many objects.
SAMPLE = 6


def patterns(
    resolver: URLResolver | None = None, before: str = ""
) -> Iterator[tuple[str, URLPattern]]:
    """Each pattern of the console with its whole route."""
    for entry in (resolver or get_resolver()).url_patterns:
        route = before + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from patterns(entry, route)
        else:
            yield route, entry


def model_of(route: str, parameter: re.Match[str]) -> type[models.Model] | None:
    """Which model a parameter of a route stands for."""
    segment = route[: parameter.start()].rstrip("/").rpartition("/")[2]
    named = {model.__name__.lower(): model for model in project_models()}
    wanted = parameter["name"].removesuffix("_id")
    if wanted in {"pk", "id", "slug"} or wanted not in named:
        wanted = SEGMENTS.get(segment, segment.removesuffix("s")).lower()
    return named.get(wanted)


def is_hidden(thing: models.Model) -> bool:
    if any(getattr(thing, name, None) for name in HIDDEN):
        return True
    if getattr(thing, "swapped_at", True) is None:
        return True
    owners = (f for f in thing._meta.concrete_fields if f.name in OWNERS and f.db_constraint)
    return any(is_hidden(getattr(thing, field.name)) for field in owners)


def choices(
    route: str, parameters: list[re.Match[str]], chosen: tuple[models.Model, ...] = ()
) -> Iterator[tuple[list[object], tuple[models.Model, ...]]]:
    """Every way to fill a route with this database's objects: the values, and the objects."""
    if not parameters:
        yield [], chosen
        return
    first, *rest = parameters
    if first["converter"] == "str" and first["name"] == "name":
        for name in migrations_of(chosen[-1]):
            for values, things in choices(route, rest, chosen):
                yield [name, *values], things
        return
    model = model_of(route, first)
    if model is None:
        raise LookupError(f"{route}: say in SEGMENTS what {first.group()} stands for")
    for thing in model._default_manager.filter(**belongs(model, chosen)).order_by("pk"):
        value = thing.pk if first["converter"] == "int" else thing.slug
        for values, things in choices(route, rest, (*chosen, thing)):
            yield [value, *values], things


def belongs(model: type[models.Model], chosen: tuple[models.Model, ...]) -> dict[str, object]:
    """A row behind another in an address belongs to that other."""
    by_type = {type(thing): thing for thing in chosen}
    return {
        field.name: by_type[field.related_model]
        for field in model._meta.concrete_fields
        if field.is_relation and field.related_model in by_type
    }


def migrations_of(environment: models.Model) -> list[str]:
    state = environment.targets.get().latest_state
    return [m["name"] for m in state.data.get("migrations", [])] if state else []


class Reader:
    """A signed-in admin who remembers what each address answered."""

    def __init__(self) -> None:
        self.client = Client(raise_request_exception=False, headers=pseudo.ASKS_FOR_IT)
        assert self.client.login(username=ADMIN, password=PASSWORD), "the admin cannot sign in"
        self.answers: dict[str, tuple[int, str]] = {}
        self.texts: dict[pseudo.Text, str] = {}

    def ask(self, address: str) -> tuple[int, str]:
        """The status of an address, and where it sends the reader."""
        if address not in self.answers:
            answer = self.client.get(address)
            if answer.streaming:
                b"".join(answer.streaming_content)
            elif answer.headers.get("Content-Type", "").startswith("text/html"):
                self.read(address, answer.content.decode())
            self.answers[address] = answer.status_code, answer.headers.get("Location", "")
        return self.answers[address]

    def read(self, address: str, html: str) -> None:
        """Keep each text of a page in the made-up language, with where it was seen first."""
        for text in pseudo.texts_of(html):
            self.texts.setdefault(text, address)

    def ends_at(self, address: str) -> int:
        """The status after all redirects within the console."""
        for _step in range(5):
            status, address = self.ask(address)
            if status not in {301, 302, 303, 307, 308}:
                return status
        return status


def broken_pages(reader: Reader) -> list[str]:
    problems = []
    for route, _pattern in patterns():
        parameters = list(PARAMETER.finditer(route))
        if route in HANDED_OUT | OF_FACTORS or (
            parameters and is_post_only(reader, route, parameters)
        ):
            continue
        try:
            problems += broken_pages_of(reader, route, parameters)
        except LookupError as error:
            problems.append(str(error))
    return problems


def is_post_only(reader: Reader, route: str, parameters: list[re.Match[str]]) -> bool:
    numbers = ["1" if p["converter"] == "int" else "x" for p in parameters]
    return reader.ask(fill(route, numbers))[0] == 405


def broken_pages_of(reader: Reader, route: str, parameters: list[re.Match[str]]) -> list[str]:
    is_own_page = not parameters or route.endswith(">")
    found = list(choices(route, parameters))
    spread = [] if is_own_page else found[:: max(1, len(found) // SAMPLE)]
    problems, good = [], 0
    for values, things in [*spread, *found]:
        if not is_own_page and good >= SAMPLE:
            break
        status, _where = reader.ask(fill(route, values))
        good += status in {200, 302}
        if status == 404 and (not is_own_page or any(is_hidden(thing) for thing in things)):
            continue
        if status == 404 and route in SELDOM_THERE:
            continue
        # What a page refuses in the console's own words is an answer, too.
        if status not in {200, 204, 302, 405, 409}:
            problems.append(f"/{route} {values}: {status}")
    if parameters and found and not good:
        problems.append(f"/{route}: answers for no object")
    return problems


def fill(route: str, values: list[object]) -> str:
    rest = iter(values)
    return "/" + PARAMETER.sub(lambda _match: str(next(rest)), route)


def broken_addresses(reader: Reader) -> list[str]:
    """Of the addresses that pages of 0.1 linked to, those that no longer lead to a page."""
    return [
        f"{address}: {status}"
        for address in ADDRESSES.read_text().split()
        if (status := reader.ends_at(address)) != 200
    ]


def unmarked_texts(reader: Reader) -> list[str]:
    """What the pages say that is neither marked for translation nor read from a row."""
    data = pseudo.Data(pseudo.stored_texts())
    return [
        f"{address}: {text.shown}"
        for text, address in reader.texts.items()
        if not data.is_all_of(text.outside)
    ]


# -- all of it


def keep_templates() -> None:
    """Parse each template once: hundreds of pages are read here."""
    from django.conf import settings

    options = settings.TEMPLATES[0]["OPTIONS"]
    if loaders := options.get("loaders"):
        options["loaders"] = [("django.template.loaders.cached.Loader", loaders)]


def workers_are_back() -> None:
    """The console's own health page asks whether a worker lives, and since when."""
    for model in project_models():
        if model.__name__ == "Worker":
            model._default_manager.update(started_at=timezone.now(), last_seen_at=timezone.now())


def missing_migrations() -> list[str]:
    said = StringIO()
    try:
        call_command("makemigrations", check=True, dry_run=True, stdout=said)
    except SystemExit:
        return said.getvalue().splitlines()
    return []


def main() -> None:
    django.setup()
    keep_templates()
    before = all_rows()
    call_command("migrate", verbosity=0, interactive=False)
    report = {
        "missing migrations": missing_migrations(),
        "rows": lost_values(before, all_rows()),
        "objects": broken_objects(),
        "secrets": broken_secrets(),
    }
    workers_are_back()
    with pseudo.spoken():
        reader = Reader()
        report["pages"] = broken_pages(reader)
        report["addresses"] = broken_addresses(reader)
    report["texts"] = unmarked_texts(reader)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
