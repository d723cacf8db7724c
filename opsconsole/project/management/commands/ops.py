"""`manage.py ops`: everything the pages do, from a shell, through the same services and queue."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import OperationalError

from backups_app import cli as backups
from migrations_app import cli as migrations
from opsconsole.audit import cli as audit
from opsconsole.cli import Call, Verb, VisibleOutput
from opsconsole.environments import cli as environments
from opsconsole.exceptions import ConsoleError, Refused
from opsconsole.formats import visible
from opsconsole.health import cli as health
from opsconsole.project import cli as project
from opsconsole.runs import cli as runs
from opsconsole.work import cli as work

REFUSED, INTERRUPTED = 2, 130
SUBJECTS = (environments, migrations, backups, health, runs, work, audit, project)
# The option that gives what a refusal asks for.
OPTIONS = {
    "typed_name": "--confirm NAME",
    "checklist": "--checked, once all of it is done",
    "reason": "--reason TEXT",
}


class Command(BaseCommand):
    help = "List, migrate, back up, restore and check environments of a running console."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        common = argparse.ArgumentParser(add_help=False)
        common.add_argument("--as", dest="user", help="act as this user (default: the first admin)")
        common.add_argument("--json", action="store_true", help="print one JSON document")
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        _add(verbs, common, (verb for subject in SUBJECTS for verb in subject.VERBS))

    def handle(self, *_args: Any, **options: Any) -> None:
        call = Call(argparse.Namespace(**options), VisibleOutput(self.stdout))
        try:
            _require_text(options)
            status = options["act"](call)
        except Refused as refusal:
            option = OPTIONS.get(refusal.field)
            self._refuse(f"{refusal} ({option})" if option else str(refusal))
        except ConsoleError as error:
            self._refuse(str(error))
        except KeyboardInterrupt:
            self.stderr.write("stopped watching; what was started goes on (`ops runs`)")
            sys.exit(INTERRUPTED)
        except OperationalError:
            self._refuse(
                "the console's database does not answer: is `manage.py up` running on "
                "this OPSCONSOLE_HOME?"
            )
        else:
            sys.exit(status)

    def _refuse(self, message: str) -> None:
        self.stderr.write(visible(message))
        sys.exit(REFUSED)


def _add(parsers: Any, common: argparse.ArgumentParser, verbs: Iterable[Verb]) -> None:
    """Give each verb a parser with the common options and its own; groups hold their verbs'."""
    for verb in verbs:
        if verb.verbs:
            group = parsers.add_parser(verb.name, help=verb.help)
            things = group.add_subparsers(dest="thing", required=True, metavar="THING")
            _add(things, common, verb.verbs)
        else:
            parser = parsers.add_parser(verb.name, help=verb.help, parents=[common])
            verb.arguments(parser)
            parser.set_defaults(act=verb.run)


def _require_text(options: dict[str, Any]) -> None:
    """Refuse bytes of the command line that are no UTF-8: the database could not keep them."""
    for value in options.values():
        if isinstance(value, str) and any(0xDC80 <= ord(letter) <= 0xDCFF for letter in value):
            raise Refused(f"{value!a} is not UTF-8 text")
