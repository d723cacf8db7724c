"""The audit trail: inserts only, enforced by triggers in the database."""

from __future__ import annotations

import json
import re
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django.db.models.lookups import IContains
from django.utils import translation
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from opsconsole.addresses import page
from opsconsole.events.catalogue import CATALOGUE, LOOKS, Look
from opsconsole.language import ENGLISH

# A run by its number, as people name it.
RUN = re.compile(r"run #?(\d{1,18})", re.IGNORECASE)
# So many rows are looked at one by one in a few milliseconds.
FEW = 10_000


class Words(models.Func):
    """Everything that people search an event by, in one text. Its index is made by a migration,
    where the server has pg_trgm."""

    template = "(%(expressions)s)"
    arg_joiner = " || ' ' || "
    output_field = models.TextField()

    def __init__(self) -> None:
        super().__init__("actor_label", "action", "object_label", "reason", "sentence")


class WordsBesideIndex(Words):
    """The same text, as no index has it."""

    template = "(%(expressions)s || '')"


class AuditQuerySet(models.QuerySet["AuditEvent"]):
    def matching(
        self,
        *,
        who: str = "",
        what: str = "",
        event: str = "",
        since: object = None,
        until: object = None,
        environment: models.Model | None = None,
    ) -> Self:
        """Filter by part of the actor's label, by words of the event (its key, sentence, object or
        reason; `run 6` is that run and no other), and so on.

        Rows from before sentences were kept are not found by theirs.
        """
        events = self.select_related("environment__application").only(
            *(field.attname for field in self.model._meta.concrete_fields),
            *("environment__slug", "environment__name"),
            *("environment__application__slug", "environment__application__name"),
        )
        if who:
            events = events.filter(actor_label__icontains=who)
        if run := RUN.fullmatch(what.strip()):
            events = events.filter(run=int(run[1]))
        elif what:
            events = events._having(what)
        if event:
            events = events.filter(action=event)
        if since:
            events = events.filter(occurred_at__gte=since)
        if until:
            events = events.filter(occurred_at__lt=until)
        if environment:
            events = events.filter(environment=environment)
        return events

    def _having(self, text: str) -> Self:
        """Those whose words hold the text.

        The index looks up every three letters of a text, the common ones too, which costs most of
        the time where a rare number stands among common words: then it is asked for that alone.
        """
        rare = _number_in(text)
        if not rare or self._estimate(IContains(Words(), rare)) > FEW:
            return self.filter(IContains(Words(), text))
        return self.filter(IContains(Words(), rare), IContains(WordsBesideIndex(), text))

    def _estimate(self, condition: IContains) -> int:
        """How many rows the server expects, of all."""
        plan = self.model._default_manager.filter(condition).explain(format="json")
        return int(json.loads(plan)[0]["Plan"]["Plan Rows"])


def _number_in(text: str) -> str:
    """The longest word with a digit, and the space before it, which says where it begins.

    "" where the text is a single word.
    """
    first, *others = text.split() or [""]
    words = [first, *(f" {word}" for word in others)] if others else []
    numbers = [word for word in words if any(letter.isdigit() for letter in word)]
    return max(numbers, key=len, default="")


class AuditEvent(models.Model):
    """Who did what to which object, when, from where, why, and how it ended.

    Actor and object are also kept as text, because both can be archived or renamed.
    """

    class Outcome(models.TextChoices):
        ATTEMPT = "attempt", _("Attempt")
        OK = "ok", _("Done")
        DENIED = "denied", _("Denied")
        ERROR = "error", _("Error")

    occurred_at = models.DateTimeField(db_default=Now())
    action = models.CharField(max_length=64)
    outcome = models.CharField(max_length=8, choices=Outcome.choices, default=Outcome.OK)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
    )
    actor_label = models.CharField(max_length=200)
    actor_kind = models.CharField(max_length=16)
    ip = models.GenericIPAddressField(null=True)
    user_agent = models.CharField(max_length=300, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    environment = models.ForeignKey(
        "Environment",
        null=True,
        on_delete=models.DO_NOTHING,
        db_constraint=False,
        related_name="+",
    )
    run = models.ForeignKey(
        "Run", null=True, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+"
    )
    object_type = models.CharField(max_length=64, blank=True)
    object_id = models.CharField(max_length=64, blank=True)
    object_label = models.CharField(max_length=200, blank=True)
    reason = models.TextField(blank=True)
    details = models.JSONField(default=dict)
    # As it was said then, in English; empty for rows from before sentences were kept.
    sentence = models.TextField(blank=True, db_default="")
    app_version = models.CharField(max_length=32)

    objects = AuditQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["environment", "-id"]),
            models.Index(fields=["action", "-id"]),
        ]

    def __str__(self) -> str:
        return f"{self.action} by {self.actor_label}"

    def get_absolute_url(self) -> str:
        return page("audit-event", self.pk)

    @property
    def run_url(self) -> str:
        return page("run", self.run_id) if self.run_id else ""

    @property
    def told(self) -> str:
        """What happened, in the active language; in English as it was said then."""
        language = translation.get_language() or ENGLISH
        if self.sentence and language.split("-")[0] == ENGLISH:
            return self.sentence
        return self.told_in(language)

    def told_in(self, language: str) -> str:
        """What happened, in a language; what was said then, or the key, if it is unknown here."""
        event = CATALOGUE.get(self.action)
        if event is None:
            return self.sentence or str(self)
        with translation.override(language):
            return event.told(self._names(), self.details)

    def _names(self) -> dict[str, object]:
        is_console = self.actor_kind == "system"
        return {
            "actor": gettext("The console") if is_console else self.actor_label,
            "object": self.object_label,
            "environment": SimpleLazyObject(lambda: str(self.environment or "…")),
            "run": self.run_id,
        }

    @property
    def look(self) -> Look:
        """Tone and icon: what was denied or failed looks bad, whatever the event."""
        if self.outcome in {self.Outcome.DENIED, self.Outcome.ERROR}:
            return LOOKS["bad"]
        event = CATALOGUE.get(self.action)
        return LOOKS[event.tone if event else "idle"]

    def changes(self) -> list[tuple[str, Any, Any]]:
        """Each setting that this act changed, with its value before and after (None: not set)."""
        before, after = self.details.get("before") or {}, self.details.get("after") or {}
        return [
            (name, before.get(name), after.get(name))
            for name in sorted({**before, **after})
            if before.get(name) != after.get(name)
        ]

    def facts(self) -> dict[str, Any]:
        """What else was recorded with it, by name."""
        return {k: v for k, v in sorted(self.details.items()) if k not in {"before", "after"}}
