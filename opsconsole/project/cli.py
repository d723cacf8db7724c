"""The verbs of `manage.py ops` on the console itself: a way in for people, its keys, and the demo."""

from __future__ import annotations

import argparse
import signal
import time
from contextlib import suppress
from datetime import UTC, datetime

from django.conf import settings

from migrations_app.services.migrations import request_observation
from opsconsole.access import people
from opsconsole.access.models import User
from opsconsole.cli import DONE, FAILED, Call, Verb
from opsconsole.demo.address import APPLICATION, dsn_of, find
from opsconsole.demo.traffic import Traffic
from opsconsole.environments import key_rotation, secrets
from opsconsole.environments.models import Target
from opsconsole.exceptions import Kind, Refused
from opsconsole.formats import counted
from opsconsole.project import demo
from opsconsole.runs.workers import Worker


def _person(call: Call) -> User:
    user = User.objects.filter(username=call.options.name).first()
    if user is None:
        raise Refused(f"there is no user {call.options.name}", kind=Kind.NOT_FOUND)
    return user


def make_password_link(call: Call) -> int:
    path = people.make_password_link(actor=call.actor(), user=_person(call))
    shown = f"{call.options.url.rstrip('/')}{path}"
    call.print({"link": shown}, [shown, "it works once, for a day"])
    return DONE


def take_factors(call: Call) -> int:
    user = _person(call)
    people.take_factors(actor=call.actor(), user=user)
    call.print({"taken": True}, [f"{user} signs in with the password alone now"])
    return DONE


def add_key(call: Call) -> int:
    key_rotation.add_key(actor=call.actor())
    call.print(
        {"added": True},
        [
            "a new encryption key is there: restart all of the console",
            "then `ops keys rotate` encrypts with it what is stored",
        ],
    )
    return DONE


def rotate_keys(call: Call) -> int:
    secrets.allow_opening()
    _require_workers_with_newest_key()
    rotation = key_rotation.rotate_keys(actor=call.actor())
    done = f"{counted(rotation.renewed, 'secret')} encrypted anew with the newest key"
    lines = [
        done if rotation.renewed else "nothing is encrypted with an older key",
        *(f"no key opens {where}: type it again" for where in rotation.lost),
    ]
    older = len(settings.ENCRYPTION_KEYS) - 1
    if older and not rotation.lost:
        lines.append("nothing needs the older keys: `ops keys forget` takes them away")
    call.print({"renewed": rotation.renewed, "lost": rotation.lost, "older_keys": older}, lines)
    return FAILED if rotation.lost else DONE


def forget_keys(call: Call) -> int:
    secrets.allow_opening()
    _require_workers_with_newest_key()
    older = key_rotation.forget_older_keys(actor=call.actor())
    call.print({"forgotten": older}, [f"{counted(older, 'older key')} taken away"])
    return DONE


def _require_workers_with_newest_key() -> None:
    newest = next(iter(secrets.key_marks()), "none")
    if behind := Worker.objects.alive().without_key(newest):
        raise Refused(
            f"{', '.join(behind)} started without the newest key: restart all of the console first"
        )


def reset(call: Call) -> int:
    try:
        demo.reset(call.options.environment.rpartition("/")[2], actor=call.actor())
    except KeyError:
        raise Refused(
            f"the demo has no environment {call.options.environment}", kind=Kind.NOT_FOUND
        ) from None
    _read_demo_again()
    call.print({"reset": True}, ["the demo is as on the first start"])
    return DONE


def list_services(call: Call) -> int:
    for name, argument in demo.services():
        call.output.write(f"{name}\t{argument}")
    return DONE


def mend(call: Call) -> int:
    gone = demo.mend()
    _read_demo_again()
    call.print(gone, [f"took {name} away" for name in gone] or ["nothing was broken"])
    return DONE


def break_sql(call: Call) -> int:
    text = demo.BREAK_NON_ATOMIC if call.options.non_atomic else demo.BREAK_SQL
    return _broke(call, demo.break_with(text, "add_payout_approval"))


def break_health(call: Call) -> int:
    return _broke(call, demo.break_with(demo.BREAK_HEALTH, "rename_target_amount"))


def _broke(call: Call, name: str) -> int:
    _read_demo_again()
    call.print({"added": name}, [f"added {name}; `ops demo mend` takes it away"])
    return DONE


def _read_demo_again() -> None:
    """Pages show the change at once; without a worker they show it once there is one."""
    for target in Target.objects.filter(environment__application__slug=APPLICATION):
        with suppress(Refused):
            request_observation(target)


def make_traffic(call: Call) -> int:
    slug = call.options.environment.rpartition("/")[2]
    try:
        dsn = dsn_of(settings.OPSCONSOLE_HOME, find(slug))
    except KeyError:
        raise Refused(f"the demo has no environment {slug}", kind=Kind.NOT_FOUND) from None
    traffic = Traffic(dsn, call.options.clients)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _f: stopped.append(n))
    began = datetime.now(UTC)
    traffic.start()
    while not stopped:
        time.sleep(0.1)
        seconds = (datetime.now(UTC) - began).total_seconds()
        if call.options.seconds and seconds > call.options.seconds:
            break
    rows = traffic.stop()
    call.print(
        rows,
        [
            f"client {r['client']:2}: {r['answers']:6} answers, longest gap "
            f"{r['longest_gap_ms']:8.1f} ms, errors {r['errors'] or 'none'}"
            for r in rows
        ],
    )
    return DONE


def _reset_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment", nargs="?", default="", help="only this one")


def _break_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--non-atomic", action="store_true")


def _traffic_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0, help="stop by itself after")


def _link_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")
    parser.add_argument(
        "--url", default=f"http://localhost:{settings.PORT}", help="the console's (%(default)s)"
    )


def _person_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")


KEYS = [
    Verb("add", "add a new one to the console's data folder", add_key),
    Verb("rotate", "encrypt with the newest one what is stored", rotate_keys),
    Verb("forget", "take older ones out of the console's data folder", forget_keys),
]
DEMO = [
    Verb("reset", "put everything back", reset, _reset_arguments),
    Verb("services", "list the backends to run", list_services),
    Verb("mend", "take broken migrations away", mend),
    Verb("break-sql", "add one that fails", break_sql, _break_arguments),
    Verb("break-health", "add one that breaks /health", break_health),
    Verb("traffic", "read and write until stopped", make_traffic, _traffic_arguments),
]
VERBS = [
    Verb(
        "password-link",
        "make a link to set somebody's password",
        make_password_link,
        _link_arguments,
    ),
    Verb(
        "take-factors",
        "take somebody's second factors away, which they have lost",
        take_factors,
        _person_argument,
    ),
    Verb("keys", "the keys that stored secrets are encrypted with", verbs=KEYS),
    Verb("demo", "the demo application", verbs=DEMO),
]
