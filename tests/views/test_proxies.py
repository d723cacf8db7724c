"""Whose word counts about where a request came from."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, RequestFactory

from opsconsole.events.models import AuditEvent
from opsconsole.outgoing import networks
from opsconsole.project.checks import check_proxies
from opsconsole.project.networks import is_loopback, networks_named
from opsconsole.web.proxies import TOLD_BY_PROXIES, TrustedProxiesMiddleware

NAMED = networks(["10.0.0.0/24", "fd00::/64"])
STRANGER, PERSON, PROXY, PROXY_6 = "198.51.100.9", "203.0.113.5", "10.0.0.7", "fd00::7"


def passed_on(**meta: str):
    """The request that the rest of the console gets."""
    kept = []
    TrustedProxiesMiddleware(kept.append)(RequestFactory().get("/", **meta))
    return kept[0]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        (STRANGER, "", STRANGER),
        (STRANGER, PERSON, STRANGER),
        (STRANGER, f"{PERSON}, {PROXY}", STRANGER),
        (PROXY, "", PROXY),
        (PROXY, PERSON, PERSON),
        (PROXY, f"{STRANGER}, {PERSON}", PERSON),
        (PROXY, f"{PROXY}, {PERSON}", PERSON),
        (PROXY, f"{STRANGER},{PERSON} ,10.0.0.8", PERSON),
        (PROXY, f"{PERSON}, {PROXY_6}", PERSON),
        (PROXY_6, PERSON, PERSON),
        (f"::ffff:{PROXY}", PERSON, PERSON),
        (PROXY, f"::ffff:{PERSON}", PERSON),
        (PROXY, f"{PERSON}:4711", PERSON),
        (PROXY, "[2001:db8::5]:4711", "2001:db8::5"),
        (PROXY, "[2001:db8::5]", "2001:db8::5"),
        (PROXY, "2001:db8::5", "2001:db8::5"),
        (PROXY, "10.0.0.8", "10.0.0.8"),
        (PROXY, f"{PERSON}, unknown", PROXY),
        (PROXY, f"{PERSON}, 10.0.0.8, _hidden", PROXY),
        (PROXY, f"{PERSON}, unknown, 10.0.0.8", "10.0.0.8"),
        (PROXY, f"{PERSON},", PROXY),
        (PROXY, "1" * 5000, PROXY),
        ("fe80::1%eth0", "", "fe80::1"),
        ("", PERSON, ""),
    ],
)
def test_address_is_the_first_from_the_right_that_is_no_named_proxy(
    settings, peer, forwarded_for, client
):
    settings.TRUSTED_PROXIES = NAMED
    request = passed_on(REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded_for)
    assert request.META["REMOTE_ADDR"] == client


@pytest.mark.parametrize(
    ("peer", "proto", "is_secure"),
    [
        (PROXY, "https", True),
        (PROXY, "https, https", True),
        (PROXY, "https, http", False),
        (PROXY, "http", False),
        (PROXY, "", False),
        (STRANGER, "https", False),
    ],
)
def test_only_a_named_proxy_says_that_a_request_came_by_https(settings, peer, proto, is_secure):
    settings.TRUSTED_PROXIES = NAMED
    request = passed_on(REMOTE_ADDR=peer, HTTP_X_FORWARDED_PROTO=proto)
    assert request.is_secure() is is_secure


@pytest.mark.parametrize("peer", [PROXY, STRANGER])
def test_what_else_is_forwarded_reaches_nobody(settings, peer):
    settings.TRUSTED_PROXIES = NAMED
    settings.USE_X_FORWARDED_HOST = settings.USE_X_FORWARDED_PORT = True
    request = passed_on(REMOTE_ADDR=peer, **dict.fromkeys(TOLD_BY_PROXIES, "evil.example.com"))
    assert (request.get_host(), request.get_port()) == ("testserver", "80")
    told = {header for header in request.headers if "forward" in header.lower()}
    assert told <= {"X-Forwarded-Proto"}


@pytest.mark.parametrize(("peer", "address"), [(PROXY, PERSON), (STRANGER, STRANGER)])
def test_audit_trail_bears_the_address_of_the_person(db, settings, peer, address):
    settings.TRUSTED_PROXIES = NAMED
    client = Client(REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=PERSON)
    client.post("/sign-in", {"username": "nobody", "password": "x"})
    assert list(AuditEvent.objects.values_list("ip", flat=True)) == [address]


@pytest.mark.parametrize("text", ["proxy.internal", "10.0.0.7/8", "*"])
@pytest.mark.parametrize("setting", ["OPSCONSOLE_TRUSTED_PROXIES", "OPSCONSOLE_CALLS_DENIED"])
def test_what_is_no_network_is_refused_at_the_start(monkeypatch, setting, text):
    monkeypatch.setenv(setting, text)
    with pytest.raises(ImproperlyConfigured, match=setting):
        networks_named(setting)


@pytest.mark.parametrize(
    ("https", "named", "found"),
    [(True, (), ["opsconsole.W002"]), (True, NAMED, []), (False, (), [])],
)
def test_check_says_when_https_is_required_and_no_proxy_named(settings, https, named, found):
    settings.SECURE_SSL_REDIRECT, settings.TRUSTED_PROXIES = https, named
    assert [message.id for message in check_proxies()] == found


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("ops.example", False),
        ("", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(host, is_one):
    assert is_loopback(host) is is_one
