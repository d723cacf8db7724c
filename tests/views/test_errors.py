"""What a refusal becomes at the edge."""

from __future__ import annotations

from opsconsole.exceptions import Kind
from opsconsole.web.errors import STATUSES


def test_page_tells_each_kind_of_refusal_by_its_status():
    assert {kind.name: STATUSES[kind] for kind in Kind} == {
        "FORBIDDEN": 403,
        "NOT_FOUND": 404,
        "CONFLICT": 409,
        "INVALID": 422,
        "TOO_MANY": 429,
        "UNAVAILABLE": 503,
        "NO_ROOM": 507,
    }
