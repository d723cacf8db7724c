"""Plans, runs, their steps and what these printed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
from django.conf import settings
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.expressions import Expression
from django.db.models.functions import Coalesce, Now
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _g
from django.utils.translation import ngettext
from psycopg.types.json import Jsonb

from opsconsole.addresses import page
from opsconsole.environments.models import Target
from opsconsole.language import tell_again
from opsconsole.runs.choices import RunKind, RunStatus, StepStatus
from opsconsole.runs.documents import Stored
from opsconsole.sentences import Sentence, Text

# What a run of each operation is called: given the run, and its environment's name within a
# sentence. The registry of operations fills it.
TITLES: dict[str, Callable[[Run, str], str]] = {}
LINES_A_QUERY = 2000


class Plan(models.Model):
    """What was shown and is confirmed: target identity, history and the list of migrations.

    `content` is never changed after it is written; `hash` is the SHA-256 of its canonical JSON.
    """

    target = models.ForeignKey("Target", on_delete=models.PROTECT, related_name="plans")
    hash = models.CharField(max_length=64)
    content = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["target", "hash"], name="plan_once_per_target")
        ]

    def __str__(self) -> str:
        return f"plan {self.short_hash}"

    @staticmethod
    def hash_of(content: Stored) -> str:
        """SHA-256 (hex) of the content as JSON with sorted keys and no spaces."""
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def short_hash(self) -> str:
        return f"{self.hash[:4]}…{self.hash[-4:]}"

    @property
    def names(self) -> list[str]:
        return [m["name"] for m in self.content.get("migrations", [])]


class RunQuerySet(models.QuerySet["Run"]):
    def whole(self) -> RunQuerySet:
        """With what the page of one needs."""
        return self.select_related("environment__application", "requested_by", "plan")

    def for_list(self) -> RunQuerySet:
        """With what a row of a list shows, and no more: the plan of one may hold a megabyte."""
        return self.select_related("environment__application", "requested_by").only(
            *("operation", "kind", "changes_target", "status", "target"),
            *("reason", "parameters", "parameters_version", "result", "summary", "summary_parts"),
            *("created_at", "started_at", "finished_at"),
            *("requested_by__username", "environment__slug", "environment__name"),
            *("environment__application__slug", "environment__application__name"),
        )

    def newest_of(self, targets: Sequence[Target]) -> RunQuerySet:
        """The newest run of each target: one look into an index for each."""
        own = self.filter(target=models.OuterRef("pk")).order_by("-id").values("pk")[:1]
        found = Target.objects.filter(pk__in=[target.pk for target in targets])
        newest = found.order_by().values(newest=models.Subquery(own))
        return self.filter(pk__in=newest).select_related("environment")

    def holding(self, target_id: int) -> RunQuerySet:
        """Runs that keep others from changing the target."""
        return self.filter(target_id=target_id, changes_target=True, status__in=RunStatus.holding())


class Summed(models.Model):
    """What is summed up in a sentence: kept in English as it was said, and in its parts."""

    summary = models.TextField(blank=True)
    summary_parts = models.JSONField(null=True)

    class Meta:
        abstract = True

    @property
    def sentence(self) -> Text:
        """The summary as a part of another one."""
        return Sentence.read(self.summary_parts) if self.summary_parts else self.summary

    @property
    def told(self) -> str:
        """The summary for the reader."""
        return tell_again(self.summary, self.summary_parts)


def summed(text: Text) -> dict[str, object]:
    """The fields of what is summed up so."""
    parts = text.stored() if isinstance(text, Sentence) else None
    return {"summary": str(text), "summary_parts": parts}


class Run(Summed):
    """One execution of an operation against one target. Claimed once, never run again.

    `changes_target` and `excludes` are its operation's, as they were when it was requested: the
    database keeps runs apart by them, whatever becomes of the operation.
    """

    operation = models.CharField(max_length=32)
    kind = models.CharField(max_length=16)
    changes_target = models.BooleanField(default=False)
    excludes = models.CharField(max_length=32, blank=True)
    status = models.CharField(
        max_length=20, choices=RunStatus.choices, default=RunStatus.QUEUED, db_index=True
    )
    environment = models.ForeignKey("Environment", on_delete=models.PROTECT, related_name="runs")
    target = models.ForeignKey("Target", on_delete=models.PROTECT, related_name="runs")
    plan = models.ForeignKey(Plan, null=True, on_delete=models.PROTECT, related_name="runs")
    # Nobody for a run that a schedule asked for.
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+"
    )
    reason = models.CharField(max_length=500, blank=True)
    # What was asked (backup to restore, checklist as ticked), and what came of it.
    parameters = models.JSONField(default=dict)
    parameters_version = models.PositiveSmallIntegerField(default=0)
    result = models.JSONField(default=dict)
    idempotency_key = models.CharField(max_length=64, unique=True)
    # The way back that a person chose for a run that needed attention.
    way_back = models.OneToOneField(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="way_back_of"
    )

    claim_token = models.UUIDField(null=True)
    worker_name = models.CharField(max_length=200, blank=True)
    lease_expires_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)
    log_seq = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["environment", "-id"]),
            models.Index(fields=["target", "-id"], name="run_newest_of_target"),
            models.Index(
                fields=["target", "-id"],
                condition=models.Q(changes_target=True),
                name="run_newest_change",
            ),
            models.Index(fields=["kind", "-id"], name="run_newest_of_kind"),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["target"],
                condition=models.Q(
                    changes_target=True, status__in=RunStatus.holding(), way_back=None
                ),
                name="run_one_changes_a_target",
            ),
            models.UniqueConstraint(
                fields=["target", "excludes"],
                condition=models.Q(status__in=RunStatus.active()) & ~models.Q(excludes=""),
                name="run_one_active_excludes",
            ),
        ]

    def __str__(self) -> str:
        return _g("Run %(id)s") % {"id": self.pk}

    def get_absolute_url(self) -> str:
        return page("run", self.pk)

    @property
    def state(self) -> RunStatus:
        return RunStatus(self.status)

    @property
    def asked_by(self) -> str:
        return str(self.requested_by) if self.requested_by else _g("the schedule")

    @property
    def title(self) -> str:
        """What it does where; of an operation that this console no longer has, only its kind."""
        title = TITLES.get(self.operation)
        where = self.environment.name.lower()
        if title:
            return title(self, where)
        return _g("%(what)s %(where)s") % {"what": self.kind_label, "where": where}

    @property
    def kind_label(self) -> str:
        return str(RunKind(self.kind).label) if self.kind in RunKind else self.kind

    @property
    def applied(self) -> list[str]:
        return list(self.result.get("applied", []))

    @property
    def seconds(self) -> float | None:
        """How long it took, or has been going on, in seconds."""
        if not self.started_at:
            return None
        return ((self.finished_at or timezone.now()) - self.started_at).total_seconds()

    def told_of_deleted_log(self) -> str:
        """That its log was deleted for its age, "" for a run whose log is there or never was."""
        if not self.log_seq:
            return ""
        deleted = DeletedLogs.objects.filter(first_run__lte=self.pk, end_run__gt=self.pk).first()
        return deleted.told if deleted else ""

    @property
    def down_ms(self) -> float | None:
        availability = self.result.get("availability")
        return availability["down_ms"] if availability else None


class Step(Summed):
    """One part of a run. `progress` is in per cent, `eta_seconds` an estimate of what is left."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="steps")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=32)
    status = models.CharField(max_length=16, choices=StepStatus.choices, default=StepStatus.PENDING)
    progress = models.FloatField(null=True)
    eta_seconds = models.FloatField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["run", "position"], name="step_position_once")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def word(self) -> str:
        """Its name in the active language; the classes of steps mark theirs for translation."""
        return _g(self.name)

    @property
    def state(self) -> StepStatus:
        return StepStatus(self.status)

    @property
    def seconds(self) -> float | None:
        if not self.started_at:
            return None
        return ((self.finished_at or timezone.now()) - self.started_at).total_seconds()


@dataclass(frozen=True)
class LogLine:
    """One line of a run's log; `number` counts from 1, `at` is seconds since the epoch."""

    number: int
    at: float
    tone: str
    text: str

    @property
    def moment(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)


class LogChunkQuerySet(models.QuerySet["LogChunk"]):
    def read_lines(self, *, after: int = 0) -> Iterator[LogLine]:
        """The lines of one run whose number is above `after`, in order, read as they are taken.

        Takes one query for each LINES_A_QUERY lines, wherever in a log of any length they are.
        """
        while True:
            until = after + LINES_A_QUERY
            for chunk in self._holding(after + 1, until):
                for number, (at, tone, text) in enumerate(chunk.lines, chunk.first_seq):
                    if after < number <= until:
                        yield LogLine(number, at, tone, text)
                        after = number
            # Numbers have no gap, so that fewer were the last ones.
            if after < until:
                return

    def _holding(self, first: int, last: int) -> LogChunkQuerySet:
        """Chunks with these lines, found by where they begin: the key has that, and not their end.

        No server-side cursor: outside of a transaction it would set the whole rest aside first.
        """
        begun = self.filter(first_seq__lte=first).order_by("-first_seq").values("first_seq")[:1]
        begin = Coalesce(models.Subquery(begun), 0)
        return self.filter(first_seq__gte=begin, first_seq__lte=last).order_by("first_seq")


class LinesField(models.JSONField):  # type: ignore[explicit-any]  # what JSONField is one of
    """JSON written and read by orjson: a log has millions of lines, and json needs far longer."""

    def get_db_prep_value(
        self, value: object, connection: BaseDatabaseWrapper, prepared: bool = False
    ) -> object:
        return Jsonb(value, dumps=orjson.dumps)

    def from_db_value(
        self, value: str | None, expression: Expression, connection: BaseDatabaseWrapper
    ) -> object:
        return value and orjson.loads(value)

    def deconstruct(self) -> tuple[str, str, Sequence[object], dict[str, object]]:
        name, _path, args, kwargs = super().deconstruct()
        return name, "django.db.models.JSONField", args, kwargs


class LogChunk(models.Model):
    """Log lines `first_seq` to `last_seq` of a run, one row a flush.

    `lines` is a list of `[seconds since the epoch, tone, text]`, already redacted. The table is
    partitioned by ranges of `run_id`: see `runs/retention.py`.
    """

    # Without an index of its own: the constraint's begins with it.
    run = models.ForeignKey(
        Run, on_delete=models.CASCADE, related_name="log_chunks", db_index=False
    )
    first_seq = models.PositiveIntegerField()
    last_seq = models.PositiveIntegerField()
    lines = LinesField()

    objects = LogChunkQuerySet.as_manager()

    class Meta:
        ordering = ["first_seq"]
        constraints = [models.UniqueConstraint(fields=["run", "first_seq"], name="log_chunk_once")]

    def __str__(self) -> str:
        return f"lines {self.first_seq} to {self.last_seq} of run {self.run_id}"


class DeletedLogs(models.Model):
    """The logs of the runs from `first_run` to before `end_run` were deleted, for their age."""

    first_run = models.BigIntegerField()
    end_run = models.BigIntegerField()
    kept_months = models.PositiveSmallIntegerField()
    deleted_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["first_run"]

    def __str__(self) -> str:
        return f"logs of runs {self.first_run} to {self.end_run - 1}"

    @property
    def told(self) -> str:
        """What the reader of one of these runs is told where its log would be."""
        return ngettext(
            "Its log was deleted on %(day)s: logs are kept for %(n)d month.",
            "Its log was deleted on %(day)s: logs are kept for %(n)d months.",
            self.kept_months,
        ) % {
            "day": date_format(timezone.localtime(self.deleted_at), "j M Y"),
            "n": self.kept_months,
        }


def holder_of(target: Target) -> str:
    """The run that keeps others from changing the environment's database, "" for none."""
    holder = Run.objects.holding(target.pk).first()
    return str(holder) if holder else ""
