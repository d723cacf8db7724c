"""People in a real browser: somebody signed in, and a newcomer with an application of their own."""

from __future__ import annotations

import json

from tests.chaos.console import PATIENCE_SECONDS, Console
from tests.migrations_app.test_git import Work

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip


def demo_password(console: Console) -> str:
    return json.loads((console.home / "keys.json").read_text())["demo_password"]


def open_page(browser, **context):
    """A page of a person of their own, who waits as long as a busy machine takes."""
    opened = browser.new_context(**context)
    opened.set_default_timeout(PATIENCE_SECONDS * 1000)
    page = opened.new_page()
    page.problems = []
    return page


def sign_in(console: Console, browser, name: str, **context):
    page = open_page(browser, **context)
    page.on(
        "console",
        lambda said: page.problems.append(said.text) if said.type in {"error", "warning"} else None,
    )
    page.goto(f"{console.url}/")
    give_password(console, page, name)
    return page


def give_password(console: Console, page, name: str) -> None:
    page.get_by_label("Username").fill(name)
    page.get_by_label("Password").fill(demo_password(console))
    page.get_by_role("button", name="Sign in", exact=True).click()


def give_authenticator(page) -> None:
    """A device that makes passkeys, and whose owner always agrees."""
    device = page.context.new_cdp_session(page)
    device.send("WebAuthn.enable")
    about = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    device.send("WebAuthn.addVirtualAuthenticator", {"options": about})


class Newcomer:
    """Somebody with an application of their own: its repository, its database, its /health."""

    def __init__(self, console: Console, name: str) -> None:
        self.name = name
        place = console.home / name
        place.mkdir()
        work = Work(place)
        table = 'CREATE TABLE "users" (id int PRIMARY KEY);\n'
        work.commit({"packages/db/prisma/migrations/20260101000000_init/migration.sql": table})
        self.repository = f"file://{work.bare.rename(place / f'{name}.git')}"
        with console.superuser() as cluster:
            cluster.execute(f"CREATE ROLE {name} LOGIN CREATEDB PASSWORD 'own-password'")
            cluster.execute(f"CREATE DATABASE {name} OWNER {name}")
            host = cluster.info.host
        self.database = f"postgresql://{name}:own-password@/{name}?host={host}"
        self.page = None
        self.acts = {"clicks": 0, "fields": 0}

    def press(self, role: str, name: str) -> None:
        self.acts["clicks"] += 1
        self.page.get_by_role(role, name=name, exact=True).first.click()

    def fill(self, label: str, text: str) -> None:
        self.acts["fields"] += 1
        self.page.get_by_label(label, exact=True).fill(text)

    def see(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()


class ByKeyboard(Newcomer):
    """The same, without a pointer."""

    def press(self, role: str, name: str) -> None:
        self.acts["clicks"] += 1
        self.reach(self.page.get_by_role(role, name=name, exact=True).first)
        self.page.keyboard.press("Enter")

    def fill(self, label: str, text: str) -> None:
        self.acts["fields"] += 1
        self.reach(self.page.get_by_label(label, exact=True))
        self.page.keyboard.press("Control+a")
        self.page.keyboard.type(text)

    def reach(self, wanted) -> None:
        wanted.wait_for()
        for _stop in range(60):
            if wanted.evaluate("one => one === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {wanted}")
