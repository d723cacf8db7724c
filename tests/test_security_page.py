"""What docs/security.md says is shown is shown."""

from __future__ import annotations

import re

from tests.chaos.console import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()


def test_each_test_that_is_named_is_there():
    there = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        if "node_modules" not in path.parts
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert set(re.findall(r"`(test_\w+)`", PAGE)) - there == set()


def test_what_is_met_says_how():
    rows = re.findall(r"^\| ([\d.][^|]*|V[^|]*) \| ([^|]+) \| ([^|]*)\|$", PAGE, re.MULTILINE)
    assert len(rows) > 100
    assert {state for _number, state, _how in rows} == {"met", "partly", "not yet", "none here"}
    assert [number for number, state, how in rows if state != "not yet" and not how.strip()] == [
        "V10, V17"
    ]
