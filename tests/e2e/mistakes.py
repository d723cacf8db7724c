"""Mistakes that people made with the console: each is made again in a real browser, and mended by
what the page says. A script takes somebody who is signed in as an admin."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.chaos.console import Console
from tests.e2e.people import Newcomer

MISTAKES: list[Callable[[Person], None]] = []
OTHER_TABLE = "CREATE TABLE orders (id int)"


def mistake(script: Callable[[Person], None]) -> Callable[[Person], None]:
    MISTAKES.append(script)
    return script


class Person(Newcomer):
    """Somebody with an application of their own, called Own, whose database is production."""

    def __init__(self, console: Console, page) -> None:
        super().__init__(console, "own")
        self.console, self.page = console, page
        self.go("/settings/applications/add")
        self.fill("Repository or folder", self.repository)
        self.press("button", "Look for migrations")
        self.press("button", "Add the application")
        self.page.get_by_label("Database address", exact=True).wait_for()
        self.add_path = re.sub("^https?://[^/]*", "", self.page.url)

    def go(self, path: str) -> None:
        self.page.goto(self.console.url + path)

    def told(self, why: dict[str, str]) -> None:
        """By label: the form says so at the top, which has the focus, and at each field, where its
        link leads."""
        summary = self.page.locator(".callout.bad[role=alert]")
        summary.wait_for()
        self.page.wait_for_function(
            "one => one === document.activeElement", arg=summary.element_handle()
        )
        for label, text in why.items():
            summary.get_by_role("link", name=label, exact=True).first.press("Enter")
            field = self.page.locator("main :focus")
            assert field.get_attribute("aria-invalid") == "true"
            names = field.evaluate(
                "one => (one.closest('fieldset[aria-describedby]') ?? one)"
                ".getAttribute('aria-describedby').split(' ')"
            )
            said = [self.page.locator(f"[id='{name}']").inner_text() for name in names]
            assert [each for each in said if text in each], (text, said)

    def database_of(self, name: str, sql: str = "") -> str:
        """The address of a new database that has what `sql` makes."""
        with self.console.superuser() as cluster:
            cluster.execute(f"CREATE DATABASE {name} OWNER own")
            host = cluster.info.host
        address = f"postgresql://own:own-password@/{name}?host={host}"
        if sql:
            with self.console.superuser(name) as database:
                database.execute(f"SET ROLE own; {sql}")
        return address

    def test(self, address: str, name: str = "") -> None:
        self.fill("Database address", address)
        if name:
            self.fill("Name", name)
        again = self.page.get_by_role("button", name="Test it again")
        self.press("button", "Test it again" if again.count() else "Test it")

    def find(self, words: str) -> None:
        self.go("/")
        self.page.keyboard.press("Control+k")
        self.page.keyboard.type(words)
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")

    def has_production(self) -> None:
        """They have added their first environment, which nothing was done with."""
        with self.console.database() as connection:
            if connection.execute(
                "SELECT 1 FROM opsconsole_environment e JOIN opsconsole_application a"
                " ON a.id = e.application_id WHERE a.slug = 'own' AND e.slug = 'production'"
            ).fetchone():
                return
        self.go(self.add_path)
        self.test(self.database_of("own_production"), "Production")
        self.see("It works.")
        self.press("button", "Add the environment")
        self.see("First steps")

    def discard(self) -> None:
        self.press("button", "Discard this draft")
        self.see("Discarded, and what was typed with it.")


@mistake
def folder_without_migrations(person: Person) -> None:
    person.go("/settings/applications/add")
    person.fill("Repository or folder", str(person.console.home / "demo/backups"))
    (person.console.home / "demo/backups").mkdir(exist_ok=True)
    person.press("button", "Look for migrations")
    person.see("No migrations")
    person.fill("Repository or folder", str(person.console.home / "demo"))
    person.press("button", "Look again")
    person.see("sales-commission/prisma/migrations: Prisma")
    person.discard()


@mistake
def folder_that_is_not_allowed(person: Person) -> None:
    place = Path(f"{person.console.home}-elsewhere")
    file = place / "prisma/migrations/1_init/migration.sql"
    file.parent.mkdir(parents=True)
    file.write_text("SELECT 1;")
    person.go("/settings/applications/add")
    person.fill("Repository or folder", str(place))
    person.press("button", "Look for migrations")
    person.see(f"manage.py ops allow-folder {place}")
    person.console.ops("allow-folder", str(place))
    person.press("button", "Look again")
    person.see("prisma/migrations: Prisma, 1 migration")
    person.discard()


@mistake
def repository_that_is_not_there(person: Person) -> None:
    person.go("/settings/applications/add")
    person.fill("Repository or folder", person.repository.replace("own.git", "owm.git"))
    person.press("button", "Look for migrations")
    person.see("does not appear to be a git repository")
    person.fill("Repository or folder", person.repository)
    person.press("button", "Look again")
    person.see("packages/db/prisma/migrations: Prisma, 1 migration")
    person.discard()


@mistake
def no_address(person: Person) -> None:
    person.go(person.add_path)
    person.press("button", "Test it")
    person.told({"Database address": "Say where the database is."})
    person.test(person.database)
    person.see("It works.")
    person.discard()


@mistake
def wrong_password(person: Person) -> None:
    person.go(person.add_path)
    person.test(person.database.replace("own-password", "another"))
    person.see("password authentication failed")
    person.test(person.database)
    person.see("It works.")
    assert person.page.get_by_text("password authentication failed").count() == 0
    person.discard()


@mistake
def database_of_another_environment(person: Person) -> None:
    person.go(person.add_path)
    person.test(person.console.application_dsn())
    person.see("two environments on one database are refused")
    person.test(person.database)
    person.see("It works.")
    person.discard()


@mistake
def database_without_a_history(person: Person) -> None:
    history = (
        "CREATE TABLE _prisma_migrations (id varchar(36) PRIMARY KEY, checksum varchar(64) NOT NULL,"
        " finished_at timestamptz, migration_name varchar(255) NOT NULL, logs text,"
        " rolled_back_at timestamptz, started_at timestamptz NOT NULL DEFAULT now(),"
        " applied_steps_count integer NOT NULL DEFAULT 0)"
    )
    person.go(person.add_path)
    person.test(person.database_of("own_old", 'CREATE TABLE "users" (id int PRIMARY KEY)'))
    person.see("20260101000000_init/migration.sql would fail to create it.")
    person.see("npx prisma migrate resolve --applied 20260101000000_init")
    with person.console.superuser("own_old") as database:
        database.execute(f"SET ROLE own; {history}")
        database.execute(
            "INSERT INTO _prisma_migrations (id, checksum, finished_at, migration_name)"
            " VALUES ('1', encode(sha256(%s), 'hex'), now(), '20260101000000_init')",
            [b'CREATE TABLE "users" (id int PRIMARY KEY);\n'],
        )
    person.press("button", "Test it again")
    person.see("It works.")
    person.see("1 migration, 0 pending")
    person.discard()


@mistake
def role_with_too_many_rights(person: Person) -> None:
    with person.console.superuser() as cluster:
        cluster.execute("CREATE ROLE mighty LOGIN SUPERUSER PASSWORD 'own-password'")
    person.go(person.add_path)
    person.test(person.database.replace("//own:", "//mighty:"))
    person.see("It works, with a risk:")
    person.see("Give the address of a role that owns this database and may create databases.")
    person.test(person.database)
    person.see("It works.")
    assert person.page.get_by_text("is a superuser").count() == 0
    person.discard()


@mistake
def production_without_a_thought_of_its_checklist(person: Person) -> None:
    person.has_production()
    person.go("/applications/own/production")
    person.see("protected")
    person.press("link", "Migrate production: 1 pending")
    person.page.get_by_label("The team knows the time of this change").check()
    person.press("button", "Migrate production: 1 pending")
    person.told({"The team knows the time of this change": "Say how you know."})
    for note in person.page.get_by_label("How do you know?").all():
        note.fill("said in the channel")
    for tick in person.page.locator(".checklist [type=checkbox]").all():
        tick.check()
    person.page.get_by_label("Type production to confirm").fill("Production")
    person.press("button", "Migrate production: 1 pending")
    person.told({"Type production to confirm": "Type production, the environment's short name."})
    person.page.get_by_label("Type production to confirm").fill("production")
    person.press("button", "Migrate production: 1 pending")
    person.see("1 migration was applied to production")


@mistake
def name_that_is_taken(person: Person) -> None:
    person.has_production()
    person.go(person.add_path)
    person.test(person.database, "Production")
    person.told({"Name": "This application already has such an environment."})
    person.fill("Name", "Next")
    person.press("button", "Test it again")
    person.see("It works.")
    person.discard()


@mistake
def restore_without_saying_what_it_replaces(person: Person) -> None:
    person.has_production()
    person.console.ops("backup", "own/production", "--wait")
    person.go("/applications/own/production")
    person.page.locator("section:has(#backups) a[href^='/backups/']").first.click()
    person.press("link", "Restore…")
    person.press("button", "Restore")
    person.told({"How": "Say whether the live database is replaced."})
    person.page.get_by_label("As a new database beside the live one").check()
    person.press("button", "Restore")
    person.told({"Name of the new database": "Name the new database."})
    person.page.get_by_label("Replace the live database").check()
    person.fill("Why", "to look at it")
    person.press("button", "Restore")
    person.told({"Type production to confirm": "production"})
    person.page.get_by_label("As a new database beside the live one").check()
    person.fill("Name of the new database", "own_beside")
    person.press("button", "Restore")
    person.page.get_by_role("heading", name="Succeeded").wait_for()
    with person.console.superuser("own_beside") as database:
        assert database.execute("SELECT current_database()").fetchone() == ("own_beside",)


@mistake
def schedule_and_size_that_cannot_be(person: Person) -> None:
    person.has_production()
    person.go("/applications/own/production/backup-policy")
    person.fill("Back up at", "0 25 * * *")
    person.fill("Delete the oldest beyond", "20")
    person.press("button", "Preview")
    person.told(
        {
            "Back up at": "25 is no hour",
            "Delete the oldest beyond": "Give a size with its unit, such as 20 GB.",
        }
    )
    person.fill("Back up at", "0 3 * * *")
    person.fill("Delete the oldest beyond", "20 GB")
    person.press("button", "Preview")
    person.press("button", "Save this policy")
    person.see("Saved.")


@mistake
def search_by_what_one_remembers(person: Person) -> None:
    person.has_production()
    person.console.ops("backup", "own/production", "--reason", "quarter end", "--wait")
    person.find("quarter end")
    person.press("link", "Search the audit trail for “quarter end”")
    person.page.locator("main table", has_text="quarter end").wait_for()
    person.find("own production")
    person.page.wait_for_url("**/applications/own/production")
