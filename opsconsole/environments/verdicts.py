"""Whether the console will be able to do its work on a target: a verdict for each thing it needs."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from opsconsole.environments.models import Target, TargetState
from opsconsole.environments.obstacles import Obstacle, obstacles
from opsconsole.environments.readings import BaselineMissing, ServerRead
from opsconsole.language import tell

WORST_FIRST = ("bad", "warn", "good")


@dataclass(frozen=True)
class Verdict:
    """`tone`: good, warn (it works, with a risk) or bad (it will not). `reason` is why, in English
    as it was kept, `remedy` what to do, `command` what somebody has to run."""

    tone: str
    text: str
    remedy: str = ""
    command: str = ""
    reason: str = ""


def verdicts_of(target: Target, state: TargetState) -> list[Verdict]:
    """The worst first; none of a state whose server could not be read.

    With a server and an error, the error is about the migrations, as in a `Draft`.
    """
    read = state.seen
    # An earlier version kept less of a server.
    if read.server is None or not read.server.user:
        return []
    in_the_way = obstacles(read.server)
    found = [
        *map(_of, in_the_way),
        *_server(read.server),
        *_pooler(read.server),
        _role(read.server),
        *_rights(in_the_way),
        _migrations(state),
        *([_health(target)] if target.environment.pk else []),
    ]
    return sorted(found, key=lambda verdict: WORST_FIRST.index(verdict.tone))


def _server(server: ServerRead) -> list[Verdict]:
    if server.tools_problem:
        return []
    text = _("PostgreSQL %(version)s answers, and the workers have pg_dump for it.")
    return [Verdict("good", text % {"version": server.version})]


def _pooler(server: ServerRead) -> list[Verdict]:
    """Only where it is known. A pooler is refused before anything is read, but one may be there that
    the address vouches for, and earlier versions did not look."""
    return [Verdict("good", _("No connection pooler in between."))] if server.is_direct else []


def _role(server: ServerRead) -> Verdict:
    if server.is_superuser:
        return Verdict(
            "warn",
            _("The role %(role)s is a superuser: whatever it runs may do anything on the server.")
            % {"role": server.user},
            _("Give the address of a role that owns this database and may create databases."),
        )
    return Verdict("good", _("The role %(role)s is no superuser.") % {"role": server.user})


def _of(obstacle: Obstacle) -> Verdict:
    return Verdict(
        "bad" if obstacle.stops else "warn",
        tell(obstacle.text),
        tell(obstacle.remedy),
        obstacle.command,
    )


def _rights(in_the_way: list[Obstacle]) -> list[Verdict]:
    if any(obstacle.about == "rights" for obstacle in in_the_way):
        return []
    return [
        Verdict(
            "good",
            _("It owns the database and may create others, to prove backups and to go back."),
        )
    ]


def _migrations(state: TargetState) -> Verdict:
    if state.error:
        return Verdict(
            "bad",
            _("The migrations could not be read:"),
            _(
                "Correct the migrations folder, or the application's repository in the settings, and "
                "test it again."
            ),
            reason=state.error,
        )
    known, pending = len(state.seen.migrations), len(state.pending)
    if state.seen.baseline:
        return _baseline(state.seen.baseline)
    if not known:
        return Verdict(
            "bad",
            _("The migrations folder holds no migrations, and the database knows of none."),
            _("Name the folder that holds them, for Prisma prisma/migrations."),
        )
    return Verdict(
        "good",
        ngettext("%(n)d migration, %(pending)d pending.", "%(n)d migrations, %(pending)d pending.", known)
        % {"n": known, "pending": pending},
    )  # fmt: skip


def _baseline(missing: BaselineMissing) -> Verdict:
    if not missing.file:
        return Verdict(
            "bad",
            _("%(table)s is there, and %(tool)s has no history here: it refuses to migrate.")
            % {"table": missing.table, "tool": missing.tool},
            _("Write a migration that creates what is there, then record it as applied:"),
            command=missing.command,
        )
    return Verdict(
        "bad",
        _(
            "No migration is recorded as applied, but %(table)s is there: %(file)s would fail to "
            "create it."
        )
        % {"table": missing.table, "file": missing.file},
        _("Record each migration whose tables are there as applied, oldest first:"),
        command=missing.command,
    )


def _health(target: Target) -> Verdict:
    if target.environment.health_checks.filter(is_enabled=True).exists():
        return Verdict("good", _("Health is checked."))
    return Verdict(
        "warn",
        _("No health check: nobody would see that a migration broke the application."),
        _("Add one in the settings, for instance the application's /health."),
    )
