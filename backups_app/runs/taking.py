"""Take a backup: one snapshot dumped, counted and hashed, and stored in its final form."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from backups_app import copies
from backups_app.archives.archive import Manifest, StoredForm, Written, write_archive
from backups_app.archives.dump import Snapshot, ToolSession, dump_folder, dump_globals, dump_stream
from backups_app.archives.encryption import encrypt, parse_recipients, public_key
from backups_app.choices import BackupReason
from backups_app.models import Backup, BackupCopy, BackupPolicy, Storage
from backups_app.runs import building
from backups_app.runs.results import WithBackup
from backups_app.stores.kinds import Store
from opsconsole.environments import secrets
from opsconsole.environments.survey import tools_for
from opsconsole.exceptions import AdapterError, StepFailed
from opsconsole.formats import size
from opsconsole.runs.documents import Parameters
from opsconsole.runs.patience import save_new
from opsconsole.runs.step import Estimate, Note, RunContext
from opsconsole.sentences import say
from opsconsole.targets import activity, content, ddl_log, server
from opsconsole.targets.belongings import read_belongings, recorded
from opsconsole.targets.event_triggers import read_event_triggers
from opsconsole.targets.ownership import read_ownership
from opsconsole.targets.server import ServerFacts
from opsconsole.targets.tools import ClientTools

# The backup that this run took, or proves.
BACKUP = Note[Backup]("backup")
# pg_dump writes rows as text: on average a little less than what the table occupies.
RAW_SHARE_OF_DATABASE = 0.7
FIRST_WITH_COPY_PROGRESS = 14


def form_of(policy: BackupPolicy) -> StoredForm:
    """How the policy stores archives; the console's own key is one of the recipients.

    Raises StepFailed when the console has no key, and AdapterError for a bad recipient.
    """
    recipients = parse_recipients(policy.recipients)
    if recipients:
        own = secrets.backup_identities()
        if not own:
            raise StepFailed(
                say(
                    "the console has no backup key of its own, so it could not prove an encrypted backup: "
                    "set OPSCONSOLE_BACKUP_IDENTITIES",
                )
            )
        recipients = list(dict.fromkeys([public_key(own[0]), *recipients]))
    return StoredForm(policy.format, policy.level, tuple(recipients))


def require_space(context: RunContext, database_bytes: int) -> None:
    """Raise StepFailed when the storage, or the temporary folder, cannot hold the archive."""
    policy = BackupPolicy.objects.of(context.environment)
    free = copies.store_of(policy.storage).free_bytes()
    if free is not None and free < database_bytes:
        raise StepFailed(
            say(
                "%(free)s are free in %(storage)s and the archive may need up to %(needed)s: free some "
                "space and run again",
                free=size(free),
                storage=policy.storage,
                needed=size(database_bytes),
            )
        )
    if policy.format == BackupPolicy.Format.DIRECTORY:
        copies.require_space(building.scratch_folder(), database_bytes, "the temporary folder")


def take_backup(context: RunContext[Parameters, WithBackup], reason: BackupReason) -> Backup:
    """Dump the target in one snapshot, with what it holds counted and hashed in that snapshot.

    The row appears when the archive is whole in its storage; a failure leaves no object.
    """
    policy = BackupPolicy.objects.of(context.environment)
    form = form_of(policy)
    return keep_archive(
        context,
        reason,
        policy.storage,
        form,
        lambda store, key: _dump(context, policy, form, store, key),
    )


def keep_archive(
    context: RunContext[Parameters, WithBackup],
    reason: BackupReason,
    storage: Storage,
    form: StoredForm,
    write: Callable[[Store, str], tuple[Manifest, Written]],
) -> Backup:
    """Have `write(store, key)` store an archive and return its manifest; list it as a backup.

    The row appears when the archive is whole in its storage; a failure leaves no object.
    """
    store, key = copies.store_of(storage), _new_key(context, form)
    try:
        manifest, written = write(store, key)
        copies.write_manifest(store, key, manifest)
    except BaseException:
        with suppress(AdapterError):
            copies.delete_objects(store, key)
        raise
    context.log(
        f"backup: {size(written.size_bytes)} ({size(written.raw_bytes)} before "
        f"compression), sha256 {written.sha256[:8]}…{written.sha256[-4:]}",
        "ok",
    )
    backup = Backup(
        environment=context.environment,
        target=context.run.target,
        run=context.run,
        reason=reason,
        key=key,
        size_bytes=written.size_bytes,
        raw_bytes=written.raw_bytes,
        sha256=written.sha256,
        manifest=manifest,
        taken_at=str(manifest["taken_at"]),
    )
    save_new(backup)
    save_new(BackupCopy(backup=backup, storage=storage))
    context.put(BACKUP, backup)
    context.result.backup = backup.pk
    return backup


def copy_backup(context: RunContext, backup: Backup) -> list[str]:
    """Copy a proven backup to the policy's other storages; returns what did not work."""
    policy = BackupPolicy.objects.of(context.environment)
    problems = []
    for storage in policy.copies.exclude(pk=policy.storage_id) if policy.pk else ():
        try:
            copies.copy_to(context, backup, storage)
        except AdapterError as error:
            context.log(f"backup: not copied to {storage}: {error}", "no")
            problems.append(f"{storage}: {error}")
    return problems


def _new_key(context: RunContext, form: StoredForm) -> str:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{context.environment.path}/{moment}-run{context.run.pk}{form.suffix}"


def _dump(
    context: RunContext, policy: BackupPolicy, form: StoredForm, store: Store, key: str
) -> tuple[Manifest, Written]:
    # Nothing is asked of the console's own database while the snapshot is held.
    last = _last_of(context)
    with context.connect("backup:snapshot", autocommit=False) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute("SELECT pg_export_snapshot(), now()").fetchone()
        assert row is not None
        name, taken_at = row
        facts = server.read_facts(connection)
        snapshot = Snapshot(name, facts.encoding)
        tools = tools_for(context.dsn, facts.major)
        context.log(f"backup: pg_dump {tools.version}, {form.format} format, to {key}")
        written_before = activity.rows_written(connection)
        written_by_table = activity.rows_written_by_table(connection)
        sequences_before = content.read_sequences(connection)
        began = time.monotonic()
        with _raw(context, tools, policy, snapshot, facts, last) as (raw, on_progress):
            with store.writer(key) as file:
                written = write_archive(raw, form, file, on_progress)
        seconds = time.monotonic() - began
        _store_globals(context, tools, form, store, key)
        context.log("backup: counting and hashing every table in the dump's snapshot")
        found = {
            "tables": content.read_tables(connection),
            "large_objects": content.read_large_objects(connection),
            "sequences_before": sequences_before,
            "sequences_after": content.read_sequences(connection),
        }
        extensions = _extensions(connection)
        owned = read_ownership(connection, skipped=[ddl_log.SCHEMA])
        event_triggers = [asdict(each) for each in read_event_triggers(connection)]
        belongings = recorded(read_belongings(connection, context.dsn.database))
    state = context.run.target.latest_state
    manifest = {
        **form.as_dict(),
        "archive": key,
        "environment": context.environment.path,
        "taken_at": taken_at.isoformat(),
        "dump_seconds": round(seconds, 2),
        "server": facts.as_dict(),
        "extensions": extensions,
        "owners": sorted({*owned.roles, *owned.schemas.values()}),
        "owned": owned._asdict(),
        "event_triggers": event_triggers,
        "belongings": belongings,
        "client": tools.version,
        "size_bytes": written.size_bytes,
        "raw_bytes": written.raw_bytes,
        "sha256": written.sha256,
        "rows_written": written_before,
        "rows_written_by_table": written_by_table,
        "database_oid": _oid(context),
        "content": found,
        "migrations": state.applied if state else [],
        "migrations_read_at": state.observed_at.isoformat() if state else "",
        "proof": "checksum",
    }
    return manifest, written


def _last_of(context: RunContext) -> Backup | None:
    """The newest backup that was taken of the run's target."""
    taken = Backup.objects.filter(target=context.run.target)
    return taken.exclude(reason=BackupReason.IMPORTED).first()


@contextmanager
def _raw(
    context: RunContext,
    tools: ClientTools,
    policy: BackupPolicy,
    snapshot: Snapshot,
    facts: ServerFacts,
    last: Backup | None,
) -> Iterator[tuple[Iterator[bytes], Callable[[int], None]]]:
    """The dump's bytes as a stream, and whom to tell how many have passed of as many as `last`."""
    total = last.raw_bytes if last else facts.size_bytes * RAW_SHARE_OF_DATABASE
    session = building.tool_session(context, "backup:dump")
    with _what_is_copied(context, session.application_name, facts) as describe:
        estimate = Estimate(context, total, describe)
        with _raw_of(context, tools, policy, snapshot, session, estimate) as raw:
            yield raw


@contextmanager
def _what_is_copied(
    context: RunContext, application_name: str, facts: ServerFacts
) -> Iterator[Callable[[], str]]:
    """A function that says which tables pg_dump copies now, asked of the server."""
    if facts.major < FIRST_WITH_COPY_PROGRESS:
        yield str
        return
    with context.connect("backup:progress") as connection:

        def describe() -> str:
            with suppress(psycopg.Error):
                return "; ".join(activity.tables_copied(connection, application_name))
            return ""

        yield describe


@contextmanager
def _raw_of(
    context: RunContext,
    tools: ClientTools,
    policy: BackupPolicy,
    snapshot: Snapshot,
    session: ToolSession,
    estimate: Estimate,
) -> Iterator[tuple[Iterator[bytes], Callable[[int], None]]]:
    if policy.format == BackupPolicy.Format.CUSTOM:
        yield (
            dump_stream(tools, context.dsn, snapshot=snapshot, session=session),
            estimate.update,
        )
        return
    scratch = building.scratch_folder()
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dump-", dir=scratch) as name:
        # Writing the folder is the long half; packing it is told as the end of it.
        yield (
            dump_folder(
                tools,
                context.dsn,
                Path(name) / "dump",
                jobs=policy.jobs,
                snapshot=snapshot,
                session=session,
                on_progress=estimate.update,
            ),
            lambda _count: None,
        )


def _store_globals(
    context: RunContext, tools: ClientTools, form: StoredForm, store: Store, key: str
) -> None:
    """Store the server's roles beside the archive; a role that may not read them is no failure."""
    try:
        text = dump_globals(tools, context.dsn, building.tool_session(context, "backup:globals"))
    except AdapterError as error:
        context.check()
        context.log(f"backup: the server's roles could not be read: {error}", "hm")
        return
    name = key + copies.GLOBALS + (".age" if form.recipients else "")
    with store.writer(name) as file:
        if form.recipients:
            encrypt(iter([text]), file, form.recipients)
        else:
            file.write(text)


def _extensions(connection: psycopg.Connection) -> dict[str, str]:
    return dict(
        connection.execute("SELECT extname, extversion FROM pg_extension ORDER BY 1").fetchall()
    )


def _oid(context: RunContext) -> int | None:
    with context.connect("backup:oid") as connection:
        return server.database_oid(connection, context.dsn.database)
