"""Addresses at rest: sealed anywhere, opened on workers only, by any of the keys."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet

from opsconsole.environments import secrets
from opsconsole.environments.models import Target
from opsconsole.exceptions import AdapterError, Refused
from tests.worker import resolve_dsn, unseal

DSN = "postgresql://u:p@h/d"


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
def test_references_are_resolved_on_the_worker(monkeypatch, tmp_path):
    monkeypatch.setenv("SHOP_URL", DSN)
    (tmp_path / "url").write_text(DSN + "\n")
    for reference in ("env:SHOP_URL", f"file:{tmp_path}/url"):
        assert resolve_dsn(Target(dsn_reference=reference)).database == "d"


@pytest.mark.parametrize("reference", ["env:NOT_SET", "file:/no/such/file", "vault:x", "env:"])
def test_reference_that_leads_nowhere_is_an_error(reference):
    with pytest.raises(AdapterError):
        resolve_dsn(Target(dsn_reference=reference))
