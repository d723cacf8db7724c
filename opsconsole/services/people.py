"""Verbs on people and on the roles that they hold. All audited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from django.utils.translation import gettext as _

from opsconsole.choices import Role
from opsconsole.exceptions import Refused
from opsconsole.models import CONSOLE, Membership, Place, User
from opsconsole.permissions import authorize, console_admins
from opsconsole.services import audit


@contextmanager
def _by(actor: User, place: Place) -> Iterator[None]:
    """A transaction of somebody who may edit there."""
    with transaction.atomic():
        authorize(actor, "settings.edit", place)
        yield


def _require_an_admin() -> None:
    if not console_admins().exists():
        raise Refused(_("This is the last admin: give the role to somebody else first."))


def add_person(*, actor: User, user: User, role: str) -> User:
    """Save a new user (password already set on it) with one role everywhere."""
    with _by(actor, CONSOLE):
        user.save()
        membership = Membership.objects.create(user=user, role=Role(role))
        audit.record("person.added", actor=actor, about=user, details={"role": membership.role})
    return user


def grant_role(*, actor: User, membership: Membership) -> Membership:
    """Save a role of somebody at a place of the actor's; one that is there already stays."""
    with _by(actor, membership.place):
        granted, is_new = Membership.objects.get_or_create(
            user=membership.user,
            role=membership.role,
            application=membership.application,
            environment=membership.environment,
        )
        if is_new:
            audit.record("role.granted", actor=actor, about=granted.user,
                         details={"membership": str(granted)})  # fmt: skip
    return granted


def revoke_role(*, actor: User, membership: Membership) -> None:
    """Take a role away, if it is still there. Refused for that of the console's last admin."""
    with _by(actor, membership.place):
        revoked, _rows = Membership.objects.filter(pk=membership.pk).delete()
        if revoked:
            if membership.role == Role.ADMIN and membership.place is CONSOLE:
                _require_an_admin()
            audit.record("role.revoked", actor=actor, about=membership.user,
                         details={"membership": str(membership)})  # fmt: skip


def lock_out(*, actor: User, user: User) -> None:
    """Let a person sign in no longer. Refused for oneself."""
    if user.pk == actor.pk:
        raise Refused(_("You cannot lock yourself out."))
    with _by(actor, CONSOLE):
        if User.objects.filter(pk=user.pk, is_active=True).update(is_active=False):
            audit.record("person.disabled", actor=actor, about=user)


def let_in(*, actor: User, user: User) -> None:
    """Let a person sign in again."""
    with _by(actor, CONSOLE):
        if User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
            audit.record("person.enabled", actor=actor, about=user)
