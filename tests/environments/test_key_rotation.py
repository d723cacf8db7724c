"""The encryption key is changed while the console works on: nothing is lost, and what is, is said."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from io import StringIO

import pytest
from cryptography.fernet import Fernet
from django.core.management import call_command
from django.utils import timezone

from backups_app.models import Storage
from migrations_app.models import Repository
from opsconsole.embedded.home import Home
from opsconsole.environments import key_rotation, secrets
from opsconsole.environments.models import Draft, Target
from opsconsole.events import recording
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from opsconsole.runs.workers import Worker
from tests.worker import as_worker, unseal

pytestmark = pytest.mark.django_db
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


def sealed_with_old(text: str) -> str:
    return Fernet(OLD).encrypt(text.encode()).decode()


@pytest.fixture
def keys(settings):
    """As after a restart with a new key in front."""
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    with as_worker():
        yield settings


@pytest.fixture
def stored(keys, environment, operator) -> dict[str, str]:
    """A secret in every place that holds some, under the older key; what each of them is."""
    Target.objects.filter(environment=environment).update(
        dsn_encrypted=sealed_with_old("postgresql://live/d"),
        scratch_dsn_encrypted=sealed_with_old("postgresql://scratch/d"),
        quarantine_dsn_encrypted=sealed_with_old("postgresql://quarantine/d"),
    )
    Repository.objects.create(
        application=environment.application,
        url="https://git.example/a",
        secret_encrypted=sealed_with_old("token"),
    )
    Storage.objects.create(name="bucket", secret_encrypted=sealed_with_old("s3 key"))
    Draft.objects.create(
        made_by=operator, sealed={"address": sealed_with_old("a"), "scratch": sealed_with_old("b")}
    )
    return opened()


def opened() -> dict[str, str]:
    """Every stored secret, opened with the keys that there are."""
    found = {}
    for model, name in key_rotation.sealed_fields():
        for row in model._base_manager.all():
            value = getattr(row, name)
            tokens = value if isinstance(value, dict) else {"": value} if value else {}
            for part, token in tokens.items():
                found[f"{model.__name__} {name} {part}"] = unseal(token)
    return found


def ops(verb: str) -> tuple[int, dict]:
    """How `ops keys VERB` ended, and its document; none where it was refused."""
    out = StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("ops", "keys", verb, "--json", stdout=out)
    return ended.value.code, json.loads(out.getvalue() or "{}")


def test_every_stored_secret_opens_with_the_newest_key_alone_afterwards(keys, stored, admin):
    assert len(stored) == 7
    assert key_rotation.rotate_keys(actor=admin) == key_rotation.Rotation(renewed=7)
    keys.ENCRYPTION_KEYS = [NEW]
    assert opened() == stored
    told = AuditEvent.objects.latest("pk").told
    assert told == "admin rotated the encryption key. Secrets encrypted anew: 7."


def test_second_rotation_writes_nothing(stored, admin):
    key_rotation.rotate_keys(actor=admin)
    events = AuditEvent.objects.count()
    assert key_rotation.rotate_keys(actor=admin) == key_rotation.Rotation()
    assert AuditEvent.objects.count() == events


def test_secret_that_no_key_opens_is_named_and_stays_as_it_is(stored, admin):
    lost = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    Storage.objects.update(secret_encrypted=lost)
    rotation = key_rotation.rotate_keys(actor=admin)
    assert rotation == key_rotation.Rotation(renewed=6, lost=["the secret of bucket"])
    assert Storage.objects.get().secret_encrypted == lost


def test_only_an_admin_of_the_console_rotates_keys(stored, operator, admin):
    with pytest.raises(Refused, match="role admin"):
        key_rotation.rotate_keys(actor=operator)
    assert key_rotation.rotate_keys(actor=admin) == key_rotation.Rotation(renewed=7)


def test_address_that_is_saved_while_it_is_encrypted_anew_wins(stored, admin, monkeypatch):
    written = secrets.with_newest_key

    def and_save_another(token: str) -> str:
        monkeypatch.setattr(key_rotation, "with_newest_key", written)
        Target.objects.update(dsn_encrypted=sealed_with_old("postgresql://newer/d"))
        return written(token)

    monkeypatch.setattr(key_rotation, "with_newest_key", and_save_another)
    assert key_rotation.rotate_keys(actor=admin) == key_rotation.Rotation(renewed=7)
    assert key_rotation.rotate_keys(actor=admin) == key_rotation.Rotation()
    assert unseal(Target.objects.get().dsn_encrypted) == "postgresql://newer/d"


@pytest.mark.django_db(transaction=True)
def test_rotation_under_load_loses_nothing(keys, stored, admin):
    """Somebody saves an address a hundred times, in a process that knows the older key alone."""
    from django.db import connection

    def save() -> None:
        for number in range(100):
            Target.objects.update(scratch_dsn_encrypted=sealed_with_old(f"postgresql://{number}/d"))
        connection.close()

    busy = threading.Thread(target=save)
    busy.start()
    while busy.is_alive():
        try:
            key_rotation.rotate_keys(actor=admin)
        except Refused as refusal:
            assert "still encrypts with an older key" in str(refusal)  # noqa: PT017
    busy.join()
    key_rotation.rotate_keys(actor=admin)
    keys.ENCRYPTION_KEYS = [NEW]
    assert opened() == stored | {"Target scratch_dsn_encrypted ": "postgresql://99/d"}


def test_key_that_is_none_is_said_by_its_place(settings):
    settings.ENCRYPTION_KEYS = [NEW, "not a key"]
    with pytest.raises(Refused, match="key 2 of OPSCONSOLE_ENCRYPTION_KEYS is no Fernet key"):
        secrets.seal("x")


# At a shell


def worker(*marks: str) -> None:
    Worker.objects.update_or_create(
        name="runs@host",
        defaults={
            "host": "host",
            "pid": 1,
            "key_marks": " ".join(marks),
            "last_seen_at": timezone.now(),
        },
    )


@pytest.fixture
def own_keys(settings, tmp_path, admin, environment) -> Iterator[Home]:
    """A console whose keys are those of its data folder, as `up` makes them."""
    before, home = settings.OPSCONSOLE_HOME, Home(tmp_path)
    home.prepare()
    settings.OPSCONSOLE_HOME, settings.ENCRYPTION_KEYS = home, home.read_keys().encryption_keys
    yield home
    settings.OPSCONSOLE_HOME = before


def test_key_is_added_used_and_the_older_one_forgotten(own_keys, settings, environment):
    (first,) = settings.ENCRYPTION_KEYS
    Target.objects.update(dsn_encrypted=secrets.seal("postgresql://live/d"))
    assert ops("add") == (0, {"added": True})
    settings.ENCRYPTION_KEYS = own_keys.read_keys().encryption_keys
    assert settings.ENCRYPTION_KEYS[1:] == [first]
    assert own_keys.keys_file.stat().st_mode & 0o777 == 0o600

    worker(*secrets.key_marks()[1:])
    assert [ops(verb) for verb in ("rotate", "forget")] == [(2, {}), (2, {})]
    worker(*secrets.key_marks())
    assert ops("forget") == (2, {})
    assert ops("rotate") == (0, {"renewed": 1, "lost": [], "older_keys": 1})
    assert ops("forget") == (0, {"forgotten": 1})
    settings.ENCRYPTION_KEYS = own_keys.read_keys().encryption_keys
    assert first not in settings.ENCRYPTION_KEYS
    assert list(AuditEvent.objects.order_by("pk").values_list("action", flat=True)) == [
        "encryption.key_added",
        "encryption.key_rotated",
        "encryption.older_keys_forgotten",
    ]
    assert opened() == {"Target dsn_encrypted ": "postgresql://live/d"}


def test_key_is_added_and_forgotten_with_its_event_or_not_at_all(own_keys, settings, monkeypatch):
    settings.ENCRYPTION_KEYS = [*settings.ENCRYPTION_KEYS, OLD]
    own_keys._write_keys(vars(own_keys.read_keys()) | {"encryption_keys": settings.ENCRYPTION_KEYS})
    before = own_keys.keys_file.read_text()

    def refuse(*_event: object) -> None:
        raise Refused("the audit trail takes nothing")

    monkeypatch.setattr(recording, "LISTENERS", [refuse])
    assert [ops(verb) for verb in ("add", "forget")] == [(2, {}), (2, {})]
    assert own_keys.keys_file.read_text() == before


def test_keys_of_the_environment_are_not_touched_in_the_folder(own_keys, settings):
    settings.ENCRYPTION_KEYS = [NEW]
    before = own_keys.keys_file.read_text()
    assert [ops(verb) for verb in ("add", "forget")] == [(2, {}), (2, {})]
    assert own_keys.keys_file.read_text() == before


def test_console_without_a_key_is_told_where_one_comes_from(own_keys, settings, capsys):
    settings.ENCRYPTION_KEYS = []
    assert ops("rotate") == (2, {})
    assert "no encryption key: set OPSCONSOLE_ENCRYPTION_KEYS" in capsys.readouterr().err


def test_lost_secret_ends_the_rotation_with_a_failure(own_keys, environment):
    Target.objects.update(dsn_encrypted=sealed_with_old("postgresql://live/d"))
    ended, said = ops("rotate")
    assert (ended, said["renewed"], len(said["lost"])) == (1, 0, 1)
