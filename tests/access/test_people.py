"""Whoever can let others in is never the last one to go, in whatever order two people act."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from opsconsole.access import people
from opsconsole.access.models import Membership, User
from opsconsole.access.permissions import console_admins
from opsconsole.environments.models import Application
from opsconsole.events.models import AuditEvent
from opsconsole.exceptions import Refused
from tests.threads import at_once

TRIES = 6


def lock_each_other(one: User, two: User) -> list[Callable[[], object]]:
    return [
        lambda: people.lock_out(actor=one, user=two),
        lambda: people.lock_out(actor=two, user=one),
    ]


def revoke_each_other(one: User, two: User) -> list[Callable[[], object]]:
    first, second = one.memberships.get(), two.memberships.get()
    return [
        lambda: people.revoke_role(actor=one, membership=second),
        lambda: people.revoke_role(actor=two, membership=first),
    ]


def revoke_own(one: User, two: User) -> list[Callable[[], object]]:
    first, second = one.memberships.get(), two.memberships.get()
    return [
        lambda: people.revoke_role(actor=one, membership=first),
        lambda: people.revoke_role(actor=two, membership=second),
    ]


def lock_and_revoke(one: User, two: User) -> list[Callable[[], object]]:
    first = one.memberships.get()
    return [
        lambda: people.lock_out(actor=one, user=two),
        lambda: people.revoke_role(actor=two, membership=first),
    ]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("acts", [lock_each_other, revoke_each_other, revoke_own, lock_and_revoke])
@pytest.mark.parametrize("others", [0, 1])
def test_of_two_admins_at_once_only_the_first_acts(person, acts, others):
    for number in range(TRIES):
        one, two = person("admin", f"one{number}"), person("admin", f"two{number}")
        for other in range(others):
            person("admin", f"other{number}{other}")
        # With a third admin both may give up their own role.
        refused = [] if others and acts is revoke_own else [Refused]
        assert list(map(type, at_once(*acts(one, two)))) == refused
        assert console_admins().exists()
        User.objects.update(is_active=False)


@pytest.mark.django_db(transaction=True)
def test_same_role_given_twice_at_once_is_there_once(person):
    admin, viewer = person("admin"), person("viewer")
    give = [
        lambda: people.grant_role(actor=admin, membership=Membership(user=viewer, role="operator"))
    ]
    assert at_once(*give * 2) == []
    assert viewer.memberships.filter(role="operator").count() == 1
    assert AuditEvent.objects.filter(action="role.granted").count() == 1


def test_last_admin_keeps_the_role_and_what_was_tried_leaves_nothing(admin):
    with pytest.raises(Refused, match="last admin"):
        people.revoke_role(actor=admin, membership=admin.memberships.get())
    assert list(console_admins()) == [admin]
    assert not AuditEvent.objects.exists()


@pytest.mark.parametrize("wide", [True, False])
def test_admin_of_a_part_locks_nobody_out(db, admin, person, wide):
    part = Application.objects.create(slug="shop", name="Shop")
    scoped = person("viewer") if wide else User.objects.create_user("scoped")
    Membership.objects.create(user=scoped, role="admin", application=part)
    with pytest.raises(Refused, match="You need the role admin"):
        people.lock_out(actor=scoped, user=admin)
    with pytest.raises(Refused, match="You need the role admin"):
        people.revoke_role(actor=scoped, membership=admin.memberships.get())
    assert list(console_admins()) == [admin]


def test_role_in_a_part_can_go_while_nobody_is_admin_of_the_console(db):
    part = Application.objects.create(slug="shop", name="Shop")
    scoped = User.objects.create_user("scoped")
    held = Membership.objects.create(user=scoped, role="admin", application=part)
    people.revoke_role(actor=scoped, membership=held)
    assert not scoped.memberships.exists()
