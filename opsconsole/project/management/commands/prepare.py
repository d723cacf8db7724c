"""`manage.py prepare`: bring the console's database up to date and make the first people.

Prints, as its last line on standard output, how to sign in.
"""

from __future__ import annotations

import secrets as random_secrets
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connection

from opsconsole.access.choices import Role
from opsconsole.access.models import Membership, User
from opsconsole.project import demo


class Command(BaseCommand):
    help = "Migrate the console's database; on the first start, make people and the demo."
    requires_system_checks = []

    def handle(self, *_args: Any, **_options: Any) -> None:
        try:
            connection.ensure_connection()
        except OperationalError as error:
            raise CommandError(f"the console's database does not answer: {error}") from None
        if connection.pg_version < 140000:  # type: ignore[attr-defined]
            raise CommandError("the console's database must be PostgreSQL 14 or newer")
        call_command("migrate", verbosity=0, interactive=False)
        call_command("collectstatic", verbosity=0, interactive=False)
        if settings.DEMO:
            first = not demo.exists()
            share_a_password = demo.make_people()
            if first:
                self.stderr.write("making the demo, Sales Commission (once)")
                demo.reset()
            self.stdout.write(_way_in(share_a_password))
        else:
            self.stdout.write(self._first_admin())

    def _first_admin(self) -> str:
        if User.objects.exists():
            return "sign in"
        password = random_secrets.token_urlsafe(12)
        user = User.objects.create_user("admin", password=password)
        Membership.objects.create(user=user, role=Role.ADMIN)
        return f"sign in as admin, password {password} (shown once: change it under Preferences)"


def _way_in(share_a_password: bool) -> str:
    if share_a_password:
        password = settings.OPSCONSOLE_HOME.read_keys().demo_password
        return f"sign in as admin, operator, reviewer or viewer, password {password}"
    if settings.IS_HERE_ONLY:
        return "sign in"
    return "sign in; `manage.py ops password-link admin` makes a link to set a password"
