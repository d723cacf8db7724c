"""Moments by the database's clock, the only one that all processes share, and people's zones."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import available_timezones

from django.db.models import DateTimeField, DurationField, ExpressionWrapper, Func, Value
from django.db.models.functions import Now


def in_seconds(seconds: float) -> ExpressionWrapper:
    """The database's clock plus some seconds, as an expression."""
    return ExpressionWrapper(
        Now() + Value(timedelta(seconds=seconds)), output_field=DateTimeField()
    )


def months_ago(months: int) -> ExpressionWrapper:
    """The database's clock minus months of the calendar, as an expression."""
    interval = Func(
        Value(months),
        template="make_interval(months => %(expressions)s)",
        output_field=DurationField(),
    )
    return ExpressionWrapper(Now() - interval, output_field=DateTimeField())


def time_zones() -> list[str]:
    """The names of time zones that a person may choose: no aliases of machines."""
    return sorted(name for name in available_timezones() if "/" in name or name == "UTC")
