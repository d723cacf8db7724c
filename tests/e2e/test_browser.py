"""A new user in a real browser: from signing in to a migrated staging, and every page with axe."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest

from tests.access.test_second_factors import code_of
from tests.chaos.conftest import console  # noqa: F401  (the running console as a fixture)
from tests.e2e.mistakes import MISTAKES, Person
from tests.e2e.people import (
    FLAGS,
    ByKeyboard,
    Newcomer,
    demo_password,
    give_authenticator,
    give_password,
    open_page,
    sign_in,
)
from tests.toolbox import chromium

pytestmark = [pytest.mark.needs_browser, pytest.mark.chaos]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield running
        running.close()


SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
  if (!document.querySelector(".run-status[hx-get]")) return;
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry.value);
}).observe({ type: "layout-shift", buffered: true });
"""


def test_new_operator_migrates_staging_and_finds_every_trace(console, browser):  # noqa: F811
    page = sign_in(console, browser, "operator", viewport={"width": 1280, "height": 900})
    page.add_init_script(SHIFTS)
    page.get_by_role("link", name="Staging", exact=True).click()
    assert "parent_target_id" in page.locator("details[open] .sql").inner_text()

    page.get_by_role("link", name="Migrate staging: 2 pending").click()
    page.get_by_label("Reason").fill("quarter end")
    with console.traffic():
        page.get_by_role("button", name="Migrate staging: 2 pending").click()

        page.wait_for_url("**/runs/*")
        page.locator("[data-log] li[id]").nth(3).wait_for()
        page.get_by_text("Succeeded").first.wait_for()
    page.get_by_role("button", name="Cancel run").wait_for(state="detached")
    # web.dev/articles/cls: the sum of what moved by itself, while the run was live. By hand, on a
    # machine that has nothing else to do: what is drawn late elsewhere may move there.
    if os.environ.get("OPSCONSOLE_TEST_LONG"):
        assert page.evaluate("shifts.reduce((sum, one) => sum + one, 0)") < 0.02
    log = page.locator("[data-log]").inner_text()
    assert "content equal" in log
    page.get_by_label("Find in the log").fill("health after")
    assert page.locator("[data-log] li.found").count() >= 2
    # What was live stays open; a head folds its step by keyboard, and what leads there unfolds it.
    migrated = page.locator("[data-log] details", has_text="migrate: 20250728101500_add_parent")
    head, line = migrated.locator("summary"), migrated.locator("li").first
    assert "Migrate, Succeeded" in head.text_content()
    assert line.is_visible()
    head.press("Enter")
    assert not line.is_visible()
    page.locator(".steps").get_by_role("link", name="Migrate").click()
    page.wait_for_function("document.activeElement.matches('summary')")
    assert line.is_visible()
    page.get_by_role("button", name="Fold all", exact=True).click()
    assert not line.is_visible()
    page.get_by_label("Find in the log").fill("migrate: 20250728101500")
    assert line.is_visible()
    address = page.url.partition("#")[0]
    page.goto(address)
    assert not line.is_visible()
    page.emulate_media(media="print")
    assert line.is_visible()
    page.emulate_media(media="screen")
    page.goto(f"{address}#L1")
    page.get_by_role("link", name="Line 1", exact=True).click()
    assert page.url.endswith("#L1")
    assert page.title().startswith("✓ Migrate staging")

    page.get_by_role("link", name="Staging", exact=True).click()
    page.get_by_text("Up to date: nothing is pending.").wait_for()
    assert "content equal" in page.locator("section:has(#backups)").inner_text()
    assert "200 healthy" in page.locator("section:has(#health)").inner_text()
    page.get_by_role("link", name="Audit").click()
    table = page.locator("table").inner_text()
    assert "requested run" in table
    assert "quarter end" in table
    assert page.problems == []


DEMO = "/applications/sales-commission"
STAGING = f"{DEMO}/staging"

PATHS = (
    "/", STAGING, f"{DEMO}/production/migrate", "/runs", "/runs/1",
    "/backups", "/backups/1", "/backups/1/restore", "/audit", "/audit/1", "/settings", "/preferences",
    "/preferences/factors", "/preferences/sessions", "/settings/people/2/sessions",
    "/settings/applications/add", "/settings/applications/1/environments/1",
    "/settings/environments/1/checks/add", "/settings/connections/1", "/settings/people/add",
    f"{STAGING}/backup-policy", "/settings/storages/add", "/settings/storages/1",
    "/settings/storages/1/test", "/settings/roles/add", "/find?q=parent", "/nothing/here",
    f"{STAGING}/migrations/20250105090000_init",
    f"{DEMO}/production/migrations/20250728101500_add_parent_target_relationship",
    "/settings/applications/1/lint",
)  # fmt: skip


# What a look changes is all that is asked of it again.
LOOKS: dict[str, tuple[int, str, dict]] = {
    "light": (1280, "light", {"type": "tag", "values": RULES}),
    "dark": (1280, "dark", {"type": "rule", "values": ["color-contrast"]}),
    "narrow": (
        320,
        "light",
        {
            "type": "rule",
            "values": ["color-contrast", "target-size", "scrollable-region-focusable"],
        },
    ),
}
WIDTHS = (
    320, 360, 390, 480, 560, 641, 700, 768, 834, 900, 960, 1024, 1100, 1280, 1440, 1680, 1920,
)  # fmt: skip
if not os.environ.get("OPSCONSOLE_TEST_LONG"):
    # One of each layout; all of them by hand.
    WIDTHS = (320, 641, 900, 1280)
WIDE = """() => {
  const beyond = [...document.querySelectorAll("main .card *")].filter((one) => {
    const scrolls = one.closest("pre, .term, .table-wrap, .scroll-x, .visually-hidden, svg, [hidden]");
    const box = one.getBoundingClientRect();
    return !scrolls && box.width && box.right > one.closest(".card").getBoundingClientRect().right + 1;
  });
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  return [wide, ...beyond.slice(0, 2).map((one) => one.outerHTML.slice(0, 90))];
}"""


def axe_problems(page, rules: dict | None = None) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    result = Axe().run(page, options={"runOnly": rules or LOOKS["light"][2]})
    return [
        f"{v['id']}: {n['html'][:120]}"
        for v in result.response["violations"]
        for n in v["nodes"][:3]
    ]


def test_every_page_passes_axe_in_each_look_and_fits_at_any_width(console, browser):  # noqa: F811
    page = sign_in(console, browser, "admin", viewport={"width": 1280, "height": 900})
    found = {}
    for path in (*PATHS, DEMO):
        page.goto(console.url + path)
        if path.endswith("/migrate"):
            page.get_by_role("heading", name="What will happen").wait_for()
        for look, (width, scheme, rules) in LOOKS.items():
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            found[f"{path}, {look}"] = axe_problems(page, rules)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            wide, *beyond = page.evaluate(WIDE)
            found[f"{path} at {width}"] = [f"{wide} px too wide"] * (wide > 0) + beyond
    found = {where: problems for where, problems in found.items() if problems}
    assert found == {}, json.dumps(found, indent=1)


def test_sign_in_page_passes_axe(console, browser):  # noqa: F811
    page = open_page(browser)
    page.goto(f"{console.url}/sign-in")
    assert axe_problems(page) == []


@pytest.mark.parametrize(("kind", "name"), [(Newcomer, "shop"), (ByKeyboard, "books")])
def test_newcomer_adds_an_application_and_migrates_it(console, browser, kind, name):  # noqa: F811
    someone = kind(console, name)
    with console.database() as connection:
        health = connection.execute(
            "SELECT address FROM opsconsole_healthcheck WHERE kind = 'http' LIMIT 1"
        ).fetchone()[0]
    page = someone.page = open_page(browser, viewport={"width": 1280, "height": 800})
    page.goto(f"{console.url}/")
    someone.fill("Username", "admin")
    someone.fill("Password", demo_password(console))
    someone.press("button", "Sign in")
    someone.press("link", "Add application")
    someone.fill("Repository or folder", someone.repository)
    someone.press("button", "Look for migrations")
    someone.see("packages/db/prisma/migrations: Prisma, 1 migration")
    assert axe_problems(page) == []
    someone.press("button", "Add the application")
    someone.fill("Database address", someone.database)
    someone.press("button", "Test it")
    someone.see("It works.")
    assert axe_problems(page) == []
    someone.press("button", "Add the environment")
    someone.see("First steps")
    assert axe_problems(page) == []
    someone.press("link", "Add a health check")
    someone.fill("Address or query", health)
    someone.press("button", "Save")
    someone.press("button", "Back up now")
    someone.see("content equal")
    someone.press("link", "Staging")
    someone.press("link", "Migrate staging: 1 pending")
    someone.press("button", "Migrate staging: 1 pending")
    someone.see("1 migration was applied to staging")
    assert someone.acts == {"clicks": 12, "fields": 5}


def test_passkey_app_and_recovery_code_let_a_person_in(console, browser):  # noqa: F811
    page = open_page(browser, viewport={"width": 1280, "height": 800})
    found = {}

    def look(where: str) -> None:
        found[where] = axe_problems(page)

    def press(name: str, role: str = "button") -> None:
        page.get_by_role(role, name=name, exact=True).first.click()

    def sign_out() -> None:
        page.goto(f"{at}/preferences")
        page.locator("form[action='/sign-out'] button").dispatch_event("click")
        page.get_by_label("Username").wait_for()

    # Browsers make passkeys for names, not for numbers.
    at = console.url.replace("127.0.0.1", "localhost")
    give_authenticator(page)
    page.goto(f"{at}/preferences/factors")
    give_password(console, page, "viewer")
    look("no factor")
    press("Add a passkey", "link")
    look("adding a passkey")
    page.get_by_label("Name").fill("Laptop")
    press("Add the passkey")
    page.get_by_role("heading", name="Recovery codes").wait_for()
    look("recovery codes")
    code = page.locator(".codes li").first.inner_text()
    press("I have kept them", "link")
    page.get_by_text("Laptop").wait_for()
    look("a passkey")

    sign_out()
    press("Sign in with a passkey")
    page.get_by_role("heading", name="Home").wait_for()

    page.goto(f"{at}/preferences/factors/app")
    look("adding an app")
    secret = page.locator(".copyable").inner_text()
    page.get_by_label("Authenticator code").fill(code_of(secret, -1))
    press("Add the app")
    page.get_by_role("link", name="Remove the app").wait_for()

    sign_out()
    give_password(console, page, "viewer")
    page.get_by_role("heading", name="One more step").wait_for()
    look("one more step")
    press("Use a passkey")
    page.get_by_role("heading", name="Home").wait_for()

    for given in (code_of(secret), code):
        sign_out()
        give_password(console, page, "viewer")
        page.get_by_label("Code").fill(given)
        press("Sign in")
        page.get_by_role("heading", name="Home").wait_for()

    for other in ("", "/code", "/passkey"):
        page.goto(f"{at}/preferences/confirm{other}?next=/preferences/factors")
        look(f"confirming{other}")
    press("Use a passkey")
    page.get_by_text("9 codes are left").wait_for()
    press("Remove Laptop", "link")
    press("Remove it")
    press("Remove the app", "link")
    press("Remove it")
    page.get_by_role("link", name="Add an app").wait_for()
    sign_out()
    give_password(console, page, "viewer")
    page.get_by_role("heading", name="Home").wait_for()
    found = {where: problems for where, problems in found.items() if problems}
    assert found == {}, json.dumps(found, indent=1)


@pytest.fixture(scope="module")
def person(console, browser) -> Person:  # noqa: F811
    page = sign_in(console, browser, "admin", viewport={"width": 1280, "height": 800})
    return Person(console, page)


# By hand: a worker that is busy with others takes its time to try what is typed here.
@pytest.mark.long
@pytest.mark.parametrize("script", MISTAKES, ids=lambda script: script.__name__)
def test_mistake_is_mended_by_what_the_page_says(person, script):
    person.page.problems.clear()
    script(person)
    # Refused forms are what it is about.
    assert [said for said in person.page.problems if "status of 422" not in said] == []


# What somebody has to know within seconds, and where it stands: of a console in which a migration
# broke the application while others wrote.
RUN = "/runs/{run}"
QUESTIONS = {
    "what is wrong": ("/", "Run {run} needs a decision: Migrate staging"),
    "is it only the database": ("/", "The application is unhealthy."),
    "what do I do": ("/", "Decide"),
    "why did it end so": (RUN, "Health failed: GET /health: 500 unhealthy"),
    "what is in the database now": (RUN, "All migrations are applied"),
    "what would I lose": (RUN, "rows written by others since the backup"),
    "is there a way back": (RUN, "Swap backup {backup} in"),
    "who changed this": (RUN, "Asked by admin"),
    "is the application healthy": (STAGING, "Unhealthy"),
    "when is the next backup": (STAGING, "next "),
    "may I migrate production": (f"{DEMO}/production", "Migrate production: "),
    "did somebody change the schema": (f"{DEMO}/production", "as expected"),
}


def test_answers_stand_in_the_first_screen_and_the_first_two_of_a_phone(console, browser):  # noqa: F811
    console.reset()
    client = console.sign_in("admin")
    fields = {
        "backup_cron": "30 2 * * *", "time_zone": "UTC", "verify_level": "3", "format": "custom",
        "storage": "1", "level": "1", "jobs": "1", "minimum_kept": "1", "grace_days": "7",
        "alarm_hours": "48",
    }  # fmt: skip
    preview = console.post(client, f"{STAGING}/backup-policy", **fields)
    confirmed = re.search(r'name="confirmed" value="(\w+)"', preview.text)[1]
    saved = console.post(client, f"{STAGING}/backup-policy", confirmed=confirmed, **fields)
    assert saved.status_code == 302, saved.text
    console.ops("demo", "break-health")
    with console.traffic():
        run = console.migrate_to_attention()
        about = {"run": run["id"], "backup": run["backup"]}
        page = sign_in(console, browser, "admin", viewport={"width": 1280, "height": 800})
        far = {}
        for width, most in ((1280, 800), (320, 1600)):
            page.set_viewport_size({"width": width, "height": 800})
            for question, (path, answer) in QUESTIONS.items():
                page.goto(console.url + path.format(**about))
                shown = page.locator("main").get_by_text(answer.format(**about)).first
                box = shown.bounding_box()
                if box is None or box["y"] + box["height"] > most:
                    far[f"{question} at {width}"] = box
        page.goto(console.url + RUN.format(**about))
        page.get_by_role("button", name="Settle").click()
        # Nothing is chosen beforehand: the browser asks for it.
        assert page.evaluate("document.activeElement.id") == "status"
        page.get_by_label("This run…").select_option("failed")
        page.locator("#decide-reason").fill("looked at")
        page.get_by_role("button", name="Settle").click()
        page.get_by_role("heading", name="Failed").wait_for()
    assert far == {}
