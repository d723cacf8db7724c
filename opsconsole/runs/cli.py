"""Verbs on runs, and what verbs that start one share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from opsconsole.access.permissions import authorize
from opsconsole.cli import DONE, FAILED, Call, Verb, row_count, takes
from opsconsole.environments.visibility import visible_environments
from opsconsole.exceptions import Kind, Refused
from opsconsole.formats import duration
from opsconsole.runs import services as runs
from opsconsole.runs.choices import RunStatus
from opsconsole.runs.models import LogLine, Run, Step
from opsconsole.web.keys import key_from

Document = dict[str, object]
# What other subjects add to the document of a run.
RUN_DOCUMENTS: list[Callable[[Run], Document]] = []


def starts(
    *names: str, more: Callable[[argparse.ArgumentParser], None] | None = None
) -> Callable[[argparse.ArgumentParser], None]:
    """The arguments of a verb that starts a run: these, how it is followed, and why."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--wait", action="store_true", help="follow the log to the end")
        parser.add_argument("--reason", default="", help="why; kept with the run")
        takes(*names)(parser)
        if more:
            more(parser)

    return add


def started(call: Call, run: Run) -> int:
    """Say that a run was queued, or with `--wait` follow it; the exit status."""
    if not call.options.wait:
        call.print(_row(run), [f"run {run.pk} is queued: {run.title}"])
        return DONE
    seen = 0
    while True:
        run = Run.objects.whole().get(pk=run.pk)
        if not call.options.json:
            for line in run.log_chunks.read_lines(after=seen):
                call.output.write(_log_text(line))
                seen = line.number
        if not run.state.is_moving:
            break
        time.sleep(0.3)
    call.print(_document(run), [f"{run} {run.state.label.lower()}: {run.summary}"])
    return DONE if run.status == RunStatus.SUCCEEDED else FAILED


def run_of(call: Call) -> Run:
    """The run whose number the call names. Raises Refused when the actor sees none."""
    number = key_from(str(call.options.run))
    if not number:
        raise Refused(f"{call.options.run} is not the number of a run")
    run = Run.objects.whole().filter(pk=number).first()
    if run is None:
        raise Refused(f"there is no run {call.options.run}", kind=Kind.NOT_FOUND)
    authorize(call.actor(), "console.view", run.environment)
    return run


def list_runs(call: Call) -> int:
    seen = Run.objects.for_list().filter(environment__in=visible_environments(call.actor()))
    rows = [_row(run) for run in seen[: call.options.limit]]
    call.print(rows, [f"{r['id']:>6}  {r['status']:16} {r['title']}" for r in rows])
    return DONE


def show_run(call: Call) -> int:
    run = run_of(call)
    document = _document(run)
    lines = [f"{run}: {run.title}, {run.state.label}", run.summary]
    lines += [_step_text(step) for step in run.steps.all()]
    if call.options.log:
        lines = [_log_text(line) for line in run.log_chunks.read_lines()]
        document["log"] = lines
        if deleted := run.told_of_deleted_log():
            document["log_deleted"] = deleted
            lines = [deleted]
    call.print(document, lines)
    return DONE


def cancel(call: Call) -> int:
    run = runs.request_cancel(actor=call.actor(), run=run_of(call))
    call.print(_row(run_of(call)), [f"{run} is {run.state.label.lower()}"])
    return DONE


def decide(call: Call) -> int:
    run = runs.decide_run(
        actor=call.actor(),
        run=run_of(call),
        status=RunStatus(call.options.status),
        reason=call.options.reason,
    )
    call.print(_row(run), [f"{run} is {run.state.label.lower()}"])
    return DONE


def _document(run: Run) -> Document:
    document = _row(run) | {
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
    }
    for more in RUN_DOCUMENTS:
        document |= more(run)
    return document


def _row(run: Run) -> Document:
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


def _step_text(step: Step) -> str:
    took = "" if step.seconds is None else duration(step.seconds)
    return f"  {step.name:12} {step.status:10} {took}".rstrip()


def _limit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=row_count, default=20)


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run")
    parser.add_argument("--log", action="store_true", help="print its log")


def _decide_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run")
    parser.add_argument("status", choices=["succeeded", "failed", "rolled_back"])
    parser.add_argument("--reason", required=True)


VERBS = [
    Verb("runs", "list runs, newest first", list_runs, _limit_arguments),
    Verb("run", "show one run", show_run, _show_arguments),
    Verb("cancel", "cancel a run", cancel, takes("run")),
    Verb("decide", "settle a run that needs it", decide, _decide_arguments),
]
