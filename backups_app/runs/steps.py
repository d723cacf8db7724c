"""The steps of taking, proving and restoring backups."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import psycopg
from django.utils.formats import date_format
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from backups_app.choices import BackupReason, ProofLevel
from backups_app.models import Backup, BackupPolicy, ReplacedDatabase
from backups_app.parameters import (
    ImportParameters,
    OfBackup,
    ProveParameters,
    RestoreAsParameters,
    RestoreParameters,
    UndoParameters,
)
from backups_app.runs import (
    building,
    importing,
    proving,
    quarantine,
    restorable,
    restore_check,
    swapping,
    taking,
)
from backups_app.runs.results import RestoreAsResult, WithBackup, WithReplaced
from backups_app.runs.taking import BACKUP
from backups_app.services import consent
from opsconsole.environments.models import Target
from opsconsole.environments.obstacles import Need
from opsconsole.environments.survey import tools_for
from opsconsole.exceptions import StepFailed
from opsconsole.formats import count, counted, duration, size
from opsconsole.runs.documents import Parameters
from opsconsole.runs.models import Run
from opsconsole.runs.step import Note, Promise, RunContext, Step
from opsconsole.sentences import Text, say, say_count
from opsconsole.targets import server

RESTORES = Note[Backup]("backup to restore")
BUILT = Note[str]("name of the built database")
UNDOES = Note[ReplacedDatabase]("replaced database to bring back")


class BackupPreflight(Step):
    name = gettext_noop("preflight")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        return Promise(
            _("Preflight"), _("checks the server's version, the client tools and the free space")
        )

    def run(self, context: RunContext) -> Text:
        read = building.look_at_target(context)
        building.refuse_obstacles(context, read, {Need.DUMP})
        building.require_scratch(context)
        tools, bytes_there = tools_for(context.dsn, read.major), read.size_bytes or 0
        taking.require_space(context, bytes_there)
        context.log(
            f"preflight: PostgreSQL {read.version}, pg_dump {tools.version}, {size(bytes_there)}"
        )
        return say("PostgreSQL %(version)s, %(size)s", version=read.version, size=size(bytes_there))


class TakeBackup(Step[Parameters, WithBackup]):
    name = gettext_noop("backup")

    def __init__(self, reason: BackupReason) -> None:
        self.reason = reason

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        return Promise(_("Backup"), _dumped(target))

    def run(self, context: RunContext[Parameters, WithBackup]) -> Text:
        backup = taking.take_backup(context, self.reason)
        return size(backup.size_bytes)


class ProveBackup(Step):
    name = gettext_noop("prove")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        return Promise(_("Prove"), _proven(target))

    def run(self, context: RunContext) -> Text:
        backup = context.get(BACKUP)
        proving.prove_backup(context, backup)
        return say_count(
            "content equal, %(count)s row", "content equal, %(count)s rows", backup.rows
        )


class ImportPreflight(Step):
    """What an import needs of the servers: the source and the disk are found out by reading."""

    name = gettext_noop("preflight")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        if quarantine.is_set(target):
            how = _("checks that the quarantine answers, and that its role can touch nothing else")
        else:
            how = _("connects to the environment's server")
        return Promise(_("Preflight"), how)

    def run(self, context: RunContext) -> Text:
        read = building.look_at_target(context)
        if quarantine.is_set(context.run.target):
            place = quarantine.require_confined(context)
            context.log(f"preflight: quarantine {place.shown()}, whose role touches nothing else")
        return say("PostgreSQL %(version)s", version=read.version)


class ImportArchive(Step[ImportParameters, WithBackup]):
    name = gettext_noop("import")

    def promise(self, target: Target, parameters: ImportParameters) -> Promise:
        storage = BackupPolicy.objects.of(target.environment).storage
        return Promise(
            _("Import"),
            _(
                "a worker unpacks and lists the archive, and stores it in %(storage)s, compressed "
                "and encrypted as the policy says; plain SQL is refused, and never run"
            )
            % {"storage": storage},
        )

    def run(self, context: RunContext[ImportParameters, WithBackup]) -> Text:
        backup = importing.import_archive(context)
        return say("%(size)s, in quarantine", size=size(backup.size_bytes))


class ReleaseFromQuarantine(Step):
    """Restore it in quarantine; what it then holds is what it is compared with later."""

    name = gettext_noop("prove")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        if quarantine.is_set(target):
            how = _(
                "restores it at the quarantine address, and counts and hashes its rows; until that "
                "has worked it cannot be restored anywhere else"
            )
        else:
            how = _(
                "nothing: no quarantine address is set for this environment, so the archive is "
                "stored and not restored"
            )
        return Promise(_("Prove"), how)

    def run(self, context: RunContext) -> Text:
        backup = context.get(BACKUP)
        if not quarantine.is_set(context.run.target):
            context.log(f"backup: not restored: {quarantine.NO_ADDRESS}", "hm")
            return say("stored, not restored: no quarantine address is set")
        proving.prove_backup(context, backup, ProofLevel.RESTORED)
        return say_count("restored, %(count)s row", "restored, %(count)s rows", backup.rows)


class CopyBackup(Step):
    """To the policy's other storages; one that fails leaves the others and the backup as they are."""

    name = gettext_noop("copy")

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        policy = BackupPolicy.objects.of(target.environment)
        names = [str(each) for each in policy.copies.all()] if policy.pk else []
        if not names:
            return Promise(_("Copy"), _("the policy asks for no other copy"))
        return Promise(
            _("Copy"),
            _("copies it to %(storages)s, and reads each copy back")
            % {"storages": ", ".join(names)},
        )

    def run(self, context: RunContext) -> Text:
        problems = taking.copy_backup(context, context.get(BACKUP))
        if problems:
            raise StepFailed(
                say(
                    "the backup is proven, but not copied everywhere: %(problem)s",
                    problem=problems[0],
                )
            )
        return say("in every storage of the policy")


class TakeProvenBackup(Step[Parameters, WithBackup]):
    """Both in one step, as part of a run that changes the database."""

    name = gettext_noop("backup")

    def __init__(self, reason: BackupReason) -> None:
        self.reason = reason

    def promise(self, target: Target, parameters: Parameters) -> Promise:
        return Promise(_("Backup"), f"{_dumped(target)}; {_proven(target)}")

    def run(self, context: RunContext[Parameters, WithBackup]) -> Text:
        backup = taking.take_backup(context, self.reason)
        proving.prove_backup(context, backup)
        # A copy that fails is told, and does not stop the run: one proven backup is there.
        taking.copy_backup(context, backup)
        return say("proven: content equal, %(size)s", size=size(backup.size_bytes))


class ProveAgain(Step[ProveParameters, WithBackup]):
    name = gettext_noop("prove")

    def promise(self, target: Target, parameters: ProveParameters) -> Promise:
        how = {
            ProofLevel.CHECKSUM: _("compares the checksum of every copy"),
            ProofLevel.DECODED: _("has pg_restore read the whole archive"),
            ProofLevel.RESTORED: _("restores it into a scratch database and counts its rows"),
            ProofLevel.CONTENT: _proven(target),
        }
        return Promise(_("Prove"), how.get(parameters.level, ""))

    def run(self, context: RunContext[ProveParameters, WithBackup]) -> Text:
        backup = Backup.objects.get(pk=context.parameters.backup)
        context.put(BACKUP, backup)
        context.result.backup = backup.pk
        level = context.parameters.level
        proving.prove_backup(context, backup, level)
        if level >= ProofLevel.RESTORED:
            return say(
                "%(proof)s, restored in %(time)s",
                proof=level.label,
                time=duration(backup.restore_seconds or 0),
            )
        return str(level.label)


class RestorePreflight(Step[OfBackup]):
    """Before a restore into a new database."""

    name = gettext_noop("preflight")

    def promise(self, target: Target, parameters: OfBackup) -> Promise:
        return Promise(_("Preflight"), _("checks versions, rights, extensions and roles"))

    def run(self, context: RunContext[OfBackup]) -> Text:
        with context.connect("preflight") as connection:
            _look_before(context, connection, exchanges=False)
        return say("nothing blocks")


class ExchangePreflight(Step[RestoreParameters, WithReplaced]):
    """Before a restore into a database that is to take the live one's place."""

    name = gettext_noop("preflight")

    def promise(self, target: Target, parameters: RestoreParameters) -> Promise:
        return Promise(
            _("Preflight"),
            _("checks versions, rights, extensions, roles, and what blocks an exchange"),
        )

    def run(self, context: RunContext[RestoreParameters, WithReplaced]) -> Text:
        with context.connect("preflight") as connection:
            _look_before(context, connection, exchanges=True)
        swapping.require_consent(
            context, swapping.known_to_stay(context), context.parameters.consents
        )
        return say("nothing blocks")


def _look_before(
    context: RunContext[OfBackup], connection: psycopg.Connection, *, exchanges: bool
) -> None:
    """Raise StepFailed for what blocks the restore, Refused without the source's consent."""
    backup = Backup.objects.get(pk=context.parameters.backup)
    context.put(RESTORES, backup)
    consent.require_restore(context.run.requested_by, backup, context.environment)
    findings = restore_check.find(
        connection,
        backup,
        restorable.trial_of(context.dsn, context.run.pk, context.session_name("trial")),
        keeps_owners=backup.keeps_owners_in(context.run.target_id),
        exchanges=exchanges,
    )
    for finding in findings:
        context.log(f"preflight: {finding.what}: {finding.text}", "" if finding.is_ok else "no")
    blocking = [finding.text for finding in findings if not finding.is_ok]
    if blocking:
        raise StepFailed(blocking[0])


class BuildReplacement(Step[OfBackup]):
    """Restore beside the live database and compare with the manifest; the live one is not touched."""

    name = gettext_noop("restore")

    def promise(self, target: Target, parameters: OfBackup) -> Promise:
        return Promise(
            _("Restore"),
            _(
                "builds a new database beside the live one%(size)s and compares it with the "
                "backup, table by table: if a single row differs, nothing is replaced"
            )
            % {"size": _size_of(parameters)},
        )

    def run(self, context: RunContext[OfBackup]) -> Text:
        backup = context.get(RESTORES)
        context.put(BUILT, swapping.build_replacement(context, backup))
        return say_count(
            "%(count)s row, content equal", "%(count)s rows, content equal", backup.rows
        )


class BuildNewDatabase(Step[RestoreAsParameters, RestoreAsResult]):
    """Restore into a new database of the same server, which stays there under its own name."""

    name = gettext_noop("restore")

    def promise(self, target: Target, parameters: RestoreAsParameters) -> Promise:
        return Promise(
            _("Restore"),
            _(
                "builds the new database %(name)s on the same server%(size)s and compares it with "
                "the backup, table by table; the live database is not touched"
            )
            % {"name": parameters.database, "size": _size_of(parameters)},
        )

    def run(self, context: RunContext[RestoreAsParameters, RestoreAsResult]) -> Text:
        backup = context.get(RESTORES)
        name = context.parameters.database
        built = building.built_name(context.dsn.database, context.run.pk)
        with context.connect("new", database=context.dsn.maintenance_database) as connection:
            if server.database_oid(connection, name) is not None:
                raise StepFailed(
                    say("there already is a database %(name)s: choose another name", name=name)
                )
        building.build_copy(context, backup, built)
        context.close_sessions()
        with context.connect("new", database=context.dsn.maintenance_database) as connection:
            server.rename_database(connection, built, name)
        context.result.database = name
        context.log(f"restore: {counted(backup.rows, 'row')} in {name}, content equal", "ok")
        return say_count(
            "%(count)s row in %(name)s, content equal",
            "%(count)s rows in %(name)s, content equal",
            backup.rows,
            name=name,
        )


class UndoPreflight(Step[UndoParameters]):
    name = gettext_noop("preflight")

    def promise(self, target: Target, parameters: UndoParameters) -> Promise:
        return Promise(
            _("Preflight"),
            _("checks that the replaced database is still there, and no other took its place"),
        )

    def run(self, context: RunContext[UndoParameters]) -> Text:
        replaced = ReplacedDatabase.objects.get(pk=context.parameters.replaced)
        with context.connect("preflight", database=context.dsn.maintenance_database) as connection:
            kept = server.database_oid(connection, replaced.replaced_name)
            live = server.database_oid(connection, replaced.live_name)
        if kept != replaced.old_oid:
            raise StepFailed(
                say("%(replaced)s is no longer on the server", replaced=replaced.replaced_name)
            )
        if live != replaced.new_oid:
            raise StepFailed(
                say(
                    "%(live)s is not the database that this restore made: another one has replaced it since",
                    live=replaced.live_name,
                )
            )
        context.put(UNDOES, replaced)
        return say("%(replaced)s is there, closed", replaced=replaced.replaced_name)


class SwapBack(Step[UndoParameters, WithReplaced]):
    """Exchange the live database with the one that it had replaced."""

    name = gettext_noop("swap")

    def promise(self, target: Target, parameters: UndoParameters) -> Promise:
        replaced = ReplacedDatabase.objects.filter(pk=parameters.replaced).first()
        return Promise(
            _("Swap"),
            _(
                "brings %(name)s back: %(exchange)s. The restored database is kept, closed, with "
                "everything written since %(when)s; the application no longer sees it"
            )
            % {
                "name": replaced.replaced_name if replaced else "",
                "exchange": _exchange(),
                "when": _moment(replaced.swapped_at if replaced else None),
            },
        )

    def run(self, context: RunContext[UndoParameters, WithReplaced]) -> Text:
        undoes = context.get(UNDOES)
        accepted = swapping.Accepted(context.parameters.consents)
        replaced = swapping.swap_in(context, undoes.replaced_name, accepted, undoes)
        return say(
            "undone; the restored database is kept as %(replaced)s", replaced=replaced.replaced_name
        )


class SwapIn(Step[RestoreParameters, WithReplaced]):
    name = gettext_noop("swap")

    def promise(self, target: Target, parameters: RestoreParameters) -> Promise:
        backup = Backup.objects.defer("manifest").filter(pk=parameters.backup).first()
        return Promise(
            _("Swap"),
            _(
                "%(exchange)s. The replaced database is kept, closed, with everything written "
                "since %(when)s; the application no longer sees it"
            )
            % {
                "exchange": _exchange(),
                "when": _moment(backup.taken_at if backup else None),
            },
        )

    def run(self, context: RunContext[RestoreParameters, WithReplaced]) -> Text:
        backup = context.get(RESTORES)
        is_way_back = Run.objects.filter(way_back=context.run).exists()
        accepted = replace(
            swapping.Accepted.of(context, backup, is_way_back=is_way_back),
            consents=context.parameters.consents,
        )
        replaced = swapping.swap_in(context, context.get(BUILT), accepted)
        return say("replaced database kept as %(replaced)s", replaced=replaced.replaced_name)


# -- what people are told before


def _dumped(target: Target) -> str:
    state = target.latest_state
    server = state.seen.server if state else None
    if server is None or server.size_bytes is None:
        return _("dumps the database in one snapshot")
    return _("dumps the %(size)s database in one snapshot") % {"size": size(server.size_bytes)}


def _proven(target: Target) -> str:
    return _(
        "restores the backup into a scratch database %(where)s and compares every row and sequence"
    ) % {"where": _where_scratch(target)}


def _where_scratch(target: Target) -> str:
    if target.scratch_dsn_encrypted:
        return _("on the scratch server")
    return _("beside the live one")


def _size_of(parameters: OfBackup) -> str:
    """How large it is and how long it took, in brackets; "" where that is not known."""
    backup = Backup.objects.filter(pk=parameters.backup).first()
    if backup is None or not backup.is_counted:
        return ""
    facts = [
        ngettext("%(n)s row", "%(n)s rows", backup.rows) % {"n": count(backup.rows)},
        size(backup.raw_bytes),
    ]
    if backup.restore_seconds is not None:
        took = _("took %(time)s when it was proven")
        facts.append(took % {"time": duration(backup.restore_seconds)})
    return f" ({', '.join(facts)})"


def _exchange() -> str:
    return _(
        "exchanges the names of the two databases in one short window, usually well under a "
        "second; every session is cut off and can reconnect at once"
    )


def _moment(moment: datetime | None) -> str:
    return date_format(localtime(moment), "j M Y, H:i") if moment else _("then")
