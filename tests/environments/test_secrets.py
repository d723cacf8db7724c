"""Addresses at rest: sealed anywhere, opened on workers only, by any of the keys."""

from __future__ import annotations

import os
from tempfile import NamedTemporaryFile

import pytest
from cryptography.fernet import Fernet
from django.urls import reverse

from opsconsole.environments import secrets
from opsconsole.environments.models import Target
from opsconsole.exceptions import AdapterError, Refused
from tests.worker import resolve_dsn, unseal

DSN = "postgresql://u:p@127.0.0.1/d"


def test_sealed_with_an_old_key_opens_while_that_key_is_kept(settings):
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    settings.ENCRYPTION_KEYS = [old]
    sealed = secrets.seal(DSN)
    settings.ENCRYPTION_KEYS = [new, old]
    assert unseal(sealed) == DSN
    settings.ENCRYPTION_KEYS = [new]
    with pytest.raises(AdapterError, match="none of OPSCONSOLE_ENCRYPTION_KEYS fits"):
        unseal(sealed)


def test_nothing_is_sealed_without_a_key(settings):
    settings.ENCRYPTION_KEYS = []
    with pytest.raises(Refused, match="no encryption key"):
        secrets.seal(DSN)


def test_only_a_worker_opens():
    sealed = secrets.seal(DSN)
    for target in (Target(dsn_encrypted=sealed), Target(dsn_reference="env:X")):
        with pytest.raises(Refused, match="only a worker"):
            secrets.resolve_dsn(target)
    secrets.allow_opening()
    assert secrets.unseal(sealed) == DSN


@pytest.mark.django_db
def test_references_are_resolved_on_the_worker(monkeypatch):
    monkeypatch.setenv("SHOP_URL", DSN)
    # Temporary files may be below /dev, where no file is read.
    with NamedTemporaryFile("w", dir="/var/tmp") as file:
        file.write(DSN + "\n")
        file.flush()
        for reference in ("env:SHOP_URL", f"file:{file.name}"):
            assert resolve_dsn(Target(dsn_reference=reference)).database == "d"


@pytest.mark.parametrize("reference", ["env:NOT_SET_URL", "file:/no/such/file", "vault:x", "env:"])
def test_reference_that_leads_nowhere_is_an_error(reference):
    with pytest.raises(AdapterError):
        resolve_dsn(Target(dsn_reference=reference))


@pytest.mark.parametrize(
    "reference",
    [
        "env:SECRET_KEY",
        "env:DATABASE_URL",
        "env:REDIS_URL",
        "env:OPSCONSOLE_ENCRYPTION_KEYS",
        "env:OPSCONSOLE_OWN_URL",
        "env:AWS_SECRET_ACCESS_KEY",
        "file:{home}/keys.json",
        "file:{tmp}/../{tmp}/link/keys.json",
        "file:/proc/self/environ",
        "file:/dev/stdin",
        "file:{tmp}/pipe",
        "file:a\0b",
    ],
)
def test_reference_to_what_is_no_address_is_refused(reference, monkeypatch, settings, tmp_path):
    """Though there is an address in it."""
    home = settings.OPSCONSOLE_HOME.path
    (tmp_path / "link").symlink_to(home)
    os.mkfifo(tmp_path / "pipe")
    kind, _, name = reference.partition(":")
    if kind == "env":
        monkeypatch.setenv(name, DSN)
    with pytest.raises(AdapterError):
        resolve_dsn(Target(dsn_reference=reference.format(home=home, tmp=tmp_path)))


def test_form_refuses_what_is_no_address(environment, as_role):
    path = reverse("environment-edit", args=[environment.application_id, environment.pk])
    page = as_role("admin").post(path, {"address": "env:SECRET_KEY"})
    assert page.status_code == 422
    assert "SECRET_KEY is the console&#x27;s own" in page.content.decode()
