"""Names that a reader of the audit trail could take for one another."""
# ruff: noqa: RUF003  (comments name the letters)

from __future__ import annotations

import pytest
from django.urls import reverse

from opsconsole.access import people
from opsconsole.access.models import Membership, User
from opsconsole.access.names import LOOKS_LIKE, forms_of, taken_for
from opsconsole.exceptions import Refused
from tests.threads import at_once


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("admin", "ADMIN"),
        ("admin", "аdmin"),  # Cyrillic а
        ("ADMIN", "АDМІN"),  # Cyrillic А, М, І
        ("admin", "АDMIN"),  # Cyrillic А, and another case
        ("bob", "ВОВ"),  # all Cyrillic
        ("peter", "реtеr"),  # Cyrillic р, е
        ("νικος", "ΝΙΚΟΣ"),  # alike in Greek only
        ("admin", "ａｄｍｉｎ"),  # full width
        ("admin", "𝐚𝐝𝐦𝐢𝐧"),  # mathematical
        ("zoë", "zoё"),  # Cyrillic ё
        ("zoë", "zoe\u0308"),  # decomposed
        ("strasse", "straße"),
        ("Ian", "lan"),
        ("anna1", "annal"),
        ("bob0", "bobO"),
        ("barney", "bamey"),
        ("admin", "admın"),  # dotless
        ("ΠΑΥΛΟΣ", "ПАYЛOΣ"),  # Greek, and Cyrillic П, А, Л with Latin Y, O
        ("ADAM", "ꓮꓓꓮꓟ"),  # Lisu
        ("wade", "ᎳᎪᎠᎬ"),  # Cherokee
    ],
)
def test_names_that_look_alike_are_taken_for_each_other(name, other):
    assert taken_for(other, {name}) == name
    assert taken_for(name, {other}) == other


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("ian", "lan"),
        ("zoë", "zoe"),
        ("maja", "majа2"),
        ("иван", "ivan"),
        ("иван", "инан"),
        ("anna1", "anna2"),
        ("operator", "operators"),
        ("a.b", "a_b"),
    ],
)
def test_names_that_can_be_told_apart_are_two(name, other):
    assert taken_for(other, {name}) is None


def test_every_line_of_the_table_is_a_pair_that_is_taken_for_one():
    for pair in LOOKS_LIKE.split():
        look, like = pair
        assert forms_of(look) & forms_of(like), pair


def test_new_person_gets_no_name_that_is_taken_for_anothers(as_role, admin):
    client = as_role("admin")
    given = {"role": "viewer"}
    User.objects.filter(pk=admin.pk).update(is_active=False)
    for name in ("ADMIN", "аdmin", "Console", "сonsole"):
        answer = client.post(reverse("person-add"), given | {"username": name})
        assert (answer.status_code, name in answer.content.decode()) == (422, True)
        assert "could be taken for" in answer.content.decode()
    assert client.post(reverse("person-add"), given | {"username": "maja"}).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_two_people_added_at_once_with_names_that_look_alike_one_is(person):
    admin = person("admin")

    def add(name: str):
        return lambda: people.add_person(actor=admin, user=User(username=name), role="viewer")

    failed = at_once(add("maja"), add("mаja"))  # the second with a Cyrillic а
    assert list(map(type, failed)) == [Refused]
    assert Membership.objects.filter(role="viewer").count() == 1
