"""Verbs on people and on the roles that they hold. All audited.

One such act at a time: each waits for the one before it, and judges rights and who is left by what
that one left. Otherwise two admins who lock each other out in the same moment both succeed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from allauth.mfa.models import Authenticator
from django.db import connection, transaction
from django.db.models import F
from django.utils.translation import gettext as _

from opsconsole.access import events, password_links, sessions
from opsconsole.access.choices import Role
from opsconsole.access.models import Membership, User
from opsconsole.access.names import CONSOLE_NAME, taken_for
from opsconsole.access.permissions import authorize, console_admins
from opsconsole.access.places import CONSOLE, Place
from opsconsole.events import recording as audit
from opsconsole.exceptions import Kind, Refused


@contextmanager
def _alone(actor: User, place: Place) -> Iterator[None]:
    """A transaction that no other writer of memberships shares, of somebody who may edit there.

    The table's own lock keeps out also whoever does not come through here; readers pass.
    """
    table = connection.ops.quote_name(Membership._meta.db_table)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        # As the actor is now: the act that was waited for may have been about them.
        authorize(User.objects.get(pk=actor.pk), "settings.edit", place)
        yield


def _require_an_admin() -> None:
    if not console_admins().exists():
        raise Refused(_("This is the last admin. Assign the role to someone else first."))


def _require_distinct(name: str) -> None:
    taken = taken_for(name, {CONSOLE_NAME, *User.objects.values_list("username", flat=True)})
    if taken is not None:
        raise Refused(
            _("This name could be taken for %(name)s. Choose another.") % {"name": taken},
            kind=Kind.INVALID,
            field="username",
        )


def add_person(*, actor: User, user: User, role: str) -> User:
    """Save a new user with one role everywhere, who sets their password by a link.

    Raises Refused (invalid) for a name that could be taken for somebody's, or for the console's.
    """
    with _alone(actor, CONSOLE):
        _require_distinct(user.get_username())
        user.set_unusable_password()
        user.save()
        membership = Membership.objects.create(user=user, role=Role(role))
        audit.record(
            events.PERSON_ADDED,
            actor=actor,
            about=user,
            data=events.PersonAdded(role=membership.role),
        )
    return user


def grant_role(*, actor: User, membership: Membership) -> Membership:
    """Save a role of somebody at a place of the actor's; one that is there already stays."""
    with _alone(actor, membership.place):
        granted, is_new = Membership.objects.get_or_create(
            user=membership.user,
            role=membership.role,
            application=membership.application,
            environment=membership.environment,
        )
        if is_new:
            audit.record(
                events.ROLE_GRANTED,
                actor=actor,
                about=granted.user,
                data=events.RoleOf(membership=str(granted)),
            )
    return granted


def revoke_role(*, actor: User, membership: Membership) -> None:
    """Take a role away, if it is still there. Refused for that of the console's last admin."""
    with _alone(actor, membership.place):
        revoked, _rows = Membership.objects.filter(pk=membership.pk).delete()
        if revoked:
            if membership.role == Role.ADMIN and membership.place is CONSOLE:
                _require_an_admin()
            audit.record(
                events.ROLE_REVOKED,
                actor=actor,
                about=membership.user,
                data=events.RoleOf(membership=str(membership)),
            )


def lock_out(*, actor: User, user: User) -> None:
    """Let a person sign in no longer, and end every session of theirs for good.

    Refused for oneself and for the console's last admin.
    """
    if user.pk == actor.pk:
        raise Refused(_("You cannot lock yourself out."))
    with _alone(actor, CONSOLE):
        changed = User.objects.filter(pk=user.pk, is_active=True).update(
            is_active=False, session_generation=F("session_generation") + 1
        )
        if changed:
            _require_an_admin()
            sessions.end_quietly(user)
            audit.record(events.PERSON_DISABLED, actor=actor, about=user)


def change_password(*, user: User, password: str, but: str = "") -> None:
    """Set the person's own new password. It ends every session of theirs but the one of the key
    `but`, whose own hash the caller then brings up to date."""
    with transaction.atomic():
        _set_password(user, password, but=but)
        audit.record(events.PASSWORD_CHANGED, actor=user, about=user)


def make_password_link(*, actor: User, user: User) -> str:
    """The path of a page on which whoever has it can set the person's password, once, for a day.

    Refused for somebody who may not sign in.
    """
    with _alone(actor, CONSOLE):
        person = User.objects.get(pk=user.pk)
        if not person.is_active:
            raise Refused(_("%(user)s may not sign in. Enable them first.") % {"user": person})
        audit.record(events.PASSWORD_LINK_MADE, actor=actor, about=person)
        return password_links.path_for(person)


def set_password_by_link(*, user: User, password: str) -> None:
    """Set the password of whoever came by a link. It ends the link, and every session of theirs."""
    with transaction.atomic():
        _set_password(user, password)
        audit.record(events.PASSWORD_SET, actor=None, about=user)


def _set_password(user: User, password: str, *, but: str = "") -> None:
    user.set_password(password)
    user.save(update_fields=["password"])
    sessions.end_quietly(user, but=but)


def take_factors(*, actor: User, user: User) -> None:
    """Take a person's second factors away, which they have lost; it ends every session of theirs.

    Their password alone lets them in again. Refused where there are none.
    """
    with _alone(actor, CONSOLE):
        taken, _rows = Authenticator.objects.filter(user_id=user.pk).delete()
        if not taken:
            raise Refused(_("%(user)s has no second factor.") % {"user": user})
        User.objects.filter(pk=user.pk).update(session_generation=F("session_generation") + 1)
        sessions.end_quietly(user)
        audit.record(events.FACTORS_TAKEN, actor=actor, about=user)


def let_in(*, actor: User, user: User) -> None:
    """Let a person sign in again."""
    with _alone(actor, CONSOLE):
        if User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
            audit.record(events.PERSON_ENABLED, actor=actor, about=user)
