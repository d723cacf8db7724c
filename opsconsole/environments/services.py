"""Verbs on applications, environments, targets and health checks. All audited."""

from __future__ import annotations

from typing import Any

from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from opsconsole.access.models import User
from opsconsole.access.permissions import authorize
from opsconsole.access.places import CONSOLE
from opsconsole.environments import events
from opsconsole.environments.holders import require_idle
from opsconsole.environments.models import (
    Application,
    Draft,
    Environment,
    Target,
    TargetState,
)
from opsconsole.environments.secrets import is_reference, seal
from opsconsole.events import recording as audit
from opsconsole.events.catalogue import Changed
from opsconsole.events.models import AuditEvent
from opsconsole.events.recording import fields_of
from opsconsole.exceptions import Kind, Refused
from opsconsole.work import services as work
from opsconsole.work.models import WorkItem
from opsconsole.work.registry import work_key

TEST_CONNECTION = work_key("opsconsole.test_connection")


def save_application(
    *, actor: User, application: Application, before: dict[str, Any]
) -> Application:
    """Save a new or changed application."""
    authorize(actor, "settings.edit", application if application.pk else CONSOLE)
    with transaction.atomic():
        event = events.APPLICATION_CHANGED if application.pk else events.APPLICATION_ADDED
        application.save()
        after = fields_of(application, ["name", "slug"])
        audit.record(
            event, actor=actor, about=application, data=Changed(before=before, after=after)
        )
    return application


def archive_application(*, actor: User, application: Application) -> None:
    """Hide an application; its runs and its audit trail stay. Refused while a run holds it."""
    authorize(actor, "settings.edit", application)
    for target in Target.objects.filter(environment__application=application):
        require_idle(target)
    with transaction.atomic():
        Application.objects.filter(pk=application.pk).update(archived_at=Now())
        audit.record(events.APPLICATION_ARCHIVED, actor=actor, about=application)


def save_environment(
    *,
    actor: User,
    target: Target,
    before: dict[str, Any],
    address: str = "",
    scratch_address: str | None = None,
    quarantine_address: str | None = None,
) -> Environment:
    """Save the new or changed environment of a target, and have a worker test its connection.

    A non-empty `address` replaces the target's; a new one needs it. Each address is text, or
    `Sealed` already.

    `scratch_address` replaces that of its scratch server; "" builds beside the database again,
    None keeps it. `quarantine_address` likewise; "" restores no archive made elsewhere. The
    addresses never reach the audit trail, only that they changed.
    """
    environment = target.environment
    authorize(actor, "settings.edit", environment if environment.pk else environment.application)
    names = list(before) or ["name", "slug", "position", "migrations_folder"]
    with transaction.atomic():
        is_new = environment.pk is None
        environment.save()
        _save_target(target, address, scratch_address, quarantine_address)
        event = audit.record(
            events.ENVIRONMENT_ADDED if is_new else events.ENVIRONMENT_CHANGED,
            actor=actor,
            environment=environment,
            about=environment,
            data=events.EnvironmentChanged(
                before=before,
                after=fields_of(environment, names),
                address_changed=bool(address),
                scratch_address_changed=scratch_address is not None,
                quarantine_address_changed=quarantine_address is not None,
            ),
        )
        _add_connection_test(target, event)
    return environment


def add_from_draft(*, actor: User, draft: Draft, target: Target, **addresses: Any) -> Environment:
    """Save the environment of a draft that was tried, with what was found as its first reading.

    A reading is whole or an error: of a server whose migrations could not be read, it is why.
    `target` and `addresses` are as for `save_environment`. Refused (conflict) where it was not
    tried, or another took its short name meanwhile.
    """
    authorize(actor, "settings.edit", draft.place)
    with transaction.atomic():
        tried = Draft.objects.select_for_update().filter(pk=draft.pk, tries=draft.tries).first()
        if tried is None or tried.tried_at is None:
            raise Refused(
                _("It was changed, and has not been tried since: wait for the test."),
                kind=Kind.CONFLICT,
            )
        try:
            with transaction.atomic():
                environment = save_environment(actor=actor, target=target, before={}, **addresses)
        except IntegrityError:
            raise Refused(
                _("This application already has such an environment."),
                kind=Kind.CONFLICT,
                field="slug",
            ) from None
        TargetState.objects.create(
            target=target,
            data={} if tried.error else tried.found,
            error=tried.error,
            observed_at=tried.tried_at,
        )
        tried.delete()
    return environment


def request_connection_test(*, actor: User, target: Target) -> None:
    """Have a worker connect to the environment's database, and keep what it finds."""
    authorize(actor, "settings.edit", target.environment)
    with transaction.atomic():
        event = audit.record(events.TARGET_TESTED, actor=actor, environment=target.environment)
        _add_connection_test(target, event)


def _add_connection_test(target: Target, event: AuditEvent) -> None:
    """Once for the act that the event records."""
    work.add(
        TEST_CONNECTION,
        f"{TEST_CONNECTION}:{event.pk}",
        {"target": target.pk},
        environment=target.environment,
    )


def pending_connection_test(target: Target) -> WorkItem | None:
    """The newest test of its connection that is still to be done."""
    return (
        target.environment.work.pending()
        .filter(work=TEST_CONNECTION, arguments__target=target.pk)
        .last()
    )


def _save_target(
    target: Target, address: str, scratch_address: str | None, quarantine_address: str | None
) -> None:
    changed: dict[str, str] = {}
    if address:
        is_followed = is_reference(address)
        changed = {
            "dsn_encrypted": "" if is_followed else seal(address),
            "dsn_reference": address if is_followed else "",
            "system_identifier": "",
            "database_name": "",
        }
    if scratch_address is not None:
        changed["scratch_dsn_encrypted"] = _sealed(scratch_address)
    if quarantine_address is not None:
        changed["quarantine_dsn_encrypted"] = _sealed(quarantine_address)
    for name, value in changed.items():
        setattr(target, name, value)
    if target.pk is None:
        target.save()
    elif changed:
        require_idle(target)
        target.save(update_fields=changed)


def _sealed(address: str) -> str:
    return seal(address) if address else ""


def require_typed_name(environment: Environment, typed_name: str) -> None:
    """Raise Refused (invalid) unless the environment's short name was typed."""
    if typed_name.strip() != environment.slug:
        raise Refused(
            _("Type the environment's name, %(name)s, to confirm.") % {"name": environment.slug},
            kind=Kind.INVALID,
            field="typed_name",
        )


def archive_environment(*, actor: User, environment: Environment) -> None:
    authorize(actor, "settings.edit", environment)
    for target in environment.targets.all():
        require_idle(target)
    with transaction.atomic():
        Environment.objects.filter(pk=environment.pk).update(archived_at=Now())
        # Frees the database for another environment.
        Target.objects.filter(environment=environment).update(system_identifier="")
        audit.record(
            events.ENVIRONMENT_ARCHIVED, actor=actor, environment=environment, about=environment
        )
