"""Cron expressions with a time zone: when they are due, and what they say in words. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cron_descriptor import Options, get_description
from croniter import CroniterError, croniter
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

# What each field of an expression is, and what it may be.
PARTS = (
    (gettext_lazy("minute"), "0-59"),
    (gettext_lazy("hour"), "0-23"),
    (gettext_lazy("day of the month"), "1-31"),
    (gettext_lazy("month"), "1-12"),
    (gettext_lazy("day of the week"), "0-6, sun-sat"),
)


class BadCron(ValueError):
    """The text is no cron expression of five fields; the message says so."""


def check(expression: str) -> None:
    """Raise BadCron unless it is five fields (minute hour day month weekday) that can come due."""
    if len(expression.split()) != 5:
        raise BadCron(_("give five fields: minute, hour, day of the month, month, day of the week"))
    for place, (part, (name, most)) in enumerate(zip(expression.split(), PARTS, strict=True)):
        alone = ["*"] * 5
        alone[place] = part
        try:
            croniter(" ".join(alone))
        except (CroniterError, ValueError, KeyError):
            raise BadCron(
                _(
                    "%(part)s is no %(name)s: give %(most)s, * for every one, or */2 for every second"
                )
                % {"part": part, "name": name, "most": most}
            ) from None
    try:
        croniter(expression).get_next(datetime)
    except (CroniterError, ValueError, KeyError):
        raise BadCron(_("it never comes due: no month has such a day")) from None


def in_words(expression: str) -> str:
    """The expression in English, 24 hours: `At 03:00, only on Sunday`."""
    options = Options()
    options.use_24hour_time_format = True
    return str(get_description(expression, options))


def last_due(expression: str, time_zone: str, now: datetime) -> datetime:
    """The newest moment at or before `now` (aware) at which the expression was due."""
    local = now.astimezone(ZoneInfo(time_zone))
    # A second later, so that a moment that is due right now counts.
    return _aware(croniter(expression, local + timedelta(seconds=1)).get_prev(datetime))


def next_due(expression: str, time_zone: str, now: datetime) -> datetime:
    """The first moment after `now` at which the expression is due."""
    return _aware(croniter(expression, now.astimezone(ZoneInfo(time_zone))).get_next(datetime))


def interval(expression: str, time_zone: str, now: datetime) -> timedelta:
    """The time between the next two moments at which it is due."""
    first = next_due(expression, time_zone, now)
    return next_due(expression, time_zone, first) - first


def _aware(moment: datetime) -> datetime:
    return moment.astimezone(ZoneInfo("UTC"))
