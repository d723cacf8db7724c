"""Every page as people see it: `.venv/bin/python -m tests.e2e.screenshots FOLDER [PATH...]`.

A console of its own, with a run, a backup and a way back that is asked for, is photographed at five
widths, light and dark: for looking at, by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.chaos.console import Console
from tests.e2e.people import FLAGS, sign_in
from tests.e2e.test_browser import DEMO, PATHS
from tests.toolbox import chromium

WIDTHS = (320, 768, 1024, 1280, 1920)


def prepare(console: Console) -> None:
    """A backup, a migration that broke the application, and a run that needs a decision."""
    console.ops("backup", f"{DEMO.rpartition('/')[2]}/staging", "--wait")
    console.ops("demo", "break-health")
    with console.traffic():
        console.migrate_to_attention()


def photograph(console: Console, folder: Path, paths: list[str]) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = sign_in(console, browser, "admin")
        for path in paths:
            page.goto(console.url + path)
            page.wait_for_timeout(300)
            name = path.strip("/").replace("/", "-").replace("?", "-") or "home"
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                for width in WIDTHS:
                    page.set_viewport_size({"width": width, "height": 900})
                    page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
        browser.close()


def main(folder: Path, paths: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    try:
        console.start()
        prepare(console)
        photograph(console, folder, paths or [*PATHS, DEMO, "/runs/2"])
    finally:
        console.remove()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
