"""`manage.py ops`: everything the pages do, from a shell, through the same services and queue."""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from django.core.management.base import BaseCommand, CommandParser
from django.db import OperationalError
from django.utils.timezone import now

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
from migrations_app.reading.drift import drift_of
from migrations_app.services.doctor import request_resolution
from migrations_app.services.drift import request_check
from migrations_app.services.migrations import (
    CHECKLIST,
    complete_checklist,
    current_plan,
    request_migrate,
    request_observation,
)
from opsconsole.access.models import User
from opsconsole.access.permissions import authorize, console_admins
from opsconsole.audit.visibility import visible_events
from opsconsole.environments.models import Environment
from opsconsole.environments.secrets import allow_opening
from opsconsole.environments.visibility import visible_environments
from opsconsole.exceptions import ConsoleError, Refused
from opsconsole.health import services as health
from opsconsole.health.models import HealthResult
from opsconsole.project.demo_verbs import DONE, DemoVerbs
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import LogLine, Run
from opsconsole.web.keys import key_from

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
ANSWER_SECONDS = 30
MOST_ROWS = 10_000
# The option that gives what a refusal asks for.
OPTIONS = {
    "typed_name": "--confirm NAME",
    "checklist": "--checked, once all of it is done",
    "reason": "--reason TEXT",
}
Answer = TypeVar("Answer")


class Command(DemoVerbs, BaseCommand):
    help = "List, migrate, back up, restore and check environments of a running console."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        common = argparse.ArgumentParser(add_help=False)
        common.add_argument("--as", dest="user", help="act as this user (default: the first admin)")
        common.add_argument("--json", action="store_true", help="print one JSON document")
        waiting = argparse.ArgumentParser(add_help=False, parents=[common])
        waiting.add_argument("--wait", action="store_true", help="follow the log to the end")
        waiting.add_argument("--reason", default="", help="why; kept with the run")
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

        def verb(
            name: str, text: str, *, parents: list, takes: str = ""
        ) -> argparse.ArgumentParser:
            added = verbs.add_parser(name, help=text, parents=parents)
            if takes:
                added.add_argument(takes)
            return added

        verb("environments", "list environments", parents=[common])
        verb("pending", "read what is pending", parents=[common], takes="environment")
        verb("drift", "how the schema differs from what is expected", parents=[common],
             takes="environment")  # fmt: skip
        migrate = verb("migrate", "apply what is pending", parents=[waiting], takes="environment")
        migrate.add_argument("--confirm", default="", help="the name of a protected environment")
        migrate.add_argument(
            "--checked", action="store_true",
            help="the pre-deployment checklist of a protected environment is done",
        )  # fmt: skip
        resolve = verb(
            "resolve", "mark or finish a failed migration", parents=[waiting], takes="environment"
        )
        resolve.add_argument("migration")
        resolve.add_argument("--mark", choices=["rolled_back", "applied", "finish"], required=True)
        verb("backup", "take and prove a backup", parents=[waiting], takes="environment")
        restore = verb("restore", "swap a backup in", parents=[waiting], takes="backup")
        restore.add_argument("--to", dest="environment", required=True)
        restore.add_argument("--confirm", default="", help="the name of a protected environment")
        restore.add_argument(
            "--as-database", default="", help="into a new database of this name; replaces nothing"
        )
        restore.add_argument(
            "--backup-first", action="store_true", help="back the live database up before"
        )
        verify = verb("verify", "prove a backup again", parents=[waiting], takes="backup")
        verify.add_argument(
            "--level", choices=[level.name.lower() for level in ProofLevel if level >= 0],
            default="content",
        )  # fmt: skip
        imported = verb("import", "import an archive made elsewhere", parents=[waiting],
                        takes="environment")  # fmt: skip
        imported.add_argument("archive", help="a file, or with --storage the path in it")
        imported.add_argument("--storage", default="", help="the name of the storage it lies in")
        undo = verb("undo", "take a restore back", parents=[waiting], takes="run")
        undo.add_argument("--confirm", default="", help="the environment's short name")
        verb("prune", "delete what the policy does not keep", parents=[waiting],
             takes="environment")  # fmt: skip
        kit = verb(
            "recovery-kit", "print what a restore without the console needs", parents=[common],
            takes="environment",
        )  # fmt: skip
        kit.add_argument("--with-key", action="store_true", help="print the secret keys too")
        verb("health", "ask the health checks now", parents=[common], takes="environment")
        listing = verb("runs", "list runs, newest first", parents=[common])
        listing.add_argument("--limit", type=_row_count, default=20)
        one = verb("run", "show one run", parents=[common], takes="run")
        one.add_argument("--log", action="store_true", help="print its log")
        verb("cancel", "cancel a run", parents=[common], takes="run")
        back = verb(
            "way-back", "take the way back that a run offers", parents=[waiting], takes="run"
        )
        back.add_argument("--confirm", default="", help="the name of a protected environment")
        decide = verb("decide", "settle a run that needs it", parents=[common], takes="run")
        decide.add_argument("status", choices=["succeeded", "failed", "rolled_back"])
        decide.add_argument("--reason", required=True)
        trail = verb("audit", "list the audit trail, newest first", parents=[common])
        trail.add_argument("--limit", type=_row_count, default=50)
        self.add_demo(verbs, common)

    def handle(self, *_args: Any, **options: Any) -> None:
        self.options = argparse.Namespace(**options)
        name = options["thing"] if options["verb"] == "demo" else options["verb"]
        action: Callable[[], int] = getattr(self, "do_" + name.replace("-", "_"))
        try:
            _require_text(options)
            status = action()
        except Refused as refusal:
            option = OPTIONS.get(refusal.field)
            self._refuse(f"{refusal} ({option})" if option else str(refusal))
        except ConsoleError as error:
            self._refuse(str(error))
        except KeyboardInterrupt:
            self.stderr.write("stopped watching; what was started goes on (`ops runs`)")
            sys.exit(INTERRUPTED)
        except OperationalError:
            self._refuse("the console's database does not answer: is `manage.py up` running on "
                         "this OPSCONSOLE_HOME?")  # fmt: skip
        else:
            sys.exit(status)

    def _refuse(self, message: str) -> None:
        self.stderr.write(message)
        sys.exit(REFUSED)

    # -- who and what

    def actor(self) -> User:
        if self.options.user:
            user = User.objects.filter(username=self.options.user, is_active=True).first()
        else:
            user = console_admins().order_by("pk").first()
        if user is None:
            raise Refused(f"there is no user {self.options.user or 'with the role admin'}")
        return user

    def environment(self) -> Environment:
        path = self.options.environment
        try:
            found: Environment = visible_environments(self.actor()).get(
                application__slug=path.partition("/")[0], slug=path.partition("/")[2]
            )
            return found
        except Environment.DoesNotExist:
            known = ", ".join(e.path for e in visible_environments(self.actor()))
            raise Refused(f"there is no environment {path}; there are: {known or 'none'}") from None

    def run_of(self) -> Run:
        number = key_from(str(self.options.run))
        if not number:
            raise Refused(f"{self.options.run} is not the number of a run")
        run = Run.objects.for_list().filter(pk=number).first()
        if run is None:
            raise Refused(f"there is no run {self.options.run}")
        authorize(self.actor(), "console.view", run.environment)
        return run

    def print(self, document: Any, lines: list[str]) -> None:
        if self.options.json:
            self.stdout.write(json.dumps(document, indent=2, default=str))
        else:
            for line in lines:
                self.stdout.write(line)

    # -- verbs

    def do_environments(self) -> int:
        rows = []
        for environment in visible_environments(self.actor()):
            state = environment.target.latest_state
            known = state is not None and not state.error
            rows.append(
                {
                    "environment": environment.path,
                    "protected": environment.is_protected,
                    "pending": len(state.pending) if known and state else None,
                    "applied": len(state.applied) if known and state else None,
                    "read_at": state.observed_at if state else None,
                    "error": state.error if state else "not read yet",
                }
            )
        self.print(rows, [f"{r['environment']:40} {_pending_text(r)}" for r in rows])
        return DONE

    def do_pending(self) -> int:
        state = self._fresh_state(self.environment())
        if state.error:
            raise Refused(state.error)
        rows = [m for m in state.data["migrations"] if m["state"] in {"pending", "out_of_order"}]
        lines = [m["name"] for m in rows] or ["nothing is pending"]
        self.print(rows, lines + [f"refused: {text}" for text in state.data["refusals"]])
        return DONE

    def do_drift(self) -> int:
        environment = self.environment()
        asked = now()
        request_check(environment)
        _wait_for(
            lambda: environment.target.schema_readings.filter(last_read_at__gt=asked).first(),
            otherwise="the schema was not read: is a run changing it?",
        )
        drift = drift_of(environment.target)
        changes = drift.changes if drift else []
        rows = [{"sign": c.sign, "name": c.name, "lines": c.lines} for c in changes]
        log = drift.log if drift else []
        lines = [f"{c.sign} {c.name}" for c in changes] or ["no drift"]
        lines += [
            "{at}  {role} ({client}) with {application!r}: {command} {object}".format_map(entry)
            for entry in log
        ]
        self.print({"changes": rows, "log": log}, lines)
        return DONE

    def _fresh_state(self, environment: Environment) -> Any:
        """Ask a worker to read the target, and wait for what it saw."""
        asked = now()
        request_observation(environment)

        def seen() -> Any:
            state = environment.target.latest_state
            return state if state and state.observed_at > asked else None

        return _wait_for(seen)

    def do_migrate(self) -> int:
        environment, actor = self.environment(), self.actor()
        authorize(actor, "run.start", environment)
        self._fresh_state(environment)
        plan, _state = current_plan(environment)
        note = f"confirmed on the command line by {actor}"
        ticked = {key: note for key, _text in CHECKLIST} if self.options.checked else {}
        run = request_migrate(
            actor=actor,
            environment=environment,
            plan_hash=plan.hash,
            idempotency_key=uuid.uuid4().hex,
            reason=self.options.reason,
            typed_name=self.options.confirm,
            checklist=complete_checklist(environment, plan.names, ticked),
        )
        return self._started(run)

    def do_resolve(self) -> int:
        environment = self.environment()
        run = request_resolution(
            actor=self.actor(),
            environment=environment,
            name=self.options.migration,
            mark=self.options.mark,
            reason=self.options.reason,
            idempotency_key=uuid.uuid4().hex,
        )
        return self._started(run)

    def do_backup(self) -> int:
        return self._started(
            request_backup(
                actor=self.actor(),
                environment=self.environment(),
                idempotency_key=uuid.uuid4().hex,
                reason=self.options.reason,
            )
        )

    def do_restore(self) -> int:
        return self._started(
            request_restore(
                actor=self.actor(),
                backup=self.backup(),
                environment=self.environment(),
                idempotency_key=uuid.uuid4().hex,
                typed_name=self.options.confirm,
                reason=self.options.reason,
                new_database=self.options.as_database,
                backs_up_first=self.options.backup_first,
            )
        )

    def do_verify(self) -> int:
        return self._started(
            request_verify(
                actor=self.actor(),
                backup=self.backup(),
                idempotency_key=uuid.uuid4().hex,
                level=ProofLevel[self.options.level.upper()],
            )
        )

    def do_import(self) -> int:
        more = {
            "actor": self.actor(), "environment": self.environment(),
            "idempotency_key": uuid.uuid4().hex, "reason": self.options.reason,
        }  # fmt: skip
        if self.options.storage:
            storage = Storage.objects.shown().filter(name=self.options.storage).first()
            if storage is None:
                raise Refused(f"there is no storage {self.options.storage}")
            return self._started(
                import_from_storage(storage=storage, key=self.options.archive, **more)
            )
        path = Path(self.options.archive)
        try:
            with path.open("rb") as file:
                chunks = iter(partial(file.read, CHUNK_BYTES), b"")
                return self._started(import_upload(name=path.name, chunks=chunks, **more))
        except OSError as error:
            raise Refused(f"cannot read {path}: {error.strerror}") from None

    def do_undo(self) -> int:
        replaced = ReplacedDatabase.objects.kept().filter(run=self.run_of()).first()
        if replaced is None:
            raise Refused(f"run {self.options.run} keeps no replaced database")
        return self._started(
            request_undo(
                actor=self.actor(),
                replaced=replaced,
                idempotency_key=uuid.uuid4().hex,
                typed_name=self.options.confirm,
                reason=self.options.reason,
            )
        )

    def do_prune(self) -> int:
        return self._started(
            request_prune(
                actor=self.actor(),
                environment=self.environment(),
                idempotency_key=uuid.uuid4().hex,
            )
        )

    def do_recovery_kit(self) -> int:
        allow_opening()
        kit = recovery_kit(
            actor=self.actor(), environment=self.environment(), with_key=self.options.with_key
        )
        self.stdout.write(json.dumps({"kit": kit}) if self.options.json else kit)
        return DONE

    def backup(self) -> Backup:
        backup = Backup.objects.listed().filter(pk=key_from(str(self.options.backup))).first()
        if (
            backup is None
            or not visible_environments(self.actor()).filter(pk=backup.environment_id).exists()
        ):
            raise Refused(f"there is no backup {self.options.backup}")
        return backup

    def do_health(self) -> int:
        environment = self.environment()
        if not environment.health_checks.filter(is_enabled=True).exists():
            raise Refused(f"{environment.path} has no health check; an admin adds one in Settings")
        asked = now()
        health.request_check(actor=self.actor(), environment=environment)
        wanted = environment.health_checks.filter(is_enabled=True).count()

        def answers() -> list[HealthResult] | None:
            found = environment.health_results.filter(observed_at__gt=asked, run=None)
            return list(found[:wanted]) if len(found) >= wanted else None

        rows = [_health(r) for r in _wait_for(answers)]
        self.print(
            rows, [f"{r['check']:20} {r['summary']} in {r['latency_ms']:.0f} ms" for r in rows]
        )
        return DONE if all(r["healthy"] for r in rows) else FAILED

    def do_runs(self) -> int:
        seen = Run.objects.for_list().filter(environment__in=visible_environments(self.actor()))
        rows = [_run_row(run) for run in seen[: self.options.limit]]
        self.print(rows, [f"{r['id']:>6}  {r['status']:16} {r['title']}" for r in rows])
        return DONE

    def do_run(self) -> int:
        run = self.run_of()
        document = self._document(run)
        lines = [f"{run}: {run.title}, {run.state.label}", run.summary]
        lines += [
            f"  {s['name']:12} {s['status']:10} {s['seconds'] or 0:.1f} s"
            for s in document["steps"]
        ]
        if self.options.log:
            lines = [_log_text(line) for line in run.log_chunks.read_lines()]
            document["log"] = lines
        self.print(document, lines)
        return DONE

    def do_cancel(self) -> int:
        run = runs.request_cancel(actor=self.actor(), run=self.run_of())
        self.print(_run_row(self.run_of()), [f"{run} is {run.state.label.lower()}"])
        return DONE

    def do_way_back(self) -> int:
        return self._started(
            choose_way_back(
                actor=self.actor(),
                run=self.run_of(),
                reason=self.options.reason,
                idempotency_key=uuid.uuid4().hex,
                typed_name=self.options.confirm,
            )
        )

    def do_decide(self) -> int:
        run = runs.decide_run(
            actor=self.actor(), run=self.run_of(),
            status=RunStatus(self.options.status), reason=self.options.reason,
        )  # fmt: skip
        self.print(_run_row(run), [f"{run} is {run.state.label.lower()}"])
        return DONE

    def do_audit(self) -> int:
        rows = [
            {
                "id": e.pk, "at": e.occurred_at, "who": e.actor_label, "from": e.ip,
                "what": e.action, "outcome": e.outcome, "object": e.object_label,
                "environment": e.environment.path if e.environment else None, "run": e.run_id,
                "reason": e.reason, "details": e.details,
            }
            for e in visible_events(self.actor()).matching()[: self.options.limit]
        ]  # fmt: skip
        self.print(rows, [f"{r['at']:%Y-%m-%d %H:%M:%S} {r['who']:12} {r['what']:24} {r['outcome']:8}"
                          f" {r['object']}" for r in rows])  # fmt: skip
        return DONE

    # -- waiting for a run

    def _started(self, run: Run) -> int:
        if not self.options.wait:
            self.print(_run_row(run), [f"run {run.pk} is queued: {run.title}"])
            return DONE
        seen = 0
        while True:
            run = Run.objects.for_list().get(pk=run.pk)
            if not self.options.json:
                for line in run.log_chunks.read_lines(after=seen):
                    self.stdout.write(_log_text(line))
                    seen = line.number
            if not run.state.is_moving:
                break
            time.sleep(0.3)
        self.print(self._document(run), [f"{run} {run.state.label.lower()}: {run.summary}"])
        return DONE if run.status == RunStatus.SUCCEEDED else FAILED

    def _document(self, run: Run) -> dict[str, Any]:
        return _run_row(run) | {
            "summary": run.summary,
            "steps": [
                {"name": s.name, "status": s.status, "seconds": s.seconds, "summary": s.summary}
                for s in run.steps.all()
            ],
            "applied": run.applied,
            "backup": run.result.get("backup"),
            "replaced": run.result.get("replaced"),
            "availability": run.result.get("availability"),
            "ways": run.result.get("ways", []),
            "health": [_health(r) for r in run.health_results.order_by("observed_at")],
        }


def _row_count(text: str) -> int:
    """How many rows to list; argparse shows what is wrong with another text."""
    if not 1 <= key_from(text) <= MOST_ROWS:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {MOST_ROWS}")
    return key_from(text)


def _require_text(options: dict[str, Any]) -> None:
    """Refuse bytes of the command line that are no UTF-8: the database could not keep them."""
    for value in options.values():
        if isinstance(value, str) and any(0xDC80 <= ord(letter) <= 0xDCFF for letter in value):
            raise Refused(f"{value!a} is not UTF-8 text")


def _wait_for(
    read: Callable[[], Answer | None],
    otherwise: str = "no worker answered: is the console running?",
) -> Answer:
    """What a worker answers. Raises Refused with `otherwise` when none has in ANSWER_SECONDS."""
    end = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < end:
        if answer := read():
            return answer
        time.sleep(0.1)
    raise Refused(f"{otherwise} ({ANSWER_SECONDS} s were waited)")


def _pending_text(row: dict[str, Any]) -> str:
    if row["error"]:
        return str(row["error"])
    return f"{row['pending']} pending, {row['applied']} applied"


def _health(result: HealthResult) -> dict[str, Any]:
    return {
        "check": result.check_name,
        "phase": result.phase,
        "healthy": result.is_healthy,
        "latency_ms": result.latency_ms,
        "summary": result.summary,
        "at": result.observed_at,
    }


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "id": run.pk,
        "status": run.status,
        "kind": run.kind,
        "title": run.title,
        "environment": run.environment.path,
        "requested_by": run.asked_by,
        "reason": run.reason,
        "created_at": run.created_at,
        "seconds": run.seconds,
    }


def _log_text(line: LogLine) -> str:
    return f"{line.moment:%H:%M:%S.%f}"[:-3] + f" {line.text}"
