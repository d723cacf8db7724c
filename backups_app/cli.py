"""Verbs on backups."""

from __future__ import annotations

import argparse
import json
import uuid
from functools import partial
from pathlib import Path

from backups_app.archives.archive import CHUNK_BYTES
from backups_app.choices import ProofLevel
from backups_app.models import Backup, ReplacedDatabase, Storage
from backups_app.services import (
    choose_way_back,
    import_from_storage,
    import_upload,
    request_backup,
    request_restore,
    request_undo,
    request_verify,
)
from backups_app.services.policies import request_prune
from backups_app.services.recovery import recovery_kit
from opsconsole.cli import DONE, Call, Verb
from opsconsole.environments.cli import target_of
from opsconsole.environments.secrets import allow_opening
from opsconsole.environments.visibility import visible_environments
from opsconsole.exceptions import Kind, Refused
from opsconsole.runs.cli import run_of, started, starts
from opsconsole.web.keys import key_from


def backup_of(call: Call) -> Backup:
    """The backup whose number the call names. Raises Refused when the actor sees none."""
    backup = Backup.objects.listed().filter(pk=key_from(str(call.options.backup))).first()
    if (
        backup is None
        or not visible_environments(call.actor()).filter(pk=backup.environment_id).exists()
    ):
        raise Refused(f"there is no backup {call.options.backup}", kind=Kind.NOT_FOUND)
    return backup


def back_up(call: Call) -> int:
    run = request_backup(
        actor=call.actor(),
        target=target_of(call),
        idempotency_key=uuid.uuid4().hex,
        reason=call.options.reason,
    )
    return started(call, run)


def restore(call: Call) -> int:
    run = request_restore(
        actor=call.actor(),
        backup=backup_of(call),
        target=target_of(call),
        idempotency_key=uuid.uuid4().hex,
        typed_name=call.options.confirm,
        reason=call.options.reason,
        new_database=call.options.as_database,
        backs_up_first=call.options.backup_first,
        trusts_source=call.options.trust_source,
        consents=call.options.leave_behind,
    )
    return started(call, run)


def verify(call: Call) -> int:
    run = request_verify(
        actor=call.actor(),
        backup=backup_of(call),
        idempotency_key=uuid.uuid4().hex,
        level=ProofLevel[call.options.level.upper()],
    )
    return started(call, run)


def import_archive(call: Call) -> int:
    target = target_of(call)
    more = {
        "actor": call.actor(),
        "target": target,
        "idempotency_key": uuid.uuid4().hex,
        "reason": call.options.reason,
    }
    if call.options.storage:
        offered = Storage.objects.offered_to(target.environment.application)
        storage = offered.filter(name=call.options.storage).first()
        if storage is None:
            raise Refused(f"there is no storage {call.options.storage}", kind=Kind.NOT_FOUND)
        return started(call, import_from_storage(storage=storage, key=call.options.archive, **more))
    path = Path(call.options.archive)
    try:
        with path.open("rb") as file:
            chunks = iter(partial(file.read, CHUNK_BYTES), b"")
            return started(call, import_upload(name=path.name, chunks=chunks, **more))
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from None


def undo(call: Call) -> int:
    replaced = ReplacedDatabase.objects.kept().filter(run=run_of(call)).first()
    if replaced is None:
        raise Refused(f"run {call.options.run} keeps no replaced database")
    run = request_undo(
        actor=call.actor(),
        replaced=replaced,
        idempotency_key=uuid.uuid4().hex,
        typed_name=call.options.confirm,
        reason=call.options.reason,
        consents=call.options.leave_behind,
    )
    return started(call, run)


def prune(call: Call) -> int:
    run = request_prune(
        actor=call.actor(),
        target=target_of(call),
        idempotency_key=uuid.uuid4().hex,
    )
    return started(call, run)


def print_recovery_kit(call: Call) -> int:
    allow_opening()
    kit = recovery_kit(
        actor=call.actor(), environment=target_of(call).environment, with_key=call.options.with_key
    )
    call.output.write(json.dumps({"kit": kit}) if call.options.json else kit)
    return DONE


def take_way_back(call: Call) -> int:
    run = choose_way_back(
        actor=call.actor(),
        run=run_of(call),
        reason=call.options.reason,
        idempotency_key=uuid.uuid4().hex,
        typed_name=call.options.confirm,
        consents=call.options.leave_behind,
    )
    return started(call, run)


def _exchange_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--leave-behind", action="append", default=[], metavar="NAME",
        help="what belongs to the live database and may stay behind, as a run named it",
    )  # fmt: skip


def _restore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", dest="environment", required=True)
    parser.add_argument("--confirm", default="", help="the name of a protected environment")
    parser.add_argument(
        "--as-database", default="", help="into a new database of this name; replaces nothing"
    )
    parser.add_argument(
        "--backup-first", action="store_true", help="back the live database up before"
    )
    parser.add_argument(
        "--trust-source",
        action="store_true",
        help="restore an archive made elsewhere: the code in it runs as the environment's role",
    )
    _exchange_arguments(parser)


def _level_arguments(parser: argparse.ArgumentParser) -> None:
    levels = [level.name.lower() for level in ProofLevel if level >= 0]
    parser.add_argument("--level", choices=levels, default="content")


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", help="a file, or with --storage the path in it")
    parser.add_argument("--storage", default="", help="the name of the storage it lies in")


def _undo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--confirm", default="", help="the environment's short name")
    _exchange_arguments(parser)


def _kit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("environment")
    parser.add_argument("--with-key", action="store_true", help="print the secret keys too")


def _way_back_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--confirm", default="", help="the name of a protected environment")
    _exchange_arguments(parser)


VERBS = [
    Verb("backup", "take and prove a backup", back_up, starts("environment")),
    Verb("restore", "swap a backup in", restore, starts("backup", more=_restore_arguments)),
    Verb("verify", "prove a backup again", verify, starts("backup", more=_level_arguments)),
    Verb("import", "import an archive made elsewhere", import_archive,
         starts("environment", more=_import_arguments)),
    Verb("undo", "take a restore back", undo, starts("run", more=_undo_arguments)),
    Verb("prune", "delete what the policy does not keep", prune, starts("environment")),
    Verb("recovery-kit", "print what a restore without the console needs", print_recovery_kit,
         _kit_arguments),
    Verb("way-back", "take the way back that a run offers", take_way_back,
         starts("run", more=_way_back_arguments)),
]  # fmt: skip
