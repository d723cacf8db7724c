from __future__ import annotations

import uuid

import pytest
from django.test import Client


@pytest.fixture
def as_role(person):
    """`as_role("admin")` is a signed-in client of a new person with that role."""

    def make(role: str) -> Client:
        client = Client()
        client.force_login(person(role, f"{role}-{uuid.uuid4().hex[:4]}"))
        return client

    return make
